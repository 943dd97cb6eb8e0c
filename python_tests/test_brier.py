"""Brier scores and the censoring distribution against scikit-survival, the definition and worked examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survcore.metrics import (
    CensoringDistribution,
    brier_score,
    censoring_survival,
    concordance_index,
    cs_score,
    integrated_brier_score,
)
from survcore.metrics.censoring import inverse_censoring_weights


def structured(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    outcomes = np.empty(len(time), dtype=[("event", bool), ("time", float)])
    outcomes["event"], outcomes["time"] = event, time
    return outcomes


def patients(seed: int, rows: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponential times, tied where few decimals are kept, 60 % events."""
    generator = np.random.default_rng(seed)
    time = generator.exponential(10, rows).round(decimals)
    return time, generator.random(rows) < 0.6


def curves(seed: int, rows: int, times: np.ndarray) -> np.ndarray:
    return np.exp(-np.random.default_rng(seed).exponential(0.1, rows)[:, None] * times)


def censoring_by_definition(time: np.ndarray, event: np.ndarray, t: float, before: bool) -> float:
    """Product over the censoring times: a patient with an event at that time has left the risk set."""
    value = 1.0
    for now in np.unique(time[~event]):
        if now < t or (now == t and not before):
            censored = ((time == now) & ~event).sum()
            value *= 1 - censored / ((time > now).sum() + censored)
    return value


def brier_by_definition(time, event, survival, times, train, convention) -> np.ndarray:
    scores = []
    for t, column in zip(times, survival.T, strict=True):
        total = 0.0
        for own, happened, s in zip(time, event, column, strict=True):
            if own > t:
                total += (1 - s) ** 2 / censoring_by_definition(*train, t, before=False)
            elif happened:
                total += s**2 / censoring_by_definition(*train, own, before=convention == "G(T-)")
        scores.append(total / len(time))
    return np.array(scores)


# --- the censoring distribution -------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_censoring_by_definition(decimals: int) -> None:
    time, event = patients(0, 80, decimals)
    at = np.linspace(0, time.max(), 57).round(decimals)
    for before in (True, False):
        expected = [censoring_by_definition(time, event, t, before) for t in at]
        np.testing.assert_allclose(censoring_survival(time, event, at, before=before), expected, rtol=0, atol=1e-14)


def test_censoring_of_scikit_survival() -> None:
    estimator = pytest.importorskip("sksurv.nonparametric").CensoringDistributionEstimator
    time, event = patients(1, 400, 1)
    expected = estimator().fit(structured(time, event)).predict_proba(time)
    np.testing.assert_allclose(censoring_survival(time, event, time, before=False), expected, rtol=0, atol=1e-14)


def test_events_precede_censorings() -> None:
    """Of three at time 2, one dies: two are then at risk of censoring, and one of them is censored."""
    time, event = [1, 2, 2, 3], [1, 1, 0, 1]
    censoring = CensoringDistribution.fit(time, event)
    assert censoring.before([1, 2, 3]).tolist() == [1, 1, 0.5]
    assert censoring.at([1, 2, 3]).tolist() == [1, 0.5, 0.5]
    assert np.isnan(censoring.at(3.1)) and censoring.at(0) == 1
    assert CensoringDistribution.fit([1, 2], [1, 0]).at([1, 2]).tolist() == [1, 0]


def test_censoring_by_stratum() -> None:
    time, event = patients(2, 90, 0)
    site = np.array(["a", "b", "c"])[np.arange(90) % 3]
    at, at_site = np.array([3.0, 3.0, 5.0]), ["b", "a", "b"]
    found = censoring_survival(time, event, at, before=True, strata=(site, at_site))
    for value, t, own in zip(found, at, at_site, strict=True):
        assert value == censoring_survival(time[site == own], event[site == own], [t], before=True)[0]
    with pytest.raises(ValueError, match="stratum 'd' has no training outcomes"):
        censoring_survival(time, event, at, before=True, strata=(site, ["b", "a", "d"]))
    with pytest.raises(ValueError, match="strata as a vector of 3 labels, got shape \\(2,\\)"):
        censoring_survival(time, event, at, before=True, strata=(site, ["b", "a"]))


def test_no_weight_where_nobody_stays_uncensored() -> None:
    time, needed = np.array([1.0, 2.0]), np.array([True, True])
    with pytest.raises(ValueError, match="row 1, time 2.0: every training patient .* \\(G = 0\\); choose tau below 2"):
        inverse_censoring_weights(np.array([0.5, 0.0]), time, needed, "choose tau below 2")
    with pytest.raises(ValueError, match="row 0, time 1.0: the time is beyond the longest training follow-up"):
        inverse_censoring_weights(np.array([np.nan, 0.5]), time, needed, "choose tau below 2")
    weights = inverse_censoring_weights(np.array([0.5, 0.0]), time, np.array([True, False]), "")
    assert weights.tolist() == [2, 0]


