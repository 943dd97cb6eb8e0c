"""cox_ph_loss against plain PyTorch (one sort, one cumulative sum, Efron's terms by segment sums) and its peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from survcore.benchmarks.case import Bar, BenchmarkCase, Inputs, LeftOut, OnCuda, Provider, Work, leaf
from survcore.benchmarks.cox_peers import PEERS, CoxdevDeviance, refuse_above_most_rows, torchsurv_entries
from survcore.ops import RiskSets, cox_ph_loss

# How the rows lie: in the order of their risk sets, or in no order with that order known beforehand, or not known.
IN_ORDER, INDEXED, UNSORTED = range(3)


class Cohort(NamedTuple):
    """What a cohort consists of, and how much of it torchsurv goes through."""

    time: Tensor
    event: Tensor
    entry: Tensor | None
    strata: Tensor | None
    weights: Tensor | None
    torchsurv_entries: int

    def columns(self) -> tuple[Tensor | None, ...]:
        """Time, event, entry, strata, weights."""
        return self[:5]


class Strata(NamedTuple):
    """A table [strata, rows of the largest stratum] as one vector: a sum over a stratum cannot cancel another's."""

    cell: Tensor
    count: int
    width: int


class LateEntry(NamedTuple):
    """The rows by falling entry, [n], and how many of them enter at the time of each event or later, [E]."""

    order: Tensor
    count: Tensor


class EventTerms(NamedTuple):
    """What depends on the cohort alone, of rows by stratum, then falling time: one entry per event, E in all.

    Attributes:
        row: [E], its row.
        last: [E], the last row of its risk set; with strata, that row's cell.
        tie: [E], number of its time among the times with several events; empty without such times.
        fraction: [E], l / d of Efron's rule, empty likewise.
        weight: [n], of every row.
        mean_weight: [E], of the events of its time.
        strata, entry: where the cohort has them.
    """

    row: Tensor
    last: Tensor
    tie: Tensor
    fraction: Tensor
    weight: Tensor | None
    mean_weight: Tensor | None
    strata: Strata | None
    entry: LateEntry | None


class Prepared(NamedTuple):
    """What each side may prepare before the first epoch.

    Attributes:
        sets: of survcore.
        order: of plain PyTorch and pycox: the rows by stratum, then falling time; None where they lie so.
        terms: of plain PyTorch.
        deviance: of coxdev.
    """

    sets: RiskSets
    order: Tensor | None
    terms: EventTerms
    deviance: CoxdevDeviance


Sort = Callable[[Tensor], tuple[Tensor, Tensor]]


def _compared(time: Tensor) -> tuple[Tensor, Tensor]:
    """Times in falling order, and that order."""
    return time.sort(descending=True)


def _by_digits(time: Tensor) -> tuple[Tensor, Tensor]:
    """The same by PyTorch's radix sort of integers, rising only: the bits of float32 times of at least 0, inverted."""
    bits, order = (~time.view(torch.int32)).sort()
    return (~bits).view(torch.float32), order


def event_terms(cohort: Cohort, sort: Sort, dtype: torch.dtype) -> tuple[Tensor, EventTerms]:
    """The rows by stratum, then falling time; and what depends on them."""
    time, order = sort(cohort.time)
    strata = None
    if cohort.strata is not None:
        if cohort.entry is not None:
            raise LeftOut("late entry within strata")
        stratum, stable = cohort.strata[order].sort(stable=True)
        time, order = time[stable], order[stable]
        strata = _strata(stratum)
        begins = torch.ones_like(time, dtype=torch.bool)
        begins[1:] = (time[1:] != time[:-1]) | (stratum[1:] != stratum[:-1])
        start = begins.nonzero().squeeze(1)
        counts = torch.cat((start, start.new_full((1,), len(time)))).diff()
    else:
        counts = torch.unique_consecutive(time, return_counts=True)[1]
    row = cohort.event[order].nonzero().squeeze(1)
    own = torch.repeat_interleave(counts)[row]
    last = (counts.cumsum(0) - 1)[own]
    weight = None if cohort.weights is None else cohort.weights[order]
    mean_weight = None if weight is None else weight[row]
    tie, fraction = own[:0], time[:0].to(dtype)
    if len(own) and not bool((own[1:] != own[:-1]).all()):
        _, tie, events = torch.unique_consecutive(own, return_inverse=True, return_counts=True)
        number = torch.arange(len(own), device=own.device) - (events.cumsum(0) - events)[tie]
        fraction = number.to(dtype) / events[tie]
        if mean_weight is not None:
            mean_weight = (mean_weight.new_zeros(len(events)).index_add(0, tie, mean_weight) / events)[tie]
    entry = None if cohort.entry is None else _late_entry(cohort.entry[order], time[row])
    last = last if strata is None else strata.cell[last]
    return order, EventTerms(row, last, tie, fraction, weight, mean_weight, strata, entry)


