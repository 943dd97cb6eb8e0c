"""Low-rank decomposition of multimodal representations into specific and shared parts (MUST)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._autograd import differentiable
from survcore.reference import low_rank_decompose as _reference


class LowRankDecomposition(NamedTuple):
    """Projected parts and losses of :func:`low_rank_decompose`.

    Attributes:
        specific: u_hat [M, B, D], zero where a row lacks the modality.
        cross: c_hat [M, M, B, D], zero on the diagonal and where a row lacks either modality.
        decomposition_loss: scalar, distance of g_m from u_hat_m plus what the other modalities hold of m.
        shared_loss: scalar, distance of the two directions of each pair.
        orthogonality_loss: scalar, absolute cosines between parts that should not overlap.
    """

    specific: Tensor
    cross: Tensor
    decomposition_loss: Tensor
    shared_loss: Tensor
    orthogonality_loss: Tensor


def low_rank_decompose(
    basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor
) -> LowRankDecomposition:
    """Split the representations of M modalities into specific parts and parts in a shared subspace of rank r.

    With P = B B^T (never formed), u_hat_m = u_m - P u_m for rows that own m, and c_hat_{m<-n} = P c_{m<-n} for rows
    that own both m and n. Means run over the rows that own m and another modality, or both m and n; a term without
    rows is 0::

        decomposition_loss = sum_m mean |g_m - u_hat_m - mean_{n != m, owned} c_hat_{n<-m}|^2
        shared_loss        = sum_{m<n} mean |c_hat_{m<-n} - c_hat_{n<-m}|^2
        orthogonality_loss = sum_{m<n} mean |cos(u_hat_m, u_hat_n)| + |cos(u_hat_m, c_hat_{m<-n})|
                                            + |cos(u_hat_n, c_hat_{n<-m})|

    with squared l2 norms (sums over D) and norms in the cosine held above 1e-8. Values of modalities that a row lacks
    are never read and may be NaN; their gradient is 0, as is the subgradient of a cosine at 0.

    Args:
        basis: B [D, r], float32 or float64; float16 and bfloat16 are computed in float32. P is a projection only if its
            columns are orthonormal (:func:`torch.nn.utils.parametrizations.orthogonal`); a free basis is allowed.
        whole: g_m, [M, B, D].
        specific: u_m, [M, B, D].
        cross: c_{m<-n} at [m, n], queries of m with keys and values of n, [M, M, B, D]; its diagonal is never read.
        availability: bool [B, M], which modalities a row owns.

    Returns:
        The projected parts in the dtype of the inputs, and the losses (float32 for half-precision inputs). All are
        differentiable, once, with respect to basis, whole, specific and cross.

    Raises:
        ValueError: shapes or devices do not fit together.
        TypeError: availability is not bool, or the other tensors are not of one floating dtype.

    Source: MUST, eqs. 8-10 and 13-15 for M = 2 (eq. 15 pairs u_hat_m with c_hat_{m<-n}, eq. 13 with c_hat_{n<-m}).
    """
    _check(basis, whole, specific, cross, availability)
    specific_hat, cross_hat, losses = _apply(basis, whole, specific, cross, availability)
    return LowRankDecomposition(specific_hat, cross_hat, *losses.unbind())


def _check(basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor) -> None:
    if whole.dim() != 3 or basis.dim() != 2:
        raise ValueError(
            f"whole must be [M, B, D] and basis [D, r], got shapes {tuple(whole.shape)} and {tuple(basis.shape)}"
        )
    modalities, rows, width = whole.shape
    if modalities == 0 or width == 0:
        raise ValueError(f"whole must be [M, B, D] with M >= 1 and D >= 1, got shape {tuple(whole.shape)}")
    if basis.shape[1] == 0:
        raise ValueError(f"basis must be [D, r] with r >= 1, got shape {tuple(basis.shape)}")
    expected = {
        "basis": (basis, (width, basis.shape[1])),
        "specific": (specific, (modalities, rows, width)),
        "cross": (cross, (modalities, modalities, rows, width)),
        "availability": (availability, (rows, modalities)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape} for whole of shape {tuple(whole.shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.device != whole.device:
            raise ValueError(f"{name} is on {tensor.device}, whole on {whole.device}")
        if name != "availability" and tensor.dtype != whole.dtype:
            raise TypeError(f"{name} is {tensor.dtype}, whole {whole.dtype}: expected one dtype")
    if not whole.is_floating_point():
        raise TypeError(f"whole must be floating, got {whole.dtype}")
    if availability.dtype != torch.bool:
        raise TypeError(f"availability must be bool, got {availability.dtype}")


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    specific_hat, cross_hat, _ = output
    ctx.save_for_backward(*inputs, specific_hat, cross_hat)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_specific: Tensor | None, grad_cross: Tensor | None, grad_losses: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    absent = saved[0].new_empty(0)
    grads = (absent if grad is None else grad for grad in (grad_specific, grad_cross, grad_losses))
    return (*torch.ops.survcore.low_rank_decompose_backward(*grads, *saved), None)


@torch.library.register_fake("survcore::low_rank_decompose")
def _fake(
    basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    losses = whole.new_empty(3, dtype=torch.promote_types(whole.dtype, torch.float32))
    return specific.new_empty(specific.shape), cross.new_empty(cross.shape), losses


@torch.library.register_fake("survcore::low_rank_decompose_backward")
def _fake_backward(
    grad_specific: Tensor, grad_cross: Tensor, grad_losses: Tensor, *saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    basis, whole, specific, cross = (tensor.new_empty(tensor.shape) for tensor in saved[:4])
    return basis, whole, specific, cross


_apply = differentiable("low_rank_decompose", setup_context=_setup_context, backward=_backward)
_library.serve_cuda("low_rank_decompose", _reference.low_rank_decompose, triton=True)
_library.serve_cuda("low_rank_decompose_backward", _reference.low_rank_decompose_backward, triton=True)