# --- other packages and the definition ------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_brier_scores_of_scikit_survival(decimals: int) -> None:
    metrics = pytest.importorskip("sksurv.metrics")
    train, (time, event) = patients(3, 500, decimals), patients(4, 300, decimals)
    time = np.minimum(time, train[0].max())  # it asks for the weights of later patients too, though it uses none
    times = np.arange(1.0, 20)
    survival = curves(5, 300, times)
    arguments = (structured(*train), structured(time, event), survival, times)
    ours = brier_score(time, event, survival, times, train=train, convention="G(T)")
    np.testing.assert_allclose(ours, metrics.brier_score(*arguments)[1], rtol=0, atol=1e-12)
    integrated = integrated_brier_score(time, event, survival, times, train=train, convention="G(T)")
    assert integrated == pytest.approx(metrics.integrated_brier_score(*arguments), abs=1e-12)


@pytest.mark.parametrize("convention", ["G(T-)", "G(T)"])
@pytest.mark.parametrize("decimals", [0, 8])
def test_brier_score_by_definition(convention: str, decimals: int) -> None:
    train, (time, event) = patients(6, 70, decimals), patients(7, 50, decimals)
    times = np.array([0.0, 2, 3, 5.5, 8])
    survival = curves(8, 50, times)
    ours = brier_score(time, event, survival, times, train=train, convention=convention)
    expected = brier_by_definition(time, event, survival, times, train, convention)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13)


def test_conventions_differ_where_censorings_share_the_time_of_an_event() -> None:
    time, event = [1, 2, 2, 3], [1, 1, 0, 1]
    survival = np.full((4, 1), 0.5)
    assert brier_score(time, event, survival, [2.5]).tolist() == [(0.25 + 0.25 + 0.25 / 0.5) / 4]
    assert brier_score(time, event, survival, [2.5], convention="G(T)").tolist() == [(0.25 + 0.25 / 0.5 * 2) / 4]


def test_brier_score_of_survivaleval() -> None:
    evaluator = pytest.importorskip("SurvivalEVAL").SurvivalEvaluator
    train, (time, event) = patients(9, 400, 8), patients(10, 200, 8)
    times = np.linspace(0, 30, 61)
    survival = curves(11, 200, times)
    theirs = evaluator(survival, times, time, event, *train).brier_score(10.0)
    assert brier_score(time, event, survival, times, train=train, at=10.0)[0] == pytest.approx(theirs, abs=1e-12)


def test_without_censoring_the_mean_squared_error() -> None:
    time, _ = patients(12, 200, 1)
    times = np.array([2.0, 5, 9])
    survival = curves(13, 200, times)
    expected = ((survival - (time[:, None] > times)) ** 2).mean(axis=0)
    np.testing.assert_allclose(brier_score(time, np.ones(200), survival, times), expected, rtol=1e-13)
    assert brier_score(time, np.ones(200), time[:, None] > times, times).tolist() == [0, 0, 0]


def test_integral_over_an_uneven_grid() -> None:
    """Survival of 1 for all of three who fail at 1, 2 and 4: scores 1/3, 2/3, 2/3, 1 at 1, 2, 3, 5."""
    scores = brier_score([1, 2, 4, 9], [1, 1, 1, 1], np.ones((4, 4)), [1, 2, 3, 5])
    assert scores.tolist() == [0.25, 0.5, 0.5, 0.75]
    integrated = integrated_brier_score([1, 2, 4, 9], [1, 1, 1, 1], np.ones((4, 4)), [1, 2, 3, 5])
    assert integrated == pytest.approx((0.375 * 1 + 0.5 * 1 + 0.625 * 2) / 4, abs=1e-15)


# --- properties -----------------------------------------------------------------------------------------------------

outcomes = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.floats(0, 1)), min_size=2, max_size=30)