def _strata(stratum: Tensor) -> Strata:
    counts = torch.unique_consecutive(stratum, return_counts=True)[1]
    width = int(counts.max())
    # A row's number, and the empty cells that the strata before its own leave.
    filled = torch.arange(len(counts), device=stratum.device) * width - (counts.cumsum(0) - counts)
    cell = torch.arange(len(stratum), device=stratum.device) + torch.repeat_interleave(filled, counts)
    return Strata(cell, len(counts), width)


def _late_entry(entry: Tensor, time: Tensor) -> LateEntry:
    falling, order = entry.sort(descending=True)
    return LateEntry(order, len(entry) - torch.searchsorted(falling.flip(0), time))


def _survcore(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None) -> Tensor:
    time, event, entry, strata, weights = cohort.columns()
    if prepared is None:
        return cox_ph_loss(log_hazard, time, event, entry=entry, strata=strata, weights=weights)
    return cox_ph_loss(log_hazard, prepared.sets, weights=weights)


def _plain(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None, sort: Sort) -> Tensor:
    if prepared is None:
        order, terms = event_terms(cohort, sort, log_hazard.dtype)
    else:
        order, terms = prepared.order, prepared.terms
    if order is not None:
        log_hazard = log_hazard[order]
    shift = log_hazard.detach().max()
    relative = (log_hazard - shift).exp()
    if terms.weight is not None:
        relative = terms.weight * relative
    if terms.strata is None:
        total = relative.cumsum(0)
    else:
        cell, count, width = terms.strata
        total = relative.new_zeros(count * width).index_copy(0, cell, relative)
        total = total.view(count, width).cumsum(1).flatten()
    denominator = total[terms.last]
    if terms.entry is not None:
        later = relative[terms.entry.order].cumsum(0)
        denominator = denominator - torch.cat((later.new_zeros(1), later))[terms.entry.count]
    if len(terms.tie):
        tied = relative.new_zeros(len(terms.tie)).index_add(0, terms.tie, relative[terms.row])
        denominator = denominator - terms.fraction * tied[terms.tie]
    if terms.weight is None or terms.mean_weight is None:
        return (denominator.log() + shift - log_hazard[terms.row]).mean()
    weight = terms.weight[terms.row]
    return (terms.mean_weight * (denominator.log() + shift) - weight * log_hazard[terms.row]).sum() / weight.sum()


def _eager(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None) -> Tensor:
    return _plain(log_hazard, cohort, prepared, _compared)


def _radix(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None) -> Tensor:
    if prepared is not None:
        raise LeftOut("as eager: nothing is left to sort")
    return _plain(log_hazard, cohort, None, _by_digits)


def _compiled_radix(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None) -> Tensor:
    if prepared is not None:
        raise LeftOut("as compiled: nothing is left to sort")
    refuse_above_most_rows(log_hazard)  # as slow as "radix" there, and one more to wait for
    return _compiler()(log_hazard, cohort, None)


@cache
def _compiler() -> Provider:
    return torch.compile(_radix, dynamic=False)


