"""cox_baseline_hazard against plain PyTorch, of rows whose risk sets are sorted beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase, Inputs, Work
from survcore.ops import RiskSets
from survcore.reference.cox_risk_sets import CoxPlan


def _inputs(dtype: torch.dtype, device: str, *, rows: int, times: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    log_hazard = torch.randn(rows, generator=generator).to(device, dtype)
    time = torch.randint(times, (rows,), generator=generator) if times else torch.randperm(rows, generator=generator)
    event = torch.rand(rows, generator=generator) < 0.4
    plan = RiskSets.from_times(time.to(device), event.to(device)).plan
    return log_hazard, plan, CoxPlan.read(plan)


def _survcore(log_hazard: Tensor, risk_sets: Tensor, plan: CoxPlan) -> Tensor:
    _, log_cumulative, _ = torch.ops.survcore.cox_baseline_hazard(log_hazard, risk_sets, log_hazard[:0], "breslow")
    return log_cumulative[: len(plan.events)].exp()


def _eager(log_hazard: Tensor, risk_sets: Tensor, plan: CoxPlan) -> Tensor:
    at_risk = log_hazard[plan.order].logcumsumexp(0)[plan.start[1:] - 1]
    return (plan.events.to(log_hazard.dtype).log() - at_risk).flip(0).logcumsumexp(0).flip(0).exp()


def _work(_passes: str, log_hazard: Tensor, risk_sets: Tensor, plan: CoxPlan) -> Work:
    """Every log-hazard, its place in the order and its event once, one exponential per row; every step written."""
    rows = log_hazard.numel()
    return Work(rows * (log_hazard.element_size() + 4 + 1) + 8 * len(plan.events), exponentials=rows)


CASE = BenchmarkCase(
    name="cox_baseline_hazard",
    sizes={
        "10k": {"rows": 10_000, "times": 0},
        "1M": {"rows": 1_000_000, "times": 0},
        "1M, 3650 times": {"rows": 1_000_000, "times": 3_650},
    },
    quick=("10k",),
    inputs=_inputs,
    providers={"survcore": _survcore, "eager": _eager},
    work=_work,
)