@settings(max_examples=200, deadline=None)
@given(outcomes, st.randoms(use_true_random=False))
def test_order_and_duplicates_of_patients_do_not_matter(rows: list[tuple[int, bool, float]], random) -> None:
    rows.append((7, True, 0.5))  # G stays above 0
    times = [0.5, 3, 6]

    def scores(rows: list[tuple[int, bool, float]]) -> np.ndarray:
        time, event, level = (np.array(column) for column in zip(*rows, strict=True))
        return brier_score(time, event, level[:, None] ** np.array([1, 2, 3]), times)

    expected = scores(rows)
    np.testing.assert_allclose(scores(random.sample(rows, len(rows))), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(scores(rows + rows), expected, rtol=1e-12, atol=1e-15)


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_curves_in_all_their_shapes() -> None:
    (time, event), times = patients(14, 123, 1), np.linspace(0.5, 15, 37)
    survival = curves(15, 123, times)
    expected = brier_score(time, event, survival, times)
    frame = pd.DataFrame(survival.T, index=times)
    wide = np.zeros((123, 74))
    wide[:, ::2] = survival
    for same in (np.asfortranarray(survival), wide[:, ::2], torch.tensor(survival), survival.tolist()):
        np.testing.assert_allclose(brier_score(time, event, same, times), expected, rtol=1e-13)
    for same in (frame, frame.copy(), pd.DataFrame(np.asfortranarray(survival.T), index=times)):
        np.testing.assert_allclose(brier_score(time, event, same), expected, rtol=1e-13)
    single = survival.astype(np.float32)
    for same in (single, np.asfortranarray(single)):
        np.testing.assert_allclose(
            brier_score(time, event, same, times), brier_score(time, event, single.astype(float), times), rtol=1e-13
        )
    np.testing.assert_array_equal(brier_score(structured(time, event), None, survival, times), expected)
    train = structured(time, event)
    np.testing.assert_array_equal(brier_score(time, event, survival, times, train=train), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_curves_are_steps(order: str) -> None:
    (time, event), times = patients(16, 60, 1), np.array([2.0, 4, 8])
    survival = np.array(curves(17, 60, times), order=order)
    found = brier_score(time, event, survival, times, at=[1, 2, 3.9, 4, 7])
    steps = np.column_stack([np.ones(60), survival[:, 0], survival[:, 0], survival[:, 1], survival[:, 1]])
    np.testing.assert_allclose(found, brier_score(time, event, steps, [1, 2, 3.9, 4, 7]), rtol=1e-13)
    with pytest.raises(ValueError, match="at within the times of the curves, up to 8.0, got 9.0"):
        brier_score(time, event, survival, times, at=[1, 9])
    with pytest.raises(ValueError, match="at to rise"):
        brier_score(time, event, survival, times, at=[4, 2])


def test_all_censored() -> None:
    """Everyone outlives the evaluation time; the censored before it are stood in for by the others."""
    time, event = [1.0, 2, 3, 4], [0, 0, 0, 0]
    assert brier_score(time, event, np.full((4, 1), 0.8), [2.5])[0] == pytest.approx(0.04)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [np.nan, -0.25, 1.5, np.inf])
def test_survival_outside_zero_and_one(order: str, kind: type, wrong: float) -> None:
    (time, event), times = patients(18, 40, 1), np.arange(1.0, 12)
    for row, column in ((0, 0), (17, 3), (39, 10)):
        survival = np.array(curves(19, 40, times), dtype=kind, order=order)
        survival[row, column] = wrong
        message = f"survival between 0 and 1, got {wrong} at row {row}, time {times[column]}"
        with pytest.raises(ValueError, match=message):
            brier_score(time, event, survival, times)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": [1, 2, 6]}, "within the training follow-up, 0 to 5.0, got 6.0; evaluate at earlier times"),
        ({"times": [-1, 2, 3]}, "within the training follow-up, 0 to 5.0, got -1.0"),
        ({"train": ([1, 2, 3], [1, 0, 0])}, "no Brier score at time 3.0: .*\\(G = 0\\); evaluate at earlier times"),
        ({"train": ([1, 2, 3], [1, 0, 2])}, "train event to be 0 \\(censored\\) or 1"),
        ({"train": [1.0, 2.0, 3.0]}, "train event is missing"),
        ({"times": [1, 3, 2]}, "times to rise"),
        ({"times": None}, "times are missing"),
        ({"survival": np.ones((5, 2))}, "survival \\[patients, times\\] = \\[5, 3\\], got shape \\(5, 2\\)"),
        ({"convention": "G"}, "convention 'G\\(T-\\)' or 'G\\(T\\)', got 'G'"),
        ({"time": [1, 2, np.nan, 4, 5]}, "finite time of at least 0, got nan at row 2"),
        ({"time": [], "event": [], "survival": np.ones((0, 3))}, "at least one patient"),
    ],
)
def test_errors_name_what_is_wrong(changes: dict, message: str) -> None:
    arguments = {
        "time": [1, 2, 3, 4, 5],
        "event": [1, 0, 1, 1, 1],
        "survival": np.full((5, 3), 0.5),
        "times": [1, 2, 3],
    }
    with pytest.raises(ValueError, match=message):
        brier_score(**(arguments | changes))


def test_a_single_time_has_no_integral() -> None:
    with pytest.raises(ValueError, match="at least two evaluation times to integrate over, got 1"):
        integrated_brier_score([1, 2], [1, 1], np.full((2, 1), 0.5), [1])


def test_cs_score() -> None:
    assert cs_score(0.84, 0.1) == pytest.approx(0.87)
    assert cs_score(concordance_index([1, 2, 3], [1, 1, 1], [3, 2, 1]), 0) == 1
    assert np.isnan(cs_score(float("nan"), 0.1))
    with pytest.raises(ValueError, match="concordance between 0 and 1, got 84.0"):
        cs_score(84, 0.1)
    with pytest.raises(ValueError, match="integrated_brier as a finite number of at least 0, got -0.1"):
        cs_score(0.8, -0.1)
