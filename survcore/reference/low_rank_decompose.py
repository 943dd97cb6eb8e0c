"""Plain PyTorch definition of low_rank_decompose and of its gradient: the kernels' oracle and their documentation."""

from __future__ import annotations

import torch
from torch import Tensor

COSINE_EPSILON = 1e-8


def low_rank_decompose(
    basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Modality-specific and shared low-rank parts of representations (MUST, eqs. 8-10 and 13-15, for M modalities).

    With P = B B^T, u_hat_m = (I - P) u_m and c_hat_{m<-n} = P c_{m<-n}. What a row lacks is never read and is zero in
    the output.

    Args:
        basis: B, [D, r].
        whole: g_m, [M, B, D].
        specific: u_m, [M, B, D].
        cross: c_{m<-n} at [m, n] (queries of m, keys and values of n), [M, M, B, D]; the diagonal is never read.
        availability: bool [B, M].

    Returns:
        u_hat [M, B, D], c_hat [M, M, B, D] (zero diagonal) and the decomposition, shared and orthogonality losses, [3]
        (float32 for half-precision inputs).
    """
    dtype = torch.promote_types(whole.dtype, torch.float32)
    basis = basis.to(dtype)
    owned, pair, once = _masks(availability)
    specific_kept, cross_kept = _keep(specific.to(dtype), owned), _keep(cross.to(dtype), pair)
    specific_hat = specific_kept - _project(specific_kept, basis)
    cross_hat = _project(cross_kept, basis)

    residual, accompanied, _ = _residual(whole.to(dtype), specific_hat, cross_hat, pair)
    decomposition_loss = _mean_over_rows(residual.square().sum(-1), accompanied)

    difference = cross_hat - cross_hat.transpose(0, 1)
    shared_loss = _mean_over_rows(difference.square().sum(-1), once)

    # Both |cos(u_hat_m, c_hat_{m<-n})| of an unordered pair are the entries [m, n] and [n, m] of one array.
    between = _cosine(specific_hat.unsqueeze(1), specific_hat.unsqueeze(0)).abs()
    within = _cosine(specific_hat.unsqueeze(1), cross_hat).abs()
    orthogonality_loss = _mean_over_rows(between, once) + _mean_over_rows(within, pair)

    losses = torch.stack((decomposition_loss, shared_loss, orthogonality_loss))
    return specific_hat.to(specific.dtype), cross_hat.to(cross.dtype), losses


def low_rank_decompose_backward(
    grad_specific: Tensor,
    grad_cross: Tensor,
    grad_losses: Tensor,
    basis: Tensor,
    whole: Tensor,
    specific: Tensor,
    cross: Tensor,
    availability: Tensor,
    specific_hat: Tensor,
    cross_hat: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of basis, whole, specific and cross, from those of the three results (an empty tensor means none).

    The projected parts are made again: those that forward returned are rounded in half precision.
    """
    dtype = torch.promote_types(whole.dtype, torch.float32)
    wide_basis = basis.to(dtype)
    owned, pair, _ = _masks(availability)
    specific_kept, cross_kept = _keep(specific.to(dtype), owned), _keep(cross.to(dtype), pair)
    specific_hat = specific_kept - _project(specific_kept, wide_basis)
    cross_hat = _project(cross_kept, wide_basis)
    by_decomposition, by_shared, by_orthogonality = (
        grad_losses if grad_losses.numel() else whole.new_zeros(3, dtype=dtype)
    )

    # G, the gradients of the projected parts.
    to_specific = _keep(grad_specific.to(dtype), owned) if grad_specific.numel() else torch.zeros_like(specific_hat)
    to_cross = _keep(grad_cross.to(dtype), pair) if grad_cross.numel() else torch.zeros_like(cross_hat)

    residual, accompanied, others = _residual(whole.to(dtype), specific_hat, cross_hat, pair)
    grad_whole = 2 * by_decomposition * _row_weight(accompanied, dtype) * residual
    to_specific = to_specific - grad_whole
    to_cross = to_cross - _keep(grad_whole / others, pair)

    # The weight of a pair is the same in both orders, and so is that of its two directions.
    weight = _row_weight(pair, dtype)
    to_cross = to_cross + 2 * by_shared * weight * (cross_hat - cross_hat.transpose(0, 1))

    between, _ = _cosine_gradients(specific_hat.unsqueeze(1), specific_hat.unsqueeze(0))
    of_specific, of_cross = _cosine_gradients(specific_hat.unsqueeze(1), cross_hat)
    to_specific = to_specific + by_orthogonality * (weight * (between + of_specific)).sum(1)
    to_cross = to_cross + by_orthogonality * weight * of_cross

    # x -> x B B^T: its gradient is G B B^T, that of the basis X^T (G B) + G^T (X B).
    grad_basis = _basis_gradient(cross_kept, to_cross, wide_basis) - _basis_gradient(
        specific_kept, to_specific, wide_basis
    )
    return (
        grad_basis.to(basis.dtype),
        grad_whole.to(whole.dtype),
        (to_specific - _project(to_specific, wide_basis)).to(specific.dtype),
        _project(to_cross, wide_basis).to(cross.dtype),
    )


def _masks(availability: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that own m [M, B], both m and n != m [M, M, B], and the latter for m < n only [M, M, B]."""
    owned = availability.T
    distinct = ~torch.eye(owned.shape[0], dtype=torch.bool, device=owned.device)
    pair = owned.unsqueeze(1) & owned.unsqueeze(0) & distinct.unsqueeze(-1)
    return owned, pair, pair & distinct.triu().unsqueeze(-1)


def _residual(whole: Tensor, specific_hat: Tensor, cross_hat: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g_m - u_hat_m - mean over the other n of c_hat_{n<-m}; where it exists [M, B]; others or 1, [M, B, 1]."""
    others = pair.sum(0)
    accompanied = others > 0
    others = others.clamp(min=1).unsqueeze(-1)
    residual = _keep(whole, accompanied) - _keep(specific_hat, accompanied) - cross_hat.sum(0) / others
    return residual, accompanied, others


def _keep(values: Tensor, mask: Tensor) -> Tensor:
    """Zero where the mask is False; NaN behind the mask reaches neither the value nor the gradient."""
    return torch.where(mask.unsqueeze(-1), values, 0.0)


def _project(values: Tensor, basis: Tensor) -> Tensor:
    """P x for each row x, without forming P."""
    return (values @ basis) @ basis.T


def _basis_gradient(values: Tensor, gradients: Tensor, basis: Tensor) -> Tensor:
    values, gradients = values.flatten(0, -2), gradients.flatten(0, -2)
    return values.T @ (gradients @ basis) + gradients.T @ (values @ basis)


def _mean_over_rows(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over all leading dimensions of the mean over the rows of the mask; no row gives 0."""
    total = torch.where(mask, values, 0.0).sum(-1)
    return (total / mask.sum(-1).clamp(min=1)).sum()


def _row_weight(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What a row counts in the mean over the rows of the mask, [..., B, 1]."""
    return (mask.to(dtype) / mask.sum(-1, keepdim=True).clamp(min=1)).unsqueeze(-1)


def _norms(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return torch.linalg.vector_norm(left, dim=-1), torch.linalg.vector_norm(right, dim=-1)


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of paired rows with norms held above 1e-8."""
    left_norm, right_norm = _norms(left, right)
    held = left_norm.clamp(min=COSINE_EPSILON) * right_norm.clamp(min=COSINE_EPSILON)
    return (left * right).sum(-1) / held


def _cosine_gradients(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of |cos| on both sides; a norm held at 1e-8 is constant, and the subgradient at 0 is 0."""
    left_norm, right_norm = (norm.unsqueeze(-1) for norm in _norms(left, right))
    cosine = _cosine(left, right).unsqueeze(-1)
    held = left_norm.clamp(min=COSINE_EPSILON) * right_norm.clamp(min=COSINE_EPSILON)

    def gradient(own: Tensor, other: Tensor, own_norm: Tensor) -> Tensor:
        along = torch.where(own_norm < COSINE_EPSILON, 0.0, cosine / own_norm.square()) * own
        return cosine.sign() * (other / held - along)

    return gradient(left, right, left_norm), gradient(right, left, right_norm)
