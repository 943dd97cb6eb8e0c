"""cox_ph_loss against plain PyTorch: one sort, one cumulative sum, Efron's terms by segment sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase, Inputs, leaf
from survcore.ops import RiskSets, cox_ph_loss


class EventTerms(NamedTuple):
    """What depends on the times alone, of rows in falling order: one entry per event, E in all.

    Attributes:
        row: [E], its row.
        last: [E], the last row of its risk set.
        tie: [E], number of its time among the times with several events; empty without such times.
        fraction: [E], l / d of Efron's rule, empty likewise.
    """

    row: Tensor
    last: Tensor
    tie: Tensor
    fraction: Tensor


def event_terms(time: Tensor, event: Tensor) -> EventTerms:
    """Of rows in falling order of time."""
    counts = torch.unique_consecutive(time, return_counts=True)[1]
    ends = counts.cumsum(0) - 1
    row = event.nonzero().squeeze(1)
    own = torch.repeat_interleave(counts)[row]
    if len(own) == 0 or bool((own[1:] != own[:-1]).all()):
        return EventTerms(row, ends[own], own[:0], time[:0])
    _, tie, events = torch.unique_consecutive(own, return_inverse=True, return_counts=True)
    number = torch.arange(len(own), device=own.device) - (events.cumsum(0) - events)[tie]
    return EventTerms(row, ends[own], tie, number / events[tie])


class Risks(NamedTuple):
    """What each side may prepare before the first epoch."""

    sets: RiskSets
    terms: EventTerms


def _inputs(dtype: torch.dtype, device: str, *, rows: int, times: int, in_order: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    log_hazard = leaf(torch.randn(rows, generator=generator), dtype, device)
    time = torch.randint(times, (rows,), generator=generator) if times else torch.randperm(rows, generator=generator)
    event = torch.rand(rows, generator=generator) < 0.4
    if not in_order:
        return log_hazard, time.to(device, torch.float32), event.to(device), None
    order = torch.argsort(2 * time - event.long(), descending=True)
    time, event = time[order].to(device, torch.float32), event[order].to(device)
    return log_hazard, time, event, Risks(RiskSets.from_times(time, event), event_terms(time, event))


def _survcore(log_hazard: Tensor, time: Tensor, event: Tensor, risks: Risks | None) -> Tensor:
    return cox_ph_loss(log_hazard, time, event) if risks is None else cox_ph_loss(log_hazard, risks.sets)


def _eager(log_hazard: Tensor, time: Tensor, event: Tensor, risks: Risks | None) -> Tensor:
    if risks is None:
        time, order = time.sort(descending=True)
        log_hazard = log_hazard[order]
        terms = event_terms(time, event[order])
    else:
        terms = risks.terms
    shift = log_hazard.detach().max()
    relative = (log_hazard - shift).exp()
    denominator = relative.cumsum(0)[terms.last]
    if len(terms.tie):
        tied = relative.new_zeros(len(terms.tie)).index_add(0, terms.tie, relative[terms.row])
        denominator = denominator - terms.fraction * tied[terms.tie]
    return (denominator.log() + shift - log_hazard[terms.row]).mean()


CASE = BenchmarkCase(
    name="cox_ph_loss",
    sizes={
        "1k": {"rows": 1_000, "times": 0, "in_order": 1},
        "1k unsorted": {"rows": 1_000, "times": 0, "in_order": 0},
        "100k": {"rows": 100_000, "times": 0, "in_order": 1},
        "100k, 50 times": {"rows": 100_000, "times": 50, "in_order": 1},
        "100k unsorted": {"rows": 100_000, "times": 0, "in_order": 0},
        "1M": {"rows": 1_000_000, "times": 0, "in_order": 1},
        "1M, 50 times": {"rows": 1_000_000, "times": 50, "in_order": 1},
        "1M unsorted": {"rows": 1_000_000, "times": 0, "in_order": 0},
        "1M, 50 times, unsorted": {"rows": 1_000_000, "times": 50, "in_order": 0},
    },
    quick=("1k", "1k unsorted", "100k"),
    inputs=_inputs,
    providers={"survcore": _survcore, "eager": _eager},
)
