"""Plain PyTorch definition of deephit_loss and of its gradient, with the op's schemas: over all pairs of rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """What of the rows' columns counts as what. C = R * K columns, cause r (from 0) and bin b in column r * K + b.

    Attributes:
        own: int64 [B], the column of the row's event, or of cause 0 for a row without one.
        observed: bool [B], has an event.
        possible: bool [B, C], the outcomes that observation leaves possible.
        later: bool [B, B], row j (second) is compared with the event of row i (first).
        weight: [B].
        factor: [B], the weight, or NaN for an invalid row that has a weight.
    """

    own: Tensor
    observed: Tensor
    possible: Tensor
    later: Tensor
    weight: Tensor
    factor: Tensor


class Probabilities(NamedTuple):
    """Of rows with logits x [B, C] and one more logit, 0.

    Attributes:
        p: [B, C], of each column.
        cumulative: [B, C], F.
        if_possible: [B, C], of each column given that the outcome is a possible one; of censored rows.
        own: [B], log of the probability of column ``own``.
        of_possible: [B], log of the probability of all possible outcomes; of censored rows.
    """

    p: Tensor
    cumulative: Tensor
    if_possible: Tensor
    own: Tensor
    of_possible: Tensor


def deephit_loss(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    alpha: float = 0.2,
    sigma: float = 0.1,
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """DeepHit's loss as :func:`survcore.ops.deephit_loss` describes it, with a table of all pairs of rows.

    Returns:
        The loss, a scalar, float32 for half-precision logits, and its gradient in the shape of the logits, without
        ``with_gradient`` that of no rows.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    causes = logits.shape[1] if logits.dim() == 3 else 1
    x = logits.to(dtype).flatten(1)
    rows = _rows(x, causes, time_bin, event, weights)
    values = _probabilities(x, causes, rows)
    divisor = rows.weight.sum()
    divisor = torch.where(divisor == 0, torch.ones_like(divisor), divisor)

    loss = -torch.where(rows.observed, values.own, values.of_possible)
    # Where an infinite logit takes all probability, nothing is left for the possible outcomes of finite logits.
    certain = x == torch.inf
    loss = loss + torch.where(certain.any(1) & ~(certain & rows.possible).any(1), torch.inf, 0.0)
    likelihood = torch.where(rows.factor == 0, 0.0, rows.factor * loss).sum() / divisor
    if alpha == 0:
        likelihood = torch.where(likelihood.isnan(), likelihood, 0.0)
    total = alpha * likelihood if alpha else likelihood
    pairs = _pairs(values.cumulative, rows, alpha, sigma, divisor)
    total = total + pairs.sum()
    if not with_gradient:
        return total, logits.new_empty((0, *logits.shape[1:]), dtype=dtype)

    with torch.no_grad():
        by_row = pairs.sum(1) / sigma
        ranking = torch.zeros_like(x).index_add(1, rows.own, pairs.T / sigma)
        ranking.scatter_add_(1, rows.own.unsqueeze(1), -by_row.unsqueeze(1))
        after = ranking.unflatten(1, (causes, -1)).flip(2).cumsum(2).flip(2).flatten(1)
        mean = (values.p * after).sum(1, keepdim=True)
        own = torch.zeros_like(x).scatter(1, rows.own.unsqueeze(1), 1.0)
        if_possible = torch.where(rows.observed.unsqueeze(1), own, values.if_possible)
        gradient = values.p * (after - mean) + (alpha / divisor * rows.factor).unsqueeze(1) * (values.p - if_possible)
    return total, gradient.view(logits.shape)


def deephit_loss_backward(grad_loss: Tensor, gradient: Tensor) -> Tensor:
    """The gradient that forward has found, times that of the loss."""
    return (grad_loss.to(gradient.dtype) * gradient).contiguous()


def _rows(x: Tensor, causes: int, time_bin: Tensor, event: Tensor, weights: Tensor) -> Rows:
    count, columns = x.shape
    bins = columns // causes
    defined = (event.double() == event.double().floor()) & (event >= 0) & (event <= causes)
    valid = (time_bin >= 0) & (time_bin < bins) & defined
    cause = torch.where(valid, torch.where(defined, event, 0).long(), 0)
    bin_of = torch.where(valid, time_bin, 0)
    observed = cause > 0
    own = (cause - 1).clamp(min=0) * bins + bin_of
    weight = weights.to(x.dtype) if weights.numel() else torch.ones(count, dtype=x.dtype, device=x.device)
    factor = torch.where(weight == 0, 0.0, torch.where(valid, weight, torch.nan))

    column = torch.arange(columns, device=x.device)
    after_own_bin = column % bins > bin_of.unsqueeze(1)
    possible = torch.where(observed.unsqueeze(1), column == own.unsqueeze(1), after_own_bin)
    later = bin_of.unsqueeze(1) < bin_of
    later = later | (bin_of.unsqueeze(1) == bin_of) & (cause == 0)
    later = later & (observed & (weight != 0)).unsqueeze(1) & valid
    return Rows(own, observed, possible, later, weight, factor)


def _probabilities(x: Tensor, causes: int, rows: Rows) -> Probabilities:
    finite = x.clone()
    finite.data.clamp_(max=torch.finfo(x.dtype).max)  # past autograd: the derivative stays 1, of +inf too
    beyond = torch.zeros_like(finite[:, :1])
    # Each sum less its own largest term, which may be far from the other's.
    everything, largest = _less_largest(torch.cat((finite, beyond), 1))
    possible, largest_possible = _less_largest(torch.cat((torch.where(rows.possible, finite, -torch.inf), beyond), 1))
    p = everything.softmax(1)[:, :-1]
    of_all = everything.logsumexp(1)
    return Probabilities(
        p=p,
        cumulative=p.unflatten(1, (causes, -1)).cumsum(2).flatten(1),
        if_possible=possible.softmax(1)[:, :-1],
        own=everything.gather(1, rows.own.unsqueeze(1)).squeeze(1) - of_all,
        of_possible=largest_possible - largest + (possible.logsumexp(1) - of_all),
    )


def _less_largest(values: Tensor) -> tuple[Tensor, Tensor]:
    largest = values.detach().amax(1)
    return values - largest.unsqueeze(1), largest


def _pairs(cumulative: Tensor, rows: Rows, alpha: float, sigma: float, divisor: Tensor) -> Tensor:
    """What each pair of rows adds to the loss, [B, B]."""
    if alpha == 1:
        return torch.zeros_like(rows.later, dtype=cumulative.dtype)
    others = cumulative[:, rows.own].T  # [i, j]: F_j at the event of i
    exponent = torch.where(rows.later, (others - others.diagonal().unsqueeze(1)) / sigma, 0.0)
    scale = (1 - alpha) / (len(cumulative) * divisor)
    weighted = torch.where(rows.weight == 0, 0.0, rows.weight * scale).unsqueeze(1)
    return torch.where(rows.later, weighted * exponent.exp(), 0.0)
