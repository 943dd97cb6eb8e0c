"""Plain PyTorch definition of cox_ph_loss and of its gradient, with the op's schemas."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from survcore.reference.cox_risk_sets import CoxPlan

# Entries of the table groups x rows that is held at once where rows enter late.
_TABLE = 1 << 22


class EventTerms(NamedTuple):
    """The events of risk sets, one entry each in the order of positions (E), and what their denominators are made of.

    Attributes:
        own: int64 [E], group.
        weight: [E], case weight.
        mean_weight: [E], of the events of its group.
        fraction: [E], c of ``A = S - c E``.
        relative: [E], weight * e^(h - largest of its group).
        denominator: [E], A / e^largest of its group; 1 where the group's events have no weight.
        largest: [groups], the largest log-hazard at risk.
    """

    own: Tensor
    weight: Tensor
    mean_weight: Tensor
    fraction: Tensor
    relative: Tensor
    denominator: Tensor
    largest: Tensor


def log_hazards_at_positions(log_hazard: Tensor, plan: CoxPlan) -> Tensor:
    """Log-hazards in the order of positions, at least float32; +inf as NaN."""
    h = log_hazard.to(torch.promote_types(log_hazard.dtype, torch.float32))[plan.order]
    return h * torch.where(h == torch.inf, torch.nan, 1.0)  # infinite relative hazards cannot be compared


def event_terms(h: Tensor, weight: Tensor, plan: CoxPlan, ties: str) -> EventTerms:
    """Terms of log-hazards and weights in the order of positions."""
    exponent = torch.where(weight == 0, -torch.inf, h)  # a row without weight is as one without hazard
    largest, at_risk = _sums_at_risk(exponent, weight, plan)
    own = plan.group[plan.event]
    relative = weight[plan.event] * (exponent[plan.event] - largest[own]).exp()
    tied = torch.zeros_like(at_risk).index_add(0, own, relative)
    event_weight = torch.zeros_like(at_risk).index_add(0, own, weight[plan.event])
    number = plan.event.nonzero().squeeze(1) - (plan.start[own + 1] - plan.events[own])
    fraction = number.to(h.dtype) / plan.events[own] if ties == "efron" else torch.zeros_like(relative)
    mean_weight = event_weight[own] / plan.events[own]
    denominator = torch.where(mean_weight > 0, at_risk[own] - fraction * tied[own], 1.0)
    return EventTerms(own, weight[plan.event], mean_weight, fraction, relative, denominator, largest)


def cox_ph_loss(
    log_hazard: Tensor,
    risk_sets: Tensor,
    weights: Tensor,
    ties: str = "efron",
    reduction: str = "mean",
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """Negative log partial likelihood of proportional hazards, as :func:`survcore.ops.cox_ph_loss` describes it.

    Event i, number l of the d events of group g, has the denominator ``A_i = S_g - c_i E_g`` with S_g = sum of w e^h
    over the risk set, E_g the same over the group's events, and c_i = l / d (Efron) or 0 (Breslow), and the weight of a
    mean event of its group.

    Returns:
        The loss, float32 for half-precision log-hazards, and its gradient [n], empty without ``with_gradient``.
    """
    plan = CoxPlan.read(risk_sets)
    h = log_hazards_at_positions(log_hazard, plan)
    dtype = h.dtype
    weight = weights.to(dtype)[plan.order] if weights.numel() else torch.ones_like(h)
    terms = event_terms(h, weight, plan, ties)
    heard = terms.weight != 0
    distance = terms.weight * torch.where(heard, terms.largest[terms.own] - h[plan.event], 0.0)
    divisor = terms.weight.sum() if reduction == "mean" else torch.ones((), dtype=dtype, device=h.device)
    divisor = torch.where(divisor == 0, torch.ones_like(divisor), divisor)
    unknown = h.isnan().any()
    total = (terms.mean_weight * terms.denominator.log() + distance).sum()
    loss = torch.where(unknown, torch.nan, total / divisor)
    if not with_gradient:
        return loss, log_hazard.new_empty(0, dtype=dtype)

    with torch.no_grad():
        reciprocal = terms.mean_weight / terms.denominator
        reciprocals = torch.zeros_like(terms.largest).index_add(0, terms.own, reciprocal)
        exponent = torch.where(weight == 0, -torch.inf, h)
        gradient = weight * _sums_over_events(exponent, terms.largest, reciprocals, plan)
        shared = torch.zeros_like(terms.largest).index_add(0, terms.own, terms.fraction * reciprocal)
        gradient[plan.event] -= terms.relative * shared[terms.own] + terms.weight
        gradient = torch.where(unknown, torch.nan, gradient)
        return loss, torch.empty_like(gradient).index_copy(0, plan.order, gradient / divisor)


def cox_ph_loss_backward(grad_loss: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the log-hazards [n]: what the forward pass found times that of the loss."""
    return grad_loss * gradient


def _sums_at_risk(exponent: Tensor, weight: Tensor, plan: CoxPlan) -> tuple[Tensor, Tensor]:
    """Of each group, [groups]: the largest exponent at risk, and the sum of w e^exponent divided by e^largest."""
    groups = torch.arange(len(plan.events), device=exponent.device)
    if not len(groups):
        return exponent.new_zeros(0), exponent.new_zeros(0)
    found = []
    for part in groups.split(max(1, _TABLE // max(1, len(exponent)))):
        inside = (plan.group <= part.unsqueeze(1)) & (part.unsqueeze(1) <= plan.last)
        inside = torch.where(inside, exponent, -torch.inf)
        largest = inside.detach().amax(1)
        largest = torch.where(largest.isinf(), 0.0, largest)
        found.append((largest, (weight * (inside - largest.unsqueeze(1)).exp()).sum(1)))
    return torch.cat([largest for largest, _ in found]), torch.cat([total for _, total in found])


def _sums_over_events(exponent: Tensor, largest: Tensor, reciprocals: Tensor, plan: CoxPlan) -> Tensor:
    """Sum of e^(exponent - largest) times the reciprocal over the groups at whose events a position is at risk, [n]."""
    groups = torch.arange(len(reciprocals), device=exponent.device)
    total = torch.zeros_like(exponent)
    for part in torch.arange(len(total), device=total.device).split(max(1, _TABLE // max(1, len(groups)))):
        inside = (
            (plan.group[part].unsqueeze(1) <= groups) & (groups <= plan.last[part].unsqueeze(1)) & (reciprocals > 0)
        )
        relative = torch.where(inside, exponent[part].unsqueeze(1) - largest, -torch.inf).exp()
        total[part] = (relative * torch.where(inside, reciprocals, 0.0)).sum(1)
    return total
