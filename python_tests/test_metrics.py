"""Concordance and Kaplan-Meier against published values, R, lifelines and the definition."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survcore.metrics import Concordance, concordance_index, kaplan_meier

RealData = Callable[[str], Path]


def concordance_by_definition(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> tuple[int, ...]:
    """Pair counts of R's survival::concordance from all n x n pairs."""
    failed_first = (time[:, None] < time) | ((time[:, None] == time) & ~event)
    comparable = event[:, None] & failed_first
    both_failed = event[:, None] & event & (time[:, None] == time) & ~np.eye(len(time), dtype=bool)
    higher, equal = risk[:, None] > risk, risk[:, None] == risk
    counts = [comparable & higher, comparable & ~higher & ~equal, comparable & equal]
    counts_in_both_orders = [both_failed & ~equal, both_failed & equal]
    return tuple(int(pairs.sum()) for pairs in counts) + tuple(int(pairs.sum()) // 2 for pairs in counts_in_both_orders)


def counts_of(concordance: Concordance) -> tuple[int, ...]:
    return (
        concordance.concordant,
        concordance.discordant,
        concordance.tied_risk,
        concordance.tied_time,
        concordance.tied_both,
    )


# --- published values and other packages ----------------------------------------------------------------------------


def test_published_concordance_indices(real_data: RealData) -> None:
    """All 275 fold C-indices that MCAT's authors published, from their out-of-fold risks."""
    folder = real_data("mcat_published_risks")
    published = pd.read_csv(folder / "summary_cindex.csv").set_index(["model", "cohort", "folds"])["val_cindex"]
    risks = pd.read_csv(folder / "val_risks.csv.gz")
    computed = {
        fold: concordance_index(rows["survival_months"], 1 - rows["censorship"], rows["risk"]).value
        for fold, rows in risks.groupby(["model", "cohort", "val_fold"])
    }
    assert len(computed) == len(published) == 275
    for fold, value in computed.items():
        assert value == pytest.approx(published[fold], abs=1e-15), fold


def _oracle_rows(real_data: RealData, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = pd.read_csv(real_data("deepsurv_benchmarks") / f"{name}.csv.gz")
    return rows["time"].to_numpy(), rows["event"].to_numpy()


@pytest.mark.parametrize("name", ["support", "metabric"])
@pytest.mark.parametrize("decimals", [None, 1])
def test_concordance_counts_of_r(real_data: RealData, name: str, decimals: int | None) -> None:
    oracle = json.loads((real_data("r_survival_oracle") / "oracle.json").read_text())
    predictor = "lp" if decimals is None else "lp rounded to 1 decimal (ties)"
    (expected,) = [
        entry
        for entry in oracle["concordance"]
        if (entry["case"], entry["predictor"], entry["timewt"]) == (name, predictor, "n")
    ]
    time, event = _oracle_rows(real_data, name)
    linear_predictor = (7 * np.arange(len(time))) % 101 / 101 - 0.5
    if decimals is not None:
        linear_predictor = linear_predictor.round(decimals)
    concordance = concordance_index(time, event, linear_predictor)
    counts = expected["counts"]
    assert counts_of(concordance) == tuple(
        counts[key] for key in ("concordant", "discordant", "tied.x", "tied.y", "tied.xy")
    )
    assert float(concordance) == pytest.approx(expected["concordance"], abs=1e-14)


@pytest.mark.parametrize("name", ["support", "metabric"])
def test_kaplan_meier_of_r(real_data: RealData, name: str) -> None:
    oracle = json.loads((real_data("r_survival_oracle") / "oracle.json").read_text())
    (expected,) = [entry for entry in oracle["kaplan_meier"] if entry["case"] == name]
    curve = kaplan_meier(*_oracle_rows(real_data, name))
    np.testing.assert_allclose(curve.survival_at(expected["times"]), expected["surv"], rtol=0, atol=1e-12)


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


def test_concordance_of_lifelines_and_scikit_survival() -> None:
    from lifelines.utils import concordance_index as of_lifelines

    of_scikit_survival = pytest.importorskip("sksurv.metrics").concordance_index_censored
    generator = np.random.default_rng(2)
    time, event = generator.exponential(20, 300), generator.random(300) < 0.5
    risk = generator.normal(size=300).round(1)
    value = concordance_index(time, event, risk).value
    assert value == pytest.approx(of_lifelines(time, -risk, event), abs=1e-15)
    assert value == pytest.approx(of_scikit_survival(event, time, risk)[0], abs=1e-15)


# --- the definition -------------------------------------------------------------------------------------------------

# Few distinct values make ties; the rest of the floats makes near ties and extreme ranges.
times = st.one_of(st.sampled_from([0.0, 1.0, 1.5, 3.0]), st.floats(0, 1e300))
risks = st.one_of(st.sampled_from([-1.0, -0.0, 0.0, 2.0]), st.floats(allow_nan=False))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(times, st.booleans(), risks), max_size=60))
def test_concordance_by_definition(rows: list[tuple[float, bool, float]]) -> None:
    time, event, risk = (np.array([row[column] for row in rows], dtype=kind) for column, kind in enumerate("d?d"))
    assert counts_of(concordance_index(time, event, risk)) == concordance_by_definition(time, event, risk)


