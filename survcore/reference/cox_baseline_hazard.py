"""Plain PyTorch definition of cox_baseline_hazard, with the op's schema."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.reference.cox_ph_loss import event_terms, log_hazards_at_positions
from survcore.reference.cox_risk_sets import CoxPlan


def cox_baseline_hazard(
    log_hazard: Tensor, risk_sets: Tensor, weights: Tensor, ties: str = "efron"
) -> tuple[Tensor, Tensor, Tensor]:
    """Hazard at a log-hazard of 0 at the events of each group, its sum up to them, and the variance of that sum.

    An event adds ``w / A`` to the hazard and ``w / A^2`` to the variance, with the denominator A and the mean weight w
    that it has in :func:`survcore.reference.cox_ph_loss.cox_ph_loss`.

    Returns:
        Logarithms of all three, [n], of each group in the order of the risk sets; -inf beyond the last group. Of a
        stratum's groups, whose times fall, the first has the whole sums.
    """
    plan = CoxPlan.read(risk_sets)
    h = log_hazards_at_positions(log_hazard, plan)
    weight = weights.to(h.dtype)[plan.order] if weights.numel() else torch.ones_like(h)
    terms = event_terms(h, weight, plan, ties)
    log_denominator = terms.denominator.log() + terms.largest[terms.own]
    log_weight = terms.mean_weight.log()
    step = torch.full_like(h, -torch.inf)
    for group in terms.own.unique():
        step[group] = (log_weight - log_denominator)[terms.own == group].logsumexp(0)
    found = [step]
    for power in (1, 2):
        sums = torch.full_like(h, -torch.inf)
        stratum = plan.begins_stratum.cumsum(0)
        for label in stratum.unique():
            groups = (stratum == label).nonzero().squeeze(1)
            inside = torch.isin(terms.own, groups)
            # [groups of the stratum, events of it]: those from the group on, which happen no later.
            later = terms.own[inside] >= groups.unsqueeze(1)
            added = torch.where(later, (log_weight - power * log_denominator)[inside], -torch.inf)
            if added.numel():
                sums[groups] = added.logsumexp(1)
        found.append(sums)
    unknown = h.isnan().any()
    step, cumulative, variance = (torch.where(unknown, torch.nan, values) for values in found)
    return step, cumulative, variance
