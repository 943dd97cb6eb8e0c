"""Mean squared error over the masked patches of a reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._forward_gradient import differentiable_with_forward_gradient, wants_gradient
from survcore.ops._masks import check_marks, check_mask, check_positions
from survcore.reference import masked_mse as _reference
from survcore.reference.masked_bce_with_logits import counted_entries


def masked_mse(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    observed: Tensor | None = None,
    positions: str = "masked",
    validate: bool = False,
) -> Tensor:
    """Mean over the scored patches of the batch of the mean squared error of a patch (impuTMAE, eq. 2).

    One modality per call, whose losses impuTMAE adds up without weights. Patches that are not scored are never read and
    have no gradient; without any the loss is 0. An infinite difference makes the loss infinite, NaN makes it NaN.

    Args:
        prediction: [B, P, L], P patches of L values; float32 or float64; float16 and bfloat16 are computed in float32.
        target: [B, P, L], without gradient; computed in the type of the prediction.
        mask: [B, P], bool or uint8; 1 where the patch was hidden from the encoder. None for positions "all".
        observed: [B, P], or [B] where a patient has all patches or none, bool or uint8; 0 where there is no patch,
            which is never scored. None: there are all.
        positions: which patches are scored: "masked", "visible" (the others) or "all".
        validate: check the values first (synchronises with the device) and raise an error that names row and patch.

    ``mask`` and ``observed`` [B, P] may be packed with :func:`survcore.ops.pack_bits`.

    Returns:
        The loss, a scalar; float32 for a half-precision prediction, else its type. It has a first derivative with
        respect to the prediction.

    Raises:
        ValueError: shapes, devices or options are wrong; with ``validate``, a scored value is NaN.
        TypeError: prediction or target are not floating, or marks are neither bool nor uint8.
    """
    if observed is not None and observed.dim() == 1 and observed.shape == prediction.shape[:1]:
        observed = observed.unsqueeze(1).expand(-1, prediction.shape[1])
    _check(prediction, target, mask, observed, positions)
    if mask is None:
        mask = prediction.new_empty(0, dtype=torch.bool)
    if observed is None:
        observed = prediction.new_empty(0, dtype=torch.bool)
    if validate:
        _check_values(prediction, target, mask, observed, positions)
    with_gradient = wants_gradient(prediction)
    return _apply(prediction, target, mask, observed, positions, with_gradient)[0]


def _check(prediction: Tensor, target: Tensor, mask: Tensor | None, observed: Tensor | None, positions: str) -> None:
    if prediction.dim() != 3 or 0 in prediction.shape[1:]:
        raise ValueError(f"prediction must be [B, P, L] with P, L >= 1, got shape {tuple(prediction.shape)}")
    for name, value in (("prediction", prediction), ("target", target)):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating, got {value.dtype}")
    if target.shape != prediction.shape:
        raise ValueError(
            f"target must have the shape of the prediction, {tuple(prediction.shape)}, got {tuple(target.shape)}"
        )
    if target.device != prediction.device:
        raise ValueError(f"target is on {target.device}, prediction on {prediction.device}: expected one device")
    check_positions(positions)
    check_mask(positions, mask)
    if mask is not None:
        check_marks("mask", mask, "patches", prediction.shape[:2], prediction.device)
    if observed is not None:
        check_marks("observed", observed, "patches", prediction.shape[:2], prediction.device)


def _check_values(prediction: Tensor, target: Tensor, mask: Tensor, observed: Tensor, positions: str) -> None:
    scored = counted_entries(torch.Size((1, *prediction.shape[:2])), mask, observed, positions)[0]
    for name, value in (("prediction", prediction), ("target", target)):
        wrong = value.detach().isnan().any(-1) & scored
        if wrong.any():
            row, patch = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name} must not be NaN where it is scored, got NaN in row {row}, patch {patch} "
                f"(of {int(wrong.sum())} such patches)"
            )


@torch.library.register_fake("survcore::masked_mse")
def _fake(
    prediction: Tensor, target: Tensor, mask: Tensor, observed: Tensor, positions: str, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    gradient = prediction.new_empty(prediction.shape if with_gradient else (0,), dtype=dtype)
    return prediction.new_empty((), dtype=dtype), gradient


@torch.library.register_fake("survcore::masked_mse_backward")
def _fake_backward(grad_loss: Tensor, gradient: Tensor) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


_apply = differentiable_with_forward_gradient("masked_mse")
_library.serve_cuda("masked_mse", _reference.masked_mse, triton=True)
_library.serve_cuda("masked_mse_backward", _reference.masked_mse_backward)
