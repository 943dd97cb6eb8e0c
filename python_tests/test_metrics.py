"""Kaplan-Meier against R, lifelines and the definition."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survcore.metrics import kaplan_meier

RealData = Callable[[str], Path]


# --- R and other packages -------------------------------------------------------------------------------------------


def _oracle_rows(real_data: RealData, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = pd.read_csv(real_data("deepsurv_benchmarks") / f"{name}.csv.gz")
    return rows["time"].to_numpy(), rows["event"].to_numpy()


@pytest.mark.parametrize("name", ["support", "metabric"])
def test_kaplan_meier_of_r(real_data: RealData, name: str) -> None:
    oracle = json.loads((real_data("r_survival_oracle") / "oracle.json").read_text())
    (expected,) = [entry for entry in oracle["kaplan_meier"] if entry["case"] == name]
    curve = kaplan_meier(*_oracle_rows(real_data, name))
    np.testing.assert_allclose(curve.survival_at(expected["times"]), expected["surv"], rtol=0, atol=1e-12)
    places = np.searchsorted(curve.times, expected["times"], side="right") - 1
    np.testing.assert_allclose(curve.standard_error[places], expected["se"], rtol=0, atol=1e-12)


def test_kaplan_meier_of_lifelines() -> None:
    from lifelines import KaplanMeierFitter

    generator = np.random.default_rng(1)
    time, event = generator.exponential(20, 500).round(1), generator.random(500) < 0.6
    fitter = KaplanMeierFitter().fit(time, event)
    curve = kaplan_meier(time, event)
    table = fitter.event_table[fitter.event_table["removed"] > 0]
    np.testing.assert_array_equal(curve.times, table.index)
    np.testing.assert_array_equal(curve.at_risk, table["at_risk"])
    np.testing.assert_array_equal(curve.events, table["observed"])
    np.testing.assert_allclose(curve.survival, fitter.survival_function_at_times(curve.times), rtol=0, atol=1e-12)


# --- the definition -------------------------------------------------------------------------------------------------

# Few distinct values make ties; the rest of the floats makes near ties and extreme ranges.
times = st.one_of(st.sampled_from([0.0, 1.0, 1.5, 3.0]), st.floats(0, 1e300))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(times, st.booleans()), min_size=1, max_size=60))
def test_kaplan_meier_by_definition(rows: list[tuple[float, bool]]) -> None:
    time, event = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    curve = kaplan_meier(time, event)
    np.testing.assert_array_equal(curve.times, np.unique(time))
    np.testing.assert_array_equal(curve.at_risk, [(time >= now).sum() for now in curve.times])
    np.testing.assert_array_equal(curve.events, [event[time == now].sum() for now in curve.times])
    np.testing.assert_allclose(curve.survival, np.cumprod(1 - curve.events / curve.at_risk), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("setting", "cores", "threads"),
    [("1", {0, 1}, 0), ("1,4", {0, 1}, 0), ("2", {0, 1}, 1), ("", {0, 1}, 1), (None, {0, 1}, 1), (None, {0}, 0)],
)
def test_kaplan_meier_of_many_rows(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, cores: set[int], threads: int
) -> None:
    """A second thread sorts where the environment and the cores allow one."""
    if setting is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores, raising=False)
    started = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), start(thread)))
    generator = np.random.default_rng(4)
    time, event = generator.exponential(30, 300_000).round(3), generator.random(300_000) < 0.5
    curve = kaplan_meier(time, event)
    distinct, inverse, count = np.unique(time, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(curve.times, distinct)
    np.testing.assert_array_equal(curve.at_risk, count[::-1].cumsum()[::-1])
    np.testing.assert_array_equal(curve.events, np.bincount(inverse, weights=event))
    assert len(started) == threads


def test_repr_and_equality() -> None:
    curve = kaplan_meier([2.0, 4.0, 4.0, 6.5], [1, 1, 0, 0])
    assert repr(curve) == "KaplanMeier(3 times from 2 to 6.5, last survival 0.5)"
    assert curve == curve
    assert curve != kaplan_meier([2.0, 4.0, 4.0, 6.5], [1, 1, 0, 0])
    assert len({curve, curve}) == 1


def test_survival_between_and_beyond_the_times() -> None:
    curve = kaplan_meier([2.0, 4.0, 4.0, 6.0], [1, 1, 0, 0])
    np.testing.assert_array_equal(curve.survival, [0.75, 0.5, 0.5])
    expected = [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.5]
    np.testing.assert_array_equal(curve.survival_at([-1, 1.9, 2, 3.9, 4, 6, 100]), expected)
    assert np.isnan(curve.survival_at(np.nan))
    assert curve.survival_at(torch.tensor(4)) == 0.5


# --- late entry and weights -----------------------------------------------------------------------------------------


def late_entries(seed: int, rows: int, decimals: int) -> tuple[np.ndarray, ...]:
    """Time, event, entry and weights, one of them 0."""
    generator = np.random.default_rng(seed)
    time = (1 + generator.exponential(20, rows)).round(decimals)
    entry = np.floor(time * generator.random(rows) * 0.99 * 10**decimals) / 10**decimals
    weights = generator.exponential(size=rows)
    weights[rows // 2] = 0
    return time, generator.random(rows) < 0.6, entry, weights


def kaplan_meier_by_definition(
    time: np.ndarray, event: np.ndarray, entry: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    time, event, entry, weights = (values[weights > 0] for values in (time, event, entry, weights))
    times = np.unique(time)
    at_risk = np.array([weights[(entry < now) & (time >= now)].sum() for now in times])
    events = np.array([weights[event & (time == now)].sum() for now in times])
    survival = np.cumprod(1 - events / at_risk)
    standard_error = survival * np.sqrt(np.cumsum(events / (at_risk * (at_risk - events))))
    fields = {"times": times, "survival": survival, "at_risk": at_risk, "events": events}
    return fields | {"standard_error": standard_error}


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_late_entry_and_weights_by_definition(decimals: int, late: bool, weighted: bool) -> None:
    time, event, entry, weights = late_entries(5, 400, decimals)
    # Some are at risk from first to last and live, so that survival and its standard error stay above 0.
    time[:3], event[:3], entry[:3] = 200, False, 0
    curve = kaplan_meier(time, event, entry=entry if late else None, weights=weights if weighted else None)
    expected = kaplan_meier_by_definition(
        time, event, entry if late else np.full(400, -np.inf), weights if weighted else np.ones(400)
    )
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(curve, name), values, rtol=1e-11, atol=1e-13, err_msg=name)
    assert curve.at_risk.dtype == curve.events.dtype == (np.float64 if weighted else np.int64)


def test_late_entry_and_weights_of_lifelines() -> None:
    from lifelines import KaplanMeierFitter

    time, event, entry, _ = late_entries(6, 300, 1)
    time[:3], event[:3], entry[:3] = 200, False, 0
    weights = np.random.default_rng(7).integers(1, 4, 300)
    for arguments in ({"entry": entry}, {"weights": weights}, {"entry": entry, "weights": weights}):
        curve = kaplan_meier(time, event, **arguments)
        fitter = KaplanMeierFitter().fit(time, event, **arguments)
        expected = fitter.survival_function_at_times(curve.times)
        np.testing.assert_allclose(curve.survival, expected, rtol=0, atol=1e-12)


def test_a_weight_is_a_number_of_patients() -> None:
    time, event, entry, _ = late_entries(8, 200, 1)
    weights = np.random.default_rng(9).integers(0, 4, 200)
    curve = kaplan_meier(time, event, entry=entry, weights=weights)
    repeated = kaplan_meier(*(np.repeat(values, weights) for values in (time, event)), entry=np.repeat(entry, weights))
    for name in ("times", "survival", "at_risk", "events", "standard_error"):
        np.testing.assert_allclose(getattr(curve, name), getattr(repeated, name), rtol=1e-12, err_msg=name)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 5), st.floats(0, 2)), max_size=30).filter(
        lambda rows: any(weight for *_, weight in rows)
    )
)
def test_order_and_duplicates_of_patients_do_not_matter(rows: list[tuple[int, bool, int, float]]) -> None:
    def survival(rows: list[tuple[int, bool, int, float]]) -> np.ndarray:
        time, event, entry, weights = np.array(rows, dtype=float).reshape(-1, 4).T
        entry = np.minimum(entry, time - 1)
        curves = (kaplan_meier(time, event, entry=entry), kaplan_meier(time, event, entry=entry, weights=weights))
        return np.concatenate([curve.survival for curve in curves])

    np.testing.assert_allclose(survival(rows[::-1]), survival(rows), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(survival(rows + rows), survival(rows), rtol=1e-12, atol=1e-15)


def test_few_at_risk_after_many_heavy_weights() -> None:
    """Rounding of the large sums neither keeps the dead alive nor kills the living."""
    generator = np.random.default_rng(10)
    time = np.append(generator.uniform(0, 1, 10_000), [2.0, 3.0, 4.0])
    weights = np.append(generator.exponential(1e9, 10_000), [0.1, 0.2, 0.3])
    event = np.append(np.zeros(10_000, dtype=bool), [True, True, True])
    curve = kaplan_meier(time, event, weights=weights, entry=np.append(np.full(10_000, -1.0), [0.5, 0.6, 0.7]))
    np.testing.assert_allclose(curve.survival[-3:-1], [5 / 6, 1 / 2], rtol=1e-12)
    assert curve.survival[-1] == 0
    assert np.isnan(curve.standard_error[-1]) and curve.standard_error[-2] > 0


@pytest.mark.parametrize("weights", [None, [1, 1, 1]])
def test_survival_stays_zero_when_all_at_risk_have_died(weights: list | None) -> None:
    """The first patient is alone at risk; those who enter later cannot bring survival back."""
    curve = kaplan_meier([1, 3, 4], [1, 1, 0], entry=[0, 2, 2], weights=weights)
    assert curve.survival.tolist() == [0, 0, 0]
    assert curve.at_risk.tolist() == [1, 2, 1]
    assert np.isnan(curve.standard_error).all()


def test_entry_at_the_time_of_an_event_is_too_late() -> None:
    assert kaplan_meier([2, 5, 6], [1, 1, 0], entry=[0, 2, 1]).at_risk.tolist() == [2, 2, 1]


def test_patients_of_weight_zero_are_not_there() -> None:
    curve = kaplan_meier([1, 2, 3], [1, 1, 0], weights=[1, 0, 1])
    assert (curve.times.tolist(), curve.survival.tolist()) == ([1, 3], [0.5, 0.5])
    with pytest.raises(ValueError, match="expected weights above 0, got only zeros"):
        kaplan_meier([1, 2], [1, 1], weights=[0, 0])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("scale", [1e308, 1e150, 1e-300, 5e-324])
def test_unit_of_the_weights_does_not_matter(scale: float, late: bool) -> None:
    time, event, entry, weights = late_entries(11, 300, 1)
    time[:3], event[:3], entry[:3] = 200, False, 0
    weights = np.ceil(4 * weights / weights.max()) / 4  # at most 1
    if scale < 1e-320:
        weights *= 4
    plain = kaplan_meier(time, event, entry=entry if late else None, weights=weights)
    curve = kaplan_meier(time, event, entry=entry if late else None, weights=weights * scale)
    np.testing.assert_allclose(curve.survival, plain.survival, rtol=1e-14)
    np.testing.assert_allclose(curve.standard_error, plain.standard_error / np.sqrt(scale), rtol=1e-12)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(curve.at_risk, plain.at_risk * scale, rtol=1e-14)
        np.testing.assert_allclose(curve.events, plain.events * scale, rtol=1e-14)


def test_weights_whose_sum_exceeds_the_range() -> None:
    curve = kaplan_meier([1, 2, 3], [1, 0, 0], weights=[1e308] * 3)
    np.testing.assert_allclose(curve.survival, 2 / 3)
    assert curve.at_risk.tolist() == [np.inf, np.inf, 1e308]
    np.testing.assert_allclose(curve.standard_error, np.sqrt(2 / 27) * 1e-154)


@pytest.mark.parametrize("entry", [None, [0, 0, 0, 0, 0]])
@pytest.mark.parametrize("heavy", [1e17, 1e100, 1e300])
def test_light_patients_beside_heavy_ones(entry: list | None, heavy: float) -> None:
    """Three magnitudes, which no sum in float64 holds at once; the heavy die or leave first."""
    weights = [heavy, heavy**0.5, 0.5, 0.25, 0.25]
    curve = kaplan_meier([1, 2, 3, 4, 5], [0, 1, 0, 1, 0], entry=entry, weights=weights)
    staying = 1 / (1 + heavy**0.5)
    np.testing.assert_allclose(curve.survival, [1, staying, staying, staying / 2, staying / 2], rtol=1e-14)
    assert curve.at_risk[-2:].tolist() == [0.5, 0.25]
    variance = np.array([heavy**0.5 / (1 + heavy**0.5), 0.25 / (0.5 * 0.25)]).cumsum()
    np.testing.assert_allclose(curve.standard_error[[1, 3]], curve.survival[[1, 3]] * np.sqrt(variance), rtol=1e-13)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entry": [0, 2, 1]}, "entry before time, got entry 2.0 and time 2.0 at row 1"),
        ({"entry": [0, np.nan, 1]}, "entry before time, got entry nan"),
        ({"entry": [0, 1]}, "3 values of entry, one per time, got 2"),
        ({"weights": [1, -1, 1]}, "finite weights of at least 0, got -1.0 at row 1"),
        ({"weights": [1, 1, np.inf]}, "finite weights of at least 0, got inf at row 2"),
        ({"weights": [1, 1]}, "3 values of weights, one per time, got 2"),
    ],
)
def test_errors_of_entry_and_weights(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kaplan_meier([1, 2, 3], [1, 0, 1], **changes)


# --- edges and errors -----------------------------------------------------------------------------------------------


def test_kaplan_meier_edges() -> None:
    for weights in (None, []):
        with pytest.raises(ValueError, match="at least one patient, got none"):
            kaplan_meier([], [], weights=weights)
    assert kaplan_meier([3.0], [1]).survival.tolist() == [0]
    assert kaplan_meier([3.0, 5.0], [0, 0]).survival.tolist() == [1, 1]
    tied = kaplan_meier([-0.0, 0.0, 0.0], [1, 0, 0])
    assert (tied.times.tolist(), tied.at_risk.tolist(), tied.events.tolist()) == ([0.0], [3], [1])


@pytest.mark.parametrize("kind", [np.array, pd.Series, torch.tensor, list])
@pytest.mark.parametrize("event_type", [bool, int, float])
def test_input_types(kind: Callable, event_type: type) -> None:
    event = kind([event_type(value) for value in (1, 0, 1, 1)])
    assert kaplan_meier(kind([1, 2, 3, 4]), event).events.tolist() == [1, 0, 1, 1]


def test_tensors_half_precision_and_strides() -> None:
    time = torch.arange(8, dtype=torch.bfloat16, requires_grad=True)[::2]
    assert kaplan_meier(time, torch.ones(4)).times.tolist() == [0, 2, 4, 6]
    time = np.arange(8.0)[::2]
    time.setflags(write=False)
    assert kaplan_meier(time, np.ones(8, dtype=bool)[::2]).times.tolist() == [0, 2, 4, 6]


def test_inputs_are_left_alone() -> None:
    time, event = np.array([3.0, 1.0, 2.0]), np.array([True, False, True])
    copies = [values.copy() for values in (time, event)]
    kaplan_meier(time, event)
    for values, copy in zip((time, event), copies, strict=True):
        np.testing.assert_array_equal(values, copy)


def test_series_in_different_orders_are_refused() -> None:
    time, event = (pd.Series(values, index=list("abc")) for values in ([1.0, 2, 3], [1, 0, 1]))
    assert kaplan_meier(time, event, weights=event).at_risk.tolist() == [2, 1]
    with pytest.raises(ValueError, match="weights and time have different indexes"):
        kaplan_meier(time, event, weights=event[::-1])


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([1, 2, 3], [1, 0], "event as a vector of 3 values like time, got shape \\(2,\\)"),
        ([1, np.nan, 3], [1, 0, 1], "finite time of at least 0, got nan at row 1"),
        ([1, 2, 3], [1, 0, 2], "0 \\(censored\\) or 1 \\(event\\), got 2 at row 2; of several causes"),
        ([1, 0, 1], [12.5, 3.0, 7.0], "time holds only 0 and 1 and event 3 different values.*exchanged"),
    ],
)
def test_errors_name_what_is_wrong(time: list, event: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kaplan_meier(time, event)
