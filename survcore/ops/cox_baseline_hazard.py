"""Cumulative baseline hazard of the proportional hazards model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._cox_arguments import check_options, cox_arguments, raise_invalid_weights
from survcore.reference import cox_baseline_hazard as _reference
from survcore.reference.cox_risk_sets import CoxPlan


class BaselineSteps(NamedTuple):
    """The baseline hazard, which steps at the times with events: G of them, by stratum, then rising time.

    Attributes:
        row: int64 [G], one of the rows with an event at that time, which tells time and stratum.
        log_step: [G], logarithm of the hazard at that time.
        log_cumulative_hazard: [G], logarithm of the hazard summed up to and with that time.
        log_variance: [G], likewise of its variance.
    """

    row: Tensor
    log_step: Tensor
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
    (Breslow 1974; with Efron's ties, as R's ``survfit``), and the square of that to the variance. All come as
    logarithms, since log-hazards in the thousands leave nothing of them in any floating type. There is no gradient.
    """
    check_options(ties)
    log_hazard, risk_sets, weights = cox_arguments(log_hazard, time, event, entry, strata, weights)
    raise_invalid_weights(weights, log_hazard)
    by_group = torch.ops.survcore.cox_baseline_hazard(log_hazard, risk_sets.plan, weights, ties)
    plan = CoxPlan.read(risk_sets.plan)
    # Groups without events have no step; of a stratum's groups the first are the latest.
    group = plan.events.nonzero().squeeze(1).flip(0)
    stratum = plan.begins_stratum.cumsum(0)[group]
    group = group[torch.argsort(stratum, stable=True)]
    return BaselineSteps(plan.order[plan.start[group + 1] - 1], *(value[group] for value in by_group))


@torch.library.register_fake("survcore::cox_baseline_hazard")
def _fake(log_hazard: Tensor, risk_sets: Tensor, weights: Tensor, ties: str) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(log_hazard.dtype, torch.float32)
    step, cumulative, variance = (log_hazard.new_empty(log_hazard.shape[0], dtype=dtype) for _ in range(3))
    return step, cumulative, variance


_library.serve_cuda("cox_baseline_hazard", _reference.cox_baseline_hazard)
