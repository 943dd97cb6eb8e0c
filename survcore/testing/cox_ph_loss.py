"""OpCase of cox_ph_loss."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.reference import cox_ph_loss as reference
from survcore.reference.cox_risk_sets import CoxPlan, cox_risk_sets
from survcore.testing.op_case import Arguments, OpCase


def cox_arguments(
    dtype: torch.dtype,
    rows: int,
    *,
    times: int = 0,
    strata: int = 0,
    entry: bool = False,
    weighted: bool = False,
    in_order: bool = False,
    event_rate: float = 0.5,
    scale: float = 1.0,
    ties: str = "efron",
    reduction: str = "mean",
) -> Arguments:
    """Random rows at ``times`` distinct times (0: all differ), in time order or not, in ``strata`` strata (0: one)."""
    generator = torch.Generator().manual_seed(19)
    log_hazard = scale * torch.randn(rows, generator=generator)
    time = (
        torch.randint(1, times + 1, (rows,), generator=generator)
        if times
        else 1 + torch.randperm(rows, generator=generator)
    )
    event = (torch.rand(rows, generator=generator) < event_rate).long()
    if in_order:  # falling, at one time events last
        order = torch.argsort(2 * time - event, descending=True, stable=True)
        time, event = time[order], event[order]
    none = torch.empty(0, dtype=torch.int64)
    entered = time * torch.rand(rows, generator=generator) - 0.5 if entry else torch.empty(0)
    stratum = torch.randint(0, strata, (rows,), generator=generator) if strata else none
    weights = torch.rand(rows, generator=generator) + 0.1 if weighted else torch.empty(0)
    plan = cox_risk_sets(time.double(), event, entered.double(), stratum)
    return log_hazard.to(dtype), _as_a_whole(plan), weights.to(dtype), ties, reduction, True


def _as_a_whole(plan: Tensor) -> Tensor:
    """[1, length]: tests that repeat the first row of an argument leave it what it is, which no part of it is."""
    return plan.unsqueeze(0)


def samples(dtype: torch.dtype) -> dict[str, Arguments]:
    samples = {
        "plain": cox_arguments(dtype, 37),
        "tied": cox_arguments(dtype, 40, times=5),
        "breslow": cox_arguments(dtype, 40, times=5, ties="breslow"),
        "everything": cox_arguments(dtype, 60, times=9, strata=3, entry=True, weighted=True, reduction="sum"),
        "weighted": cox_arguments(dtype, 40, times=8, weighted=True),
        "in_order": cox_arguments(dtype, 40, times=8, in_order=True),
        "strata": cox_arguments(dtype, 50, times=6, strata=4),
        "entry": cox_arguments(dtype, 50, times=12, entry=True),
        "entry_and_strata": cox_arguments(dtype, 50, strata=2, entry=True, ties="breslow"),
        "all_events": cox_arguments(dtype, 30, times=4, event_rate=1.0),
        "one_time": cox_arguments(dtype, 30, times=1),
        "no_events": cox_arguments(dtype, 30, event_rate=0.0),
        "one_event": cox_arguments(dtype, 1, event_rate=1.0),
        "one_censored": cox_arguments(dtype, 1, event_rate=0.0),
        # Exponents beyond what float32, and what float64, hold as plain sums.
        "wide": cox_arguments(dtype, 50, times=20, scale=30.0),
        "wide_weighted": cox_arguments(dtype, 50, times=20, scale=30.0, weighted=True),
        "wide_entry": cox_arguments(dtype, 50, times=20, scale=30.0, entry=True),
        "huge": cox_arguments(dtype, 50, times=20, scale=3000.0),
        "huge_entry": cox_arguments(dtype, 50, times=20, scale=3000.0, strata=2, entry=True, weighted=True),
    }
    # Around the 512 rows of four sums beside each other and the 8192 rows of a chunk.
    for rows in (511, 512, 513, 8191, 8192, 8193):
        samples[f"{rows}_rows"] = cox_arguments(dtype, rows, times=70, in_order=rows % 2 == 0)
    samples["chunks_and_strata"] = cox_arguments(dtype, 20_000, times=20, strata=5)
    samples["a_time_of_several_chunks"] = cox_arguments(dtype, 30_000, times=3, weighted=True)
    return samples


def extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    infinity = torch.inf
    log_hazard, _, _, *options = cox_arguments(dtype, 6, event_rate=1.0)
    none = torch.empty(0, dtype=dtype)

    def case(*values: float, weights: Tensor = none, late: bool = False) -> Arguments:
        sets = cox_arguments(dtype, 6, event_rate=1.0, entry=late)[1]
        return torch.tensor(values, dtype=dtype), sets, weights, *options

    ordinary = log_hazard.tolist()
    partly, sets, *rest = cox_arguments(dtype, 6)
    plan = CoxPlan.read(sets)
    zero = partly.index_fill(0, plan.order[~plan.event], -infinity)
    return {
        "no_rows": cox_arguments(dtype, 0),
        "no_rows_sum": cox_arguments(dtype, 0, reduction="sum"),
        "ten_thousand": case(1e4, -1e4, 1e4, -1e4, 0.0, 1e4),
        "ten_thousand_and_entry": case(1e4, -1e4, 1e4, -1e4, 0.0, 1e4, late=True),
        "nan": case(0.5, torch.nan, 1.0, 0.0, -1.0, 2.0),
        "all_nan": case(*[torch.nan] * 6),
        "hazard_zero": (zero, sets, *rest),
        "event_of_hazard_zero": case(0.5, -infinity, 1.0, 0.0, -1.0, 2.0),
        "all_hazards_zero": case(*[-infinity] * 6),
        "hazard_infinite": case(0.5, infinity, 1.0, 0.0, -1.0, 2.0),
        "some_weights_zero": case(*ordinary, weights=torch.tensor([0.0, 1.0, 2.0, 0.0, 0.5, 0.0], dtype=dtype)),
        "largest_hazard_has_no_weight": case(
            0.0, 1e4, 1.0, 2.0, 9e3, -3.0, weights=torch.tensor([1.0, 0, 1, 2, 0, 1]).to(dtype)
        ),
        "all_weights_zero": case(*ordinary, weights=torch.zeros(6, dtype=dtype)),
        "all_weights_zero_and_entry": case(*ordinary, weights=torch.zeros(6, dtype=dtype), late=True),
    }


CASE = OpCase(
    name="cox_ph_loss",
    reference=reference.cox_ph_loss,
    reference_backward=reference.cox_ph_loss_backward,
    samples=samples,
    extremes=extremes,
    large=lambda dtype: cox_arguments(dtype, 300_000, times=100_000),
    differentiable=(0,),
    differentiable_outputs=(0,),
)