@pytest.mark.parametrize("decimals", [0, 2, 17])
def test_concordance_by_definition_of_many_rows(decimals: int) -> None:
    """More rows than one word of the bitmap or one node of the tree holds."""
    generator = np.random.default_rng(decimals)
    time = generator.exponential(30, 3000).round(decimals)
    event, risk = generator.random(3000) < 0.5, generator.normal(size=3000).round(decimals)
    assert counts_of(concordance_index(time, event, risk)) == concordance_by_definition(time, event, risk)


def test_concordance_tells_neighbouring_numbers_apart() -> None:
    """Values that agree in their leading bits: one far outlier leaves few bits for the others."""
    generator = np.random.default_rng(3)
    time = np.append(1000 * (1 + 2.0**-52 * generator.integers(0, 8, 200)), 0.0)
    risk = np.append(1 + 2.0**-52 * generator.integers(0, 8, 200), 1e300)
    event = generator.random(201) < 0.7
    assert counts_of(concordance_index(time, event, risk)) == concordance_by_definition(time, event, risk)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(times, st.booleans()), min_size=1, max_size=60))
def test_kaplan_meier_by_definition(rows: list[tuple[float, bool]]) -> None:
    time, event = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    curve = kaplan_meier(time, event)
    np.testing.assert_array_equal(curve.times, np.unique(time))
    np.testing.assert_array_equal(curve.at_risk, [(time >= now).sum() for now in curve.times])
    np.testing.assert_array_equal(curve.events, [event[time == now].sum() for now in curve.times])
    np.testing.assert_allclose(curve.survival, np.cumprod(1 - curve.events / curve.at_risk), rtol=0, atol=1e-12)


def test_kaplan_meier_of_many_rows_in_two_threads() -> None:
    generator = np.random.default_rng(4)
    time, event = generator.exponential(30, 300_000).round(3), generator.random(300_000) < 0.5
    curve = kaplan_meier(time, event)
    distinct, inverse, count = np.unique(time, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(curve.times, distinct)
    np.testing.assert_array_equal(curve.at_risk, count[::-1].cumsum()[::-1])
    np.testing.assert_array_equal(curve.events, np.bincount(inverse, weights=event))


def test_survival_between_and_beyond_the_times() -> None:
    curve = kaplan_meier([2.0, 4.0, 4.0, 6.0], [1, 1, 0, 0])
    np.testing.assert_array_equal(curve.survival, [0.75, 0.5, 0.5])
    expected = [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.5]
    np.testing.assert_array_equal(curve.survival_at([-1, 1.9, 2, 3.9, 4, 6, 100]), expected)
    assert np.isnan(curve.survival_at(np.nan))
    assert curve.survival_at(torch.tensor(4)) == 0.5


# --- edges and errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "event", "counts"),
    [
        ([], [], (0, 0, 0, 0, 0)),
        ([3.0], [1], (0, 0, 0, 0, 0)),
        ([3.0, 5.0, 7.0], [0, 0, 0], (0, 0, 0, 0, 0)),
        ([3.0, 3.0, 3.0], [1, 1, 1], (0, 0, 0, 0, 3)),
    ],
)
def test_no_comparable_pair_is_nan(time: list[float], event: list[int], counts: tuple[int, ...]) -> None:
    concordance = concordance_index(time, event, np.ones(len(time)))
    assert np.isnan(concordance.value)
    assert counts_of(concordance) == counts


