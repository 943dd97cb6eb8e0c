"""Plain PyTorch definitions of deephit_loss and of its gradient, with the op's schemas.

They differ in the ranking term alone: deephit_loss_over_pairs has the formula, in a table of all pairs of rows, which
is what tests compare with; deephit_loss has the same sum bin by bin, in memory and time of the logits' size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """What of the rows' columns counts as what. C = R * K columns, cause r (from 0) and bin b in column r * K + b.

    Attributes:
        own: int64 [B], the column of the row's event, or of cause 0 for a row without one.
        observed: bool [B], has an event.
        possible: bool [B, C], the outcomes that observation leaves possible.
        compared: bool [B, C], the row is compared with the events of a column: those of earlier bins, those of its own
            bin too if it is censored there.
        ranked: bool [B], has an event that other rows are compared with and that counts.
        weight: [B].
        factor: [B], the weight, or NaN for an invalid row that has a weight.
        read: bool [B], takes part in the loss. The logits of the others have gradient 0, whatever they are.
    """

    own: Tensor
    observed: Tensor
    possible: Tensor
    compared: Tensor
    ranked: Tensor
    weight: Tensor
    factor: Tensor
    read: Tensor


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


class Ranking(NamedTuple):
    """The ranking term: a scalar, and its gradient with respect to F, [B, C]."""

    value: Tensor
    gradient: Tensor


def deephit_loss(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    alpha: float = 0.2,
    sigma: float = 0.1,
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """DeepHit's loss as :func:`survcore.ops.deephit_loss` describes it, its ranking term as sums over bins.

    Returns:
        The loss, a scalar, float32 for half-precision logits, and its gradient in the shape of the logits, without
        ``with_gradient`` that of no rows.
    """
    return _loss(logits, time_bin, event, weights, alpha, sigma, with_gradient, _ranking_over_bins)


def deephit_loss_over_pairs(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    alpha: float = 0.2,
    sigma: float = 0.1,
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """The same by the formula of the ranking term, with a table of all pairs of rows."""
    return _loss(logits, time_bin, event, weights, alpha, sigma, with_gradient, _ranking_over_pairs)


def deephit_loss_backward(grad_loss: Tensor, gradient: Tensor) -> Tensor:
    """The gradient that forward has found, times that of the loss."""
    return (grad_loss.to(gradient.dtype) * gradient).contiguous()


def _loss(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    alpha: float,
    sigma: float,
    with_gradient: bool,
    ranking_of: Callable[[Tensor, Rows, Tensor, float], Ranking],
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    causes = logits.shape[1] if logits.dim() == 3 else 1
    x = logits.to(dtype).flatten(1)
    rows = _rows(x, causes, time_bin, event, weights, alpha)
    x = torch.where(rows.read.unsqueeze(1), x, 0.0)
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
    ranking = ranking_of(values.cumulative, rows, (1 - alpha) / (len(x) * divisor), sigma)
    total = total + ranking.value
    if not with_gradient:
        return total, logits.new_empty((0, *logits.shape[1:]), dtype=dtype)

    with torch.no_grad():
        after = ranking.gradient.unflatten(1, (causes, -1)).flip(2).cumsum(2).flip(2).flatten(1)
        mean = (values.p * after).sum(1, keepdim=True)
        own = torch.zeros_like(x).scatter(1, rows.own.unsqueeze(1), 1.0)
        if_possible = torch.where(rows.observed.unsqueeze(1), own, values.if_possible)
        gradient = values.p * (after - mean) + (alpha / divisor * rows.factor).unsqueeze(1) * (values.p - if_possible)
    return total, gradient.view(logits.shape)


def _rows(x: Tensor, causes: int, time_bin: Tensor, event: Tensor, weights: Tensor, alpha: float) -> Rows:
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
    own_column = column == own.unsqueeze(1)
    possible = torch.where(observed.unsqueeze(1), own_column, column % bins > bin_of.unsqueeze(1))
    compared_bins = torch.where(valid, bin_of + (cause == 0), 0)
    compared = column % bins < compared_bins.unsqueeze(1)
    ranked = observed & (weight != 0) & (alpha != 1)
    has_events = (own_column & ranked.unsqueeze(1)).any(0)
    read = (factor != 0) | (compared & has_events).any(1)
    return Rows(own, observed, possible, compared, ranked, weight, factor, read)


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


def _ranking_over_pairs(cumulative: Tensor, rows: Rows, scale: Tensor, sigma: float) -> Ranking:
    """exp(-(F_i - F_j) / sigma) at the event of i, over all pairs of rows in which j is compared with i."""
    others = cumulative[:, rows.own].T  # [i, j]: F_j at the event of i
    later = rows.compared[:, rows.own].T & rows.ranked.unsqueeze(1)
    exponent = torch.where(later, (others - others.diagonal().unsqueeze(1)) / sigma, 0.0)
    weighted = torch.where(rows.weight == 0, 0.0, rows.weight * scale).unsqueeze(1)
    pairs = torch.where(later, weighted * exponent.exp(), 0.0)
    with torch.no_grad():
        gradient = torch.zeros_like(cumulative).index_add(1, rows.own, pairs.T / sigma)
        gradient.scatter_add_(1, rows.own.unsqueeze(1), -pairs.sum(1, keepdim=True) / sigma)
    return Ranking(pairs.sum(), gradient)


def _ranking_over_bins(cumulative: Tensor, rows: Rows, scale: Tensor, sigma: float) -> Ranking:
    """The same: in each column the sum of exp(F_j / sigma) over the rows compared, times that over the events.

    Each sum less its own largest term, and scaled before it is multiplied, so that what overflows is one pair's
    exponential and nothing before it. Both are over columns of the table, without atomic additions.
    """
    if len(cumulative) == 0:
        return Ranking(cumulative.sum(), torch.zeros_like(cumulative))
    columns = torch.arange(cumulative.shape[1], device=cumulative.device)
    event = (columns == rows.own.unsqueeze(1)) & rows.ranked.unsqueeze(1)
    # Infinite in a column without such a row, whose products are then 0.
    largest = torch.where(rows.compared, cumulative, -torch.inf).amax(0)
    smallest = torch.where(event, cumulative, torch.inf).amin(0)
    scaled = scale * rows.weight.unsqueeze(1)
    compared_sum = torch.where(rows.compared, ((cumulative - largest) / sigma).exp(), 0.0).sum(0)
    event_sum = torch.where(event, scaled * ((smallest - cumulative) / sigma).exp(), 0.0).sum(0)
    value = (compared_sum * event_sum * ((largest - smallest) / sigma).exp()).sum()
    of_compared = torch.where(rows.compared, event_sum * ((cumulative - smallest) / sigma).exp(), 0.0)
    of_event = torch.where(event, scaled * compared_sum * ((largest - cumulative) / sigma).exp(), 0.0)
    return Ranking(value, (of_compared - of_event) / sigma)
