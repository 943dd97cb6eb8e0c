"""Binary cross-entropy over the masked entries of a reconstruction, one mean per view and modality."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import index

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._forward_gradient import differentiable_with_forward_gradient, wants_gradient
from survcore.ops._masks import check_marks, check_mask, check_positions
from survcore.reference import masked_bce_with_logits as _reference


def masked_bce_with_logits(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    observed: Tensor | None = None,
    pos_weight: Tensor | float | None = None,
    sizes: Sequence[int] | None = None,
    positions: str = "masked",
    reduction: str = "none",
    validate: bool = False,
) -> Tensor:
    """Masked binary cross-entropy of logits [V, B, D]: V views of B patients, D columns that belong to M modalities.

    For each view and modality ``sum(l) / (count + 1e-8)`` over its scored entries in the whole batch, with
    ``l = w t softplus(-x) + (1 - t) softplus(x)`` and w the column's ``pos_weight``: the reconstruction loss of
    Surv-M2AC (eq. 1). Its released code scores the masked entries, the printed equation the visible ones. Entries that
    are not scored are never read and have no gradient; without any the loss is 0. Infinite logits give the limit of the
    formula, NaN gives NaN.

    Args:
        logits: [V, B, D], or [B, D] for one view; float32 or float64; float16 and bfloat16 are computed in float32.
        target: [B, D], the same for all views, or [V, B, D], without gradient: bool or integers, where any but 0 is 1,
            or floating with values within 0..1. See below for packed bits.
        mask: bool or uint8 of such a shape; 1 where the entry was hidden from the encoder. None for positions "all".
        observed: bool or uint8 of such a shape, or [B] where a patient has all entries or none; 0 where there is no
            entry (an absent modality, a missing value), which is never scored. None: there are all.
        pos_weight: weight of positive targets, [D] or one number, at least 0; as torch.nn.BCEWithLogitsLoss has it.
        sizes: columns of each modality, in their order; their sum is D. None: one modality.
        positions: which entries are scored: "masked", "visible" (the others) or "all".
        reduction: "none": the losses [V, M]; "mean": their mean over views, summed over modalities.
        validate: check the values first (synchronises with the device) and raise an error that names view and row.

    ``target``, ``mask`` and ``observed`` may each be packed with :func:`pack_bits` into uint8 [..., ceil(D / 8)], an
    eighth of the memory.

    Returns:
        The losses [V, M] (V = 1 for logits [B, D]), or a scalar for reduction "mean"; float32 for half-precision
        logits, else their type. They have a first derivative with respect to the logits.

    Raises:
        ValueError: shapes, devices or options are wrong; with ``validate``, a scored logit that is NaN, a scored target
            outside 0..1 or a negative weight.
        TypeError: logits are not floating, or marks are neither bool nor uint8.
    """
    if observed is not None and observed.dim() == 1 and observed.shape == logits.shape[-2:-1]:
        observed = observed.unsqueeze(1).expand(-1, logits.shape[-1])
    boundaries = _check(logits, target, mask, observed, sizes, positions, reduction)
    if pos_weight is None:
        pos_weight = logits.new_empty(0)  # new for each call: one kept from an earlier call may belong to another mode
    else:
        pos_weight = _weight(pos_weight, logits)
    if mask is None:
        mask = logits.new_empty(0, dtype=torch.bool)
    if observed is None:
        observed = logits.new_empty(0, dtype=torch.bool)
    if validate:
        _check_values(logits, target, mask, observed, pos_weight, positions)
    with_gradient = wants_gradient(logits)
    return _apply(logits, target, mask, observed, pos_weight, boundaries, positions, reduction, with_gradient)[0]


def pack_bits(values: Tensor) -> Tensor:
    """Marks [..., D] as bits, uint8 [..., ceil(D / 8)]: column j is bit j % 8 (0 the lowest) of byte j // 8, set where
    the value is not 0."""
    values = values != 0
    columns = values.shape[-1]
    values = torch.nn.functional.pad(values, (0, -columns % 8)).unflatten(-1, (-1, 8))
    return (values.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=values.device)).sum(
        -1, dtype=torch.uint8
    )


def _check(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    observed: Tensor | None,
    sizes: Sequence[int] | None,
    positions: str,
    reduction: str,
) -> Tensor:
    """The first column of each modality, and D; empty for one modality."""
    if logits.dim() not in (2, 3) or logits.shape[-1] == 0:
        raise ValueError(f"logits must be [V, B, D] or [B, D] with D >= 1, got shape {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, got {logits.dtype}")
    check_options(positions, reduction)
    check_mask(positions, mask)
    check_marks("target", target, "logits", logits.shape, logits.device, any_type=True)
    if mask is not None:
        check_marks("mask", mask, "logits", logits.shape, logits.device)
    if observed is not None:
        check_marks("observed", observed, "logits", logits.shape, logits.device)
    if sizes is None:
        return torch.empty(0, dtype=torch.int64)
    try:
        limits = [0, *accumulate(index(size) for size in sizes)]
    except TypeError:
        raise TypeError(f"sizes must be whole numbers, the columns of each modality, got {sizes!r}") from None
    if len(limits) == 1 or min(sizes) < 0 or limits[-1] != logits.shape[-1]:
        raise ValueError(f"sizes must be the columns of each modality, {logits.shape[-1]} in all, got {tuple(sizes)}")
    return torch.tensor(limits)


def check_options(positions: str, reduction: str) -> None:
    """Raise ValueError unless each is one of its options."""
    check_positions(positions)
    if reduction not in ("none", "mean"):
        raise ValueError(f"reduction must be 'none' or 'mean', got {reduction!r}")


def _weight(pos_weight: Tensor | float, logits: Tensor) -> Tensor:
    if isinstance(pos_weight, int | float):
        return logits.new_full((1,), pos_weight)
    if not isinstance(pos_weight, Tensor) or pos_weight.is_complex():
        raise TypeError(f"pos_weight must be a number or a real tensor, got {pos_weight!r}")
    if pos_weight.dim() > 1 or (pos_weight.dim() == 1 and pos_weight.shape[0] != logits.shape[-1]):
        raise ValueError(
            f"pos_weight must be one number or one per column of logits, [{logits.shape[-1]}], "
            f"got shape {tuple(pos_weight.shape)}"
        )
    if pos_weight.device != logits.device:
        raise ValueError(f"pos_weight is on {pos_weight.device}, logits on {logits.device}: expected one device")
    return pos_weight if pos_weight.dim() else pos_weight.reshape(1)


def _check_values(
    logits: Tensor, target: Tensor, mask: Tensor, observed: Tensor, pos_weight: Tensor, positions: str
) -> None:
    if pos_weight.numel() and not (pos_weight >= 0).all():
        column = int((~(pos_weight >= 0)).nonzero()[0, 0])
        raise ValueError(f"pos_weight must be at least 0, got {pos_weight[column].item()} in column {column}")
    values = _reference.by_view(logits.detach())
    scored = _reference.counted_entries(values.shape, mask, observed, positions)
    checks = [(values.isnan() & scored, values, "logits must not be NaN")]
    if target.is_floating_point():
        targets = target.expand(values.shape)
        checks.append((~((targets >= 0) & (targets <= 1)) & scored, targets, "target must be within 0..1"))
    for wrong, where, expected in checks:
        if wrong.any():
            view, row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{expected} where it is scored, got {where[view, row, column].item()} in view {view}, row {row}, "
                f"column {column} (of {int(wrong.sum())} such entries)"
            )


@torch.library.register_fake("survcore::masked_bce_with_logits")
def _fake(
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    observed: Tensor,
    pos_weight: Tensor,
    boundaries: Tensor,
    positions: str,
    reduction: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    views = logits.shape[0] if logits.dim() == 3 else 1
    modalities = boundaries.numel() - 1 if boundaries.numel() else 1
    loss = logits.new_empty(() if reduction == "mean" else (views, modalities), dtype=dtype)
    return loss, logits.new_empty(logits.shape if with_gradient else (0,), dtype=dtype)


@torch.library.register_fake("survcore::masked_bce_with_logits_backward")
def _fake_backward(grad_loss: Tensor, gradient: Tensor, boundaries: Tensor) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


_apply = differentiable_with_forward_gradient("masked_bce_with_logits", backward_inputs=(5,))
_library.serve_cuda("masked_bce_with_logits", _reference.masked_bce_with_logits, triton=True)
_library.serve_cuda("masked_bce_with_logits_backward", _reference.masked_bce_with_logits_backward, triton=True)