def _inputs(
    dtype: torch.dtype,
    device: str,
    *,
    rows: int,
    arrangement: int,
    times: int = 0,
    tied_percent: int = 0,
    strata: int = 0,
    late: int = 0,
    weighted: int = 0,
) -> Inputs:
    """Log-hazards, a cohort and what is prepared of it.

    Args:
        arrangement: one of ``IN_ORDER``, ``INDEXED``, ``UNSORTED``.
        times: how many different ones; 0: as many as rows.
        tied_percent: rows that share time 0.
        strata: how many; 0: none.
        late: whether rows enter at any time before their own.
        weighted: whether rows have weights, 0.5 to 1.5.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform() -> Tensor:
        return torch.rand(rows, generator=generator, dtype=torch.float64)

    log_hazard = torch.randn(rows, generator=generator)
    time = torch.randint(times, (rows,), generator=generator) if times else torch.randperm(rows, generator=generator)
    time = time + 1
    event = uniform() < 0.4
    if tied_percent:
        time[uniform() < tied_percent / 100] = 0
    entry = (uniform() * time).floor() if late else None
    stratum = torch.randint(strata, (rows,), generator=generator) if strata else None
    weights = 0.5 + uniform() if weighted else None
    if arrangement == IN_ORDER:
        order = torch.argsort(2 * time - event.long(), descending=True)
        if stratum is not None:
            order = order[torch.argsort(stratum[order], stable=True)]
        time, event, entry, stratum, weights = (
            None if column is None else column[order] for column in (time, event, entry, stratum, weights)
        )
    entries = torchsurv_entries(time, event, strata)
    columns = (time.float(), event, None if entry is None else entry.float(), stratum)
    weights = None if weights is None else weights.to(device, dtype)
    cohort = Cohort(*(None if column is None else column.to(device) for column in columns), weights, entries)
    prepared = None if arrangement == UNSORTED else _prepared(cohort, arrangement, dtype)
    return leaf(log_hazard, dtype, device), cohort, prepared


def _prepared(cohort: Cohort, arrangement: int, dtype: torch.dtype) -> Prepared:
    # Stable: where the rows are in order, events after the censored rows of their time, they stay so.
    order, terms = event_terms(cohort, lambda time: time.sort(descending=True, stable=True), dtype)
    sets = RiskSets.from_times(cohort.time, cohort.event, cohort.entry, cohort.strata)
    return Prepared(sets, order if arrangement == INDEXED else None, terms, CoxdevDeviance(cohort))


def _work(passes: str, log_hazard: Tensor, cohort: Cohort, *_: object) -> Work:
    """Every column once, the gradient once, one exponential per row; without the sort."""
    rows = log_hazard.numel()
    columns = sum(4 for column in (cohort.entry, cohort.strata, cohort.weights) if column is not None)
    values = (1 if passes == "forward" else 2) * log_hazard.element_size()
    return Work(rows * (values + 4 + 1 + columns), exponentials=rows)


CASE = BenchmarkCase(
    name="cox_ph_loss",
    sizes={
        "16": {"rows": 16, "arrangement": IN_ORDER},
        "1k": {"rows": 1_000, "arrangement": IN_ORDER},
        "10k": {"rows": 10_000, "arrangement": IN_ORDER},
        "100k": {"rows": 100_000, "arrangement": IN_ORDER},
        "1M": {"rows": 1_000_000, "arrangement": IN_ORDER},
        "10M": {"rows": 10_000_000, "arrangement": IN_ORDER},
        "1M, index": {"rows": 1_000_000, "arrangement": INDEXED},
        "1k unsorted": {"rows": 1_000, "arrangement": UNSORTED},
        "10k unsorted": {"rows": 10_000, "arrangement": UNSORTED},
        "100k unsorted": {"rows": 100_000, "arrangement": UNSORTED},
        "1M unsorted": {"rows": 1_000_000, "arrangement": UNSORTED},
        "10M unsorted": {"rows": 10_000_000, "arrangement": UNSORTED},
        "1M, 50 times": {"rows": 1_000_000, "times": 50, "arrangement": IN_ORDER},
        "1M, 50 times, unsorted": {"rows": 1_000_000, "times": 50, "arrangement": UNSORTED},
        "1M, days, unsorted": {"rows": 1_000_000, "times": 3650, "arrangement": UNSORTED},
        "100k, tenth tied, unsorted": {"rows": 100_000, "tied_percent": 10, "arrangement": UNSORTED},
        "1M, 500 strata, index": {"rows": 1_000_000, "strata": 500, "arrangement": INDEXED},
        "1M, 500 strata, unsorted": {"rows": 1_000_000, "strata": 500, "arrangement": UNSORTED},
        "1M, late entry": {"rows": 1_000_000, "late": 1, "arrangement": IN_ORDER},
        "1M, late entry, unsorted": {"rows": 1_000_000, "late": 1, "arrangement": UNSORTED},
        "1M, weights": {"rows": 1_000_000, "weighted": 1, "arrangement": IN_ORDER},
        "1M, weights, unsorted": {"rows": 1_000_000, "weighted": 1, "arrangement": UNSORTED},
    },
    quick=("16", "1k", "1k unsorted", "100k"),
    inputs=_inputs,
    providers={"survcore": _survcore, "eager": _eager, "radix": _radix, "radix, compiled": _compiled_radix} | PEERS,
    work=_work,
    table=(
        "16",
        "1k",
        "1k unsorted",
        "100k unsorted",
        "1M unsorted",
        "10M unsorted",
        "1M, index",
        "1M",
        "1M, 50 times",
        "100k, tenth tied, unsorted",
        "1M, 500 strata, index",
        "1M, weights",
        "1M, late entry",
        "1M, late entry, unsorted",
    ),
    bars={"1M": 3.0, "1M, index": 5.0, "1M unsorted": 8.0, "1k unsorted": 0.06, "100k, tenth tied, unsorted": 1.0},
    cuda=OnCuda(quick=("1k unsorted",), bars={"1M": Bar(milliseconds=0.2)}),
    curve=("1k unsorted", "10k unsorted", "100k unsorted", "1M unsorted", "10M unsorted"),
)
