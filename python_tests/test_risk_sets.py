"""RiskSets against their plain definition, those of mini-batches, and errors that name argument and row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from survcore import RiskSets, cox_ph_loss
from survcore.reference.cox_risk_sets import HEADER, CoxPlan
from survcore.reference.cox_risk_sets import cox_risk_sets as reference

TIME = torch.tensor([5.0, 3.0, 3.0, 8.0, 1.0, 3.0])
EVENT = torch.tensor([1, 1, 0, 0, 1, 1])
NONE = torch.empty(0, dtype=torch.int64)


def assert_equal_plans(actual: Tensor, expected: Tensor) -> None:
    """The header and all sections; what fills them up is undefined."""
    assert torch.equal(actual[:HEADER], expected[:HEADER])
    ours, theirs = CoxPlan.read(actual), CoxPlan.read(expected)
    for name in CoxPlan.__dataclass_fields__:
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


# Few values make ties; neighbouring floats, huge ones and the two zeros test the order of their bits.
NEIGHBOURS = [1.0, math.nextafter(1.0, 2.0), math.nextafter(1.0, 0.0), 0.0, -0.0, 5e-324, 1e300, 1e-300, 3.0]
times = st.one_of(st.sampled_from(NEIGHBOURS), st.floats(0, 1e308))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(times, st.booleans(), st.floats(-1, 0.9), st.integers(-2, 2)), min_size=1, max_size=300),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.int64, torch.int32]),
    st.booleans(),
    st.booleans(),
)
def test_reference(rows: list[tuple], dtype: torch.dtype, late: bool, stratified: bool) -> None:
    time, event, share, strata = (torch.tensor(column) for column in zip(*rows, strict=True))
    time = time.double().clamp(max=1e308 if dtype == torch.float64 else 30_000.0).to(dtype)
    entry = torch.where(time > 0, time.double() * share.double(), -1.0).to(dtype) if late else None
    if entry is not None:
        entry = torch.where(entry < time, entry, torch.tensor(-1, dtype=dtype))
    strata = strata if stratified else None
    actual = RiskSets.from_times(time, event, entry, strata)
    expected = reference(time, event, NONE if entry is None else entry, NONE if strata is None else strata)
    assert_equal_plans(actual.plan, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("kind", ["whole", "ties", "fractions", "large_strata", "sorted", "nearly_equal"])
def test_reference_on_many_rows(kind: str, dtype: torch.dtype) -> None:
    """Enough rows for several blocks of the sort."""
    generator = torch.Generator().manual_seed(4)
    rows = 150_000
    time = {
        "whole": torch.randperm(rows, generator=generator).double(),
        "ties": torch.randint(0, 4000, (rows,), generator=generator).double(),
        "fractions": torch.empty(rows, dtype=torch.float64).exponential_(generator=generator) * 1e5,
        "large_strata": torch.rand(rows, dtype=torch.float64, generator=generator) * 1e9,
        "sorted": torch.arange(rows).flip(0).double(),
        "nearly_equal": 1e12 + torch.randint(0, 300, (rows,), generator=generator).double() / 512,
    }[kind].to(dtype)
    event = torch.rand(rows, generator=generator) < 0.4
    strata = torch.randint(-(10**12), 10**12, (7,), generator=generator) if kind == "large_strata" else None
    strata = strata[torch.randint(0, 7, (rows,), generator=generator)] if strata is not None else None
    actual = RiskSets.from_times(time, event, strata=strata)
    assert_equal_plans(actual.plan, reference(time, event, NONE, NONE if strata is None else strata))
    assert len(actual) == rows


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.float64, torch.float16])
def test_types_of_the_event(dtype: torch.dtype) -> None:
    assert_equal_plans(RiskSets.from_times(TIME, EVENT.to(dtype)).plan, RiskSets.from_times(TIME, EVENT).plan)


@pytest.mark.parametrize("entry_type", [torch.float32, torch.float64])
def test_whole_times_and_entries_between_them(entry_type: torch.dtype) -> None:
    """Compared exactly: 2**24 + 1 is no float32, and nanoseconds since 1970 are no float64."""
    time = torch.tensor([2**24 + 1, 2**24 + 2])
    assert "2 risk sets" in repr(RiskSets.from_times(time, torch.ones(2), torch.tensor([2.0**24, 0.0]).to(entry_type)))
    time = 1_600_000_000_000_000_000 + 50 * torch.arange(6)
    event = torch.ones(6)
    entry = torch.tensor([-torch.inf, -0.5, 0.0, 0.5, 1.0, 1e15], dtype=entry_type)
    sets = RiskSets.from_times(time, event, entry)
    assert "6 risk sets" in repr(sets)
    assert_equal_plans(sets.plan, RiskSets.from_times(time, event, entry.clamp(min=-1).floor().long()).plan)
    # Half a time earlier is earlier, the time itself is not.
    assert repr(RiskSets.from_times(torch.tensor([3, 4]), event[:2], torch.tensor([2.5, 3.5]).to(entry_type)))
    with pytest.raises(ValueError, match="entry must be before time, got entry 3.* and time 3 in row 0"):
        RiskSets.from_times(torch.tensor([3, 4]), event[:2], torch.tensor([3.0, 3.5]).to(entry_type))
    with pytest.raises(ValueError, match="entry must not be NaN, got one in row 1"):
        RiskSets.from_times(torch.tensor([3, 4]), event[:2], torch.tensor([1.0, torch.nan]).to(entry_type))


def test_entries_of_another_floating_type_are_refused() -> None:
    """0.1 as float64 lies before 0.1 as float32: a row would be at risk at its own entry."""
    with pytest.raises(TypeError, match="entry is torch.float64, time torch.float32: expected one floating type"):
        RiskSets.from_times(torch.tensor([0.1, 0.3]), torch.ones(2), torch.tensor([0.0, 0.1], dtype=torch.float64))


def test_entries_that_keep_nobody_out_cost_nothing() -> None:
    """Before the first event it does not matter when a row came in: the plan, and so the kernel, is that without."""
    plain, late = RiskSets.from_times(TIME, EVENT), torch.full_like(TIME, 0.5)
    found = RiskSets.from_times(TIME, EVENT, late)
    assert len(found.plan) == len(plain.plan)
    assert_equal_plans(found.plan, plain.plan)
    rows = torch.tensor([0, 2, 4])
    assert_equal_plans(found.take(rows).plan, plain.take(rows).plan)
    assert len(RiskSets.from_times(TIME, EVENT, TIME - 0.5).plan) > len(plain.plan)


def test_description() -> None:
    risk_sets = RiskSets.from_times(TIME, EVENT)
    assert repr(risk_sets) == "RiskSets(6 rows, 3 risk sets, 4 events)"
    assert len(risk_sets.to("cpu")) == 6
    nobody = RiskSets.from_times(TIME[:0], EVENT[:0])
    assert repr(nobody) == "RiskSets(0 rows, 0 risk sets, 0 events)" and len(nobody.take(NONE)) == 0


# --- mini-batches ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_taken_rows(data: st.DataObject, late: bool, stratified: bool) -> None:
    """Repeated or not, in any order: risk sets of the taken rows are those from the taken times."""
    rows = data.draw(st.integers(1, 25))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    time = torch.randint(1, 9, (rows,), generator=generator).double()
    event = torch.rand(rows, generator=generator) < 0.4
    entry = time * torch.rand(rows, generator=generator, dtype=torch.float64) - 1e-9 if late else None
    strata = torch.randint(0, 3, (rows,), generator=generator) if stratified else None
    index = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=40)), dtype=torch.int64)
    log_hazard = torch.randn(rows, generator=generator, dtype=torch.float64)[index]
    taken = RiskSets.from_times(time, event, entry, strata).take(index)
    direct = RiskSets.from_times(
        time[index], event[index], entry[index] if late else None, strata[index] if stratified else None
    )
    assert len(taken) == len(index)
    results = []
    for risk_sets in (taken, direct):
        h = log_hazard.clone().requires_grad_()
        loss = cox_ph_loss(h, risk_sets)
        results.append((loss, torch.autograd.grad(loss, h)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_taken_by_mask_and_taken_again() -> None:
    risk_sets = RiskSets.from_times(TIME, EVENT)
    mask = torch.tensor([True, True, False, False, True, True])
    index = mask.nonzero().squeeze(1)
    assert_equal_plans(risk_sets.take(mask).plan, risk_sets.take(index).plan)
    again = torch.tensor([3, 0])
    assert_equal_plans(risk_sets.take(index).take(again).plan, risk_sets.take(index[again]).plan)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"time": TIME.view(2, 3)}, ValueError, r"time must be \[n\], got shape \(2, 3\)"),
        (
            {"time": TIME.to(torch.complex64)},
            TypeError,
            "time must be floating or a signed integer, got torch.complex64",
        ),
        ({"time": EVENT.bool()}, TypeError, "got torch.bool; were time and event swapped?"),
        ({"event": EVENT[:5]}, ValueError, r"event must have one entry per row of time, \[6\], got shape \(5,\)"),
        ({"entry": TIME[:1]}, ValueError, "entry must have one entry per row of time"),
        (
            {"strata": EVENT[:, None]},
            ValueError,
            r"strata must have one entry per row of time, \[6\], got shape \(6, 1\)",
        ),
        ({"event": EVENT.to("meta")}, ValueError, "event is on meta, time on cpu"),
        ({"entry": TIME.to("meta")}, ValueError, "entry is on meta, time on cpu"),
        ({"strata": EVENT.to("meta")}, ValueError, "strata is on meta, time on cpu"),
        ({"event": EVENT.to(torch.complex64)}, TypeError, "event must not be complex"),
        ({"strata": TIME}, TypeError, "strata must be integers, got torch.float32"),
        ({"strata": EVENT.bool()}, TypeError, "strata must be integers, got torch.bool"),
        ({"time": TIME.where(TIME != 8, math.nan)}, ValueError, "time must be finite and at least 0, got nan in row 3"),
        ({"time": TIME.where(TIME != 8, math.inf)}, ValueError, "time must be finite and at least 0, got inf in row 3"),
        ({"time": TIME.where(TIME != 3, -2.0)}, ValueError, "time must be finite and at least 0, got -2.0 in row 1"),
        ({"time": TIME.long() - 2}, ValueError, "time must be finite and at least 0, got -1 in row 4"),
        ({"event": EVENT + TIME.eq(8) * 2}, ValueError, r"event must be 0 \(censored\) or 1, got 2 in row 3$"),
        ({"event": EVENT.float() / 2}, ValueError, r"event must be 0 \(censored\) or 1, got 0.5 in row 0$"),
        ({"event": TIME.log().sqrt()}, ValueError, r"event must be 0 \(censored\) or 1, got 1.26\d+ in row 0$"),
        ({"time": EVENT, "event": TIME}, ValueError, "got 5.0 in row 0; were time and event swapped?"),
        ({"entry": TIME.where(TIME != 8, math.nan) - 1}, ValueError, "entry must not be NaN, got one in row 3"),
        ({"entry": TIME - (TIME != 3).float()}, ValueError, r"got entry 3.0 and time 3.0 in row 1"),
    ],
)
def test_errors_say_what_was_expected_and_where(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RiskSets.from_times(**({"time": TIME, "event": EVENT} | change))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 6]), r"index must lie in 0\.\.5, got 0 to 6"),
        (torch.tensor([-1]), r"index must lie in 0\.\.5, got -1 to -1"),
        (torch.tensor([0.0]), r"index must be int64 \[b\] or bool \[n\], got torch.float32 \(1,\)"),
        (torch.tensor([[0]]), r"index must be int64 \[b\] or bool \[n\], got torch.int64 \(1, 1\)"),
        (torch.tensor([True]), r"index must have one entry per row, \[6\], got shape \(1,\)"),
    ],
)
def test_errors_of_an_index(index: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RiskSets.from_times(TIME, EVENT).take(index)
