"""Cumulative baseline hazard of the proportional hazards model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._cox_arguments import cox_arguments
from survcore.reference import cox_baseline_hazard as _reference
from survcore.reference.cox_risk_sets import CoxPlan


class BaselineSteps(NamedTuple):
    """The baseline hazard, which steps at the times with events: G of them, by stratum, then rising time.

    Attributes:
        row: int64 [G], one of the rows with an event at that time, which tells time and stratum.
        log_cumulative_hazard: [G], logarithm of the hazard summed up to and with that time.
        log_variance: [G], likewise of its variance.
    """

    row: Tensor
    log_cumulative_hazard: Tensor
    log_variance: Tensor


@torch.no_grad()
def cox_baseline_hazard(
    log_hazard: Tensor,
    time: Tensor,
    event: Tensor,
    *,
    entry: Tensor | None = None,
    strata: Tensor | None = None,
    weights: Tensor | None = None,
    ties: str = "efron",
) -> BaselineSteps:
    """Steps of the cumulative hazard of somebody whose log-hazard is 0; :func:`survcore.baseline_hazard` uses them.

    Arguments are those of :func:`survcore.cox_ph_loss`, and so are the denominators: an event adds ``1 / (S - c E)``
    (Breslow 1974; with Efron's ties, as R's ``survfit``), and the square of that to the variance. Both come as
    logarithms, since log-hazards in the thousands leave nothing of them in any floating type. There is no gradient.
    """
    log_hazard, risk_sets, weights = cox_arguments(log_hazard, time, event, entry, strata, weights, ties)
    log_cumulative_hazard, log_variance = torch.ops.survcore.cox_baseline_hazard(
        log_hazard, risk_sets.plan, weights, ties
    )
    plan = CoxPlan.read(risk_sets.plan)
    # Groups without events have no step; of a stratum's groups the first are the latest.
    group = plan.events.nonzero().squeeze(1).flip(0)
    stratum = plan.begins_stratum.cumsum(0)[group]
    group = group[torch.argsort(stratum, stable=True)]
    return BaselineSteps(plan.order[plan.start[group + 1] - 1], log_cumulative_hazard[group], log_variance[group])


@torch.library.register_fake("survcore::cox_baseline_hazard")
def _fake(log_hazard: Tensor, risk_sets: Tensor, weights: Tensor, ties: str) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(log_hazard.dtype, torch.float32)
    shape = (log_hazard.shape[0],)
    return log_hazard.new_empty(shape, dtype=dtype), log_hazard.new_empty(shape, dtype=dtype)


_library.serve_cuda_by_reference("cox_baseline_hazard", _reference.cox_baseline_hazard)