def test_kaplan_meier_edges() -> None:
    nobody = kaplan_meier([], [])
    assert len(nobody.times) == 0
    assert nobody.survival_at(5.0) == 1
    assert kaplan_meier([3.0], [1]).survival.tolist() == [0]
    assert kaplan_meier([3.0, 5.0], [0, 0]).survival.tolist() == [1, 1]
    tied = kaplan_meier([-0.0, 0.0, 0.0], [1, 0, 0])
    assert (tied.times.tolist(), tied.at_risk.tolist(), tied.events.tolist()) == ([0.0], [3], [1])


def test_direction_and_infinite_risk() -> None:
    assert concordance_index([1, 2, 3], [1, 1, 0], [9, 5, 1]).value == 1
    assert concordance_index([1, 2, 3], [1, 1, 0], [-np.inf, 5, np.inf]).value == 0


@pytest.mark.parametrize("kind", [np.array, pd.Series, torch.tensor, list])
@pytest.mark.parametrize("event_type", [bool, int, float])
def test_input_types(kind: Callable, event_type: type) -> None:
    event = kind([event_type(value) for value in (1, 0, 1, 1)])
    concordance = concordance_index(kind([1.0, 2.0, 3.0, 4.0]), event, kind([3.0, 2.0, 4.0, 1.0]))
    assert counts_of(concordance) == (3, 1, 0, 0, 0)
    assert kaplan_meier(kind([1, 2, 3, 4]), event).events.tolist() == [1, 0, 1, 1]


def test_tensors_with_gradient_half_precision_and_strides() -> None:
    risk = torch.tensor([[3.0, 0], [2, 0], [4, 0], [1, 0]], dtype=torch.bfloat16, requires_grad=True)[:, 0]
    assert concordance_index(torch.arange(4), torch.ones(4), risk).discordant == 2
    time = np.arange(8.0)[::2]
    assert kaplan_meier(time, np.ones(8, dtype=bool)[::2]).times.tolist() == [0, 2, 4, 6]
    time.setflags(write=False)
    assert concordance_index(time, np.ones(4), time).value == 0


def test_inputs_are_left_alone() -> None:
    time, event, risk = np.array([3.0, 1.0, 2.0]), np.array([True, False, True]), np.array([0.5, 1.5, -1.0])
    copies = [values.copy() for values in (time, event, risk)]
    concordance_index(time, event, risk)
    kaplan_meier(time, event)
    for values, copy in zip((time, event, risk), copies, strict=True):
        np.testing.assert_array_equal(values, copy)


@pytest.mark.parametrize(
    ("time", "event", "risk", "message"),
    [
        ([1, 2, 3], [1, 0], [1, 2, 3], "event as a vector of 3 values like time, got shape \\(2,\\)"),
        ([1, 2, 3], [1, 0, 1], [1, 2], "expected 3 values of risk, one per time, got 2"),
        ([1, 2, 3], [1, 0, 1], [[1], [2], [3]], "risk as a vector, got shape \\(3, 1\\)"),
        ([1, np.nan, 3], [1, 0, 1], [1, 2, 3], "finite time of at least 0, got nan at row 1"),
        ([1, 2, -3], [1, 0, 1], [1, 2, 3], "finite time of at least 0, got -3.0 at row 2"),
        ([np.inf, 2, 3], [1, 0, 1], [1, 2, 3], "finite time of at least 0, got inf at row 0"),
        ([1, 2, 3], [1, 0, 1], [1, 2, np.nan], "risk is NaN at row 2"),
        ([1, 2, 3], [1, 0, 2], [1, 2, 3], "0 \\(censored\\) or 1 \\(event\\), got 2 at row 2; of several causes"),
        ([1, 2, 3], [1, np.nan, 0], [1, 2, 3], "got nan at row 1"),
        ([1, 0, 1], [12.5, 3.0, 7.0], [1, 2, 3], "time holds only 0 and 1 and event 3 different values.*exchanged"),
        ([True, False, True], [12.5, 3.0, 7.0], [1, 2, 3], "time is a vector of True and False.*exchanged"),
    ],
)
def test_errors_name_what_is_wrong(time: list, event: list, risk: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        concordance_index(time, event, risk)
