"""D-calibration and calibration at a horizon: definitions, lifelines, SciPy, SurvivalEVAL, simulated truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from survcore.metrics import calibration_at, d_calibration, kaplan_meier
from survcore.metrics.calibration_curve import calibration_line, pseudo_risks
from survcore.metrics.cox_fit import cox_fit

HORIZON = 5.0


def cohort(seed: int, rows: int = 400, decimals: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, events and true log-hazards of exponential times (mean 10 at log-hazard 0) under censoring."""
    generator = np.random.default_rng(seed)
    log_hazard = generator.normal(size=rows)
    failure = generator.exponential(10 * np.exp(-log_hazard)).round(decimals)
    censoring = generator.exponential(20, rows).round(decimals)
    return np.minimum(failure, censoring), failure <= censoring, log_hazard


def true_risk(log_hazard: np.ndarray, horizon: float = HORIZON) -> np.ndarray:
    return 1 - np.exp(-horizon / 10 * np.exp(log_hazard))


def log_log(risk: np.ndarray) -> np.ndarray:
    return np.log(-np.log1p(-np.clip(risk, 1e-10, 1 - 1e-10)))


# --- D-calibration --------------------------------------------------------------------------------------------------


def counts_by_definition(event: np.ndarray, survival: np.ndarray, bins: int) -> np.ndarray:
    counts = np.zeros(bins)
    for happened, value in zip(event, survival, strict=True):
        for number in range(bins):
            lower, upper = number / bins, (number + 1) / bins
            if happened or value == 0:
                counts[number] += lower <= value < upper or value == upper == 1
            else:
                counts[number] += max(0.0, min(upper, value) - lower) / value
    return counts


probabilities = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.7, 0.9, 1.0, 5e-324]), st.floats(0, 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), probabilities), min_size=1, max_size=30), st.integers(2, 12))
def test_d_calibration_by_definition(rows: list[tuple[bool, float]], bins: int) -> None:
    event, survival = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = d_calibration(np.ones(len(rows)), event, own_survival=survival, bins=bins)
    expected = counts_by_definition(event, survival, bins)
    np.testing.assert_allclose(found.counts, expected, rtol=0, atol=1e-10)
    assert found.counts.sum() == pytest.approx(len(rows), abs=1e-10)
    statistic, p_value = stats.chisquare(expected)
    assert found.statistic == pytest.approx(statistic, abs=1e-9)
    assert found.p_value == pytest.approx(p_value, abs=1e-9)


def test_d_calibration_of_survival_eval() -> None:
    theirs = pytest.importorskip("SurvivalEVAL.evaluations.calibration.distributional.distribution_calibration")
    generator = np.random.default_rng(0)
    event, survival = generator.random(500) < 0.5, generator.random(500)
    found = d_calibration(np.ones(500), event, own_survival=survival)
    statistic, p_value, counts = theirs.d_calibration(survival, event)
    np.testing.assert_allclose(found.counts, counts[::-1], rtol=0, atol=1e-10)
    assert (found.statistic, found.p_value) == pytest.approx((statistic, p_value), abs=1e-10)


def test_d_calibration_reads_curves_as_steps() -> None:
    times = [1.0, 2.0, 4.0]
    curves = np.array([[0.95, 0.55, 0.15]] * 6)
    time = np.array([0.5, 1.0, 3.9, 4.0, 9.0, 9.0])
    event = np.array([1, 1, 0, 1, 1, 0])
    expected = counts_by_definition(
        np.array([1, 1, 0, 1, 0, 0]), np.array([1.0, 0.95, 0.55, 0.15, 0.15, 0.15]), 10
    )  # the event at 9 lies beyond the curve, and its patient counts as censored at 4
    frame = pd.DataFrame(curves.T, index=times)
    for found in (
        d_calibration(time, event, curves, times),
        d_calibration(time, event, frame),
        d_calibration(torch.tensor(time), list(event), torch.tensor(curves), torch.tensor(times)),
    ):
        np.testing.assert_allclose(found.counts, expected, rtol=0, atol=1e-12)


def test_d_calibration_tells_calibrated_from_distorted() -> None:
    rejected = 0
    for seed in range(100):
        time, event, log_hazard = cohort(seed)
        survival = np.exp(-time / 10 * np.exp(log_hazard))
        rejected += d_calibration(time, event, own_survival=survival).p_value < 0.05
        assert d_calibration(time, event, own_survival=survival**2.0).p_value < 1e-3
    assert rejected <= 12  # the test keeps its level of 5 %, or less under censoring


def test_d_calibration_of_permuted_and_doubled_cohorts() -> None:
    time, event, log_hazard = cohort(1)
    survival = np.exp(-time / 10 * np.exp(log_hazard))
    found = d_calibration(time, event, own_survival=survival)
    order = np.random.default_rng(0).permutation(len(time))
    permuted = d_calibration(time[order], event[order], own_survival=survival[order])
    np.testing.assert_allclose(permuted.counts, found.counts, rtol=0, atol=1e-10)
    doubled = d_calibration(np.tile(time, 2), np.tile(event, 2), own_survival=np.tile(survival, 2))
    np.testing.assert_allclose(doubled.counts, 2 * found.counts, rtol=0, atol=1e-10)
    assert doubled.statistic == pytest.approx(2 * found.statistic)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2], [1, 0]), {}, "either survival \\(curves\\) or own_survival"),
        (([1, 2], [1, 0], [[1.0], [1.0]], [1]), {"own_survival": [1, 1]}, "either survival"),
        (([1, 2], [1, 0]), {"own_survival": [0.5, 1.1]}, "own_survival between 0 and 1, got 1.1 at row 1"),
        (([1, 2], [1, 0]), {"own_survival": [np.nan, 1]}, "own_survival between 0 and 1, got nan at row 0"),
        (([1, 2], [1, 0], [[1.0, 1.5], [1.0, 1.0]], [1, 2]), {}, "survival between 0 and 1, got 1.5 at row 0, time 2"),
        (([1, 2], [1, 0], [[1.0, 0.5], [1.0, 1.0]], [2, 1]), {}, "times to rise"),
        (([1, 2], [1, 0]), {"own_survival": [0.5, 1], "times": [1, 2]}, "times belong to curves: expected none beside"),
        (([], []), {"own_survival": []}, "at least one patient"),
        (([1, 2], [1, 0]), {"own_survival": [0.5, 1], "bins": 1}, "bins must be a whole number of at least 2, got 1"),
        (([1, -2], [1, 0]), {"own_survival": [0.5, 1]}, "finite time of at least 0, got -2.0 at row 1"),
    ],
)
def test_d_calibration_errors(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        d_calibration(*arguments, **options)


# --- calibration at a horizon: groups ---------------------------------------------------------------------------------


def test_groups_of_lifelines() -> None:
    from lifelines import KaplanMeierFitter

    time, event, log_hazard = cohort(2, rows=500, decimals=1)
    predicted = true_risk(log_hazard).round(3)
    table = calibration_at(time, event, predicted, HORIZON, groups=8).groups
    assert list(table.columns) == ["n", "predicted", "observed", "lower", "upper"]
    parts = pd.qcut(predicted, 8, labels=False)
    assert len(table) == 8
    assert table["n"].sum() == 500
    for number, line in table.iterrows():
        rows = parts == number
        fitter = KaplanMeierFitter().fit(time[rows], event[rows])
        assert line["n"] == rows.sum()
        assert line["predicted"] == pytest.approx(predicted[rows].mean(), abs=1e-12)
        assert line["observed"] == pytest.approx(1 - fitter.predict(HORIZON), abs=1e-12)
        limits = fitter.confidence_interval_.loc[:HORIZON].iloc[-1]
        assert (1 - line["upper"], 1 - line["lower"]) == pytest.approx(tuple(limits), abs=1e-12)


def test_groups_of_tied_predictions_and_short_follow_up() -> None:
    time = np.array([1.0, 6, 7, 8, 2, 3, 1, 6])
    event = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    predicted = np.array([0.2, 0.2, 0.2, 0.2, 0.5, 0.5, 0.8, 0.8])
    found = calibration_at(time, event, predicted, HORIZON, groups=4)
    assert found.groups["n"].tolist() == [4, 2, 2]
    assert found.groups["predicted"].tolist() == pytest.approx([0.2, 0.5, 0.8])
    assert found.groups["observed"].tolist() == pytest.approx([0.25, np.nan, 0.0], nan_ok=True)
    assert found.groups[["lower", "upper"]].isna().all(axis=1).tolist() == [False, True, True]
    assert found.observed == pytest.approx(1 - kaplan_meier(time, event).survival_at(HORIZON))
    assert found.predicted == pytest.approx(predicted.mean())


# --- slope and intercept ----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 7.0]), st.booleans()), min_size=2, max_size=15),
    st.sampled_from([0.5, 2.0, 4.0, 5.0, 9.0]),
)
def test_pseudo_risks_leave_one_out(rows: list[tuple[float, bool]], horizon: float) -> None:
    time, event = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])

    def risk(kept: np.ndarray) -> float:
        return 1 - float(kaplan_meier(time[kept], event[kept]).survival_at(horizon))

    everyone = np.ones(len(time), dtype=bool)
    expected = [
        len(time) * risk(everyone) - (len(time) - 1) * risk(np.arange(len(time)) != left_out)
        for left_out in range(len(time))
    ]
    found = pseudo_risks(kaplan_meier(time, event), time, event, horizon)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_pseudo_risks_without_censoring_are_the_outcomes() -> None:
    time = np.random.default_rng(0).exponential(5, 50)
    event = np.ones(50, dtype=bool)
    found = pseudo_risks(kaplan_meier(time, event), time, event, HORIZON)
    np.testing.assert_allclose(found, time <= HORIZON, rtol=0, atol=1e-10)


@pytest.mark.parametrize("stretch", [0.3, 1.0, 3.0])
def test_line_of_scipy(stretch: float) -> None:
    time, event, log_hazard = cohort(3)
    x = log_log(true_risk(stretch * log_hazard))
    pseudo = pseudo_risks(kaplan_meier(time, event), time, event, HORIZON)
    tight = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
    shifted = optimize.least_squares(lambda a: pseudo + np.expm1(-np.exp(a[0] + x)), [0], **tight)
    line = optimize.least_squares(lambda b: pseudo + np.expm1(-np.exp(b[0] + b[1] * x)), [0, 1 / stretch], **tight)
    assert calibration_line(x, pseudo) == pytest.approx((shifted.x[0], line.x[1]), abs=1e-6)


def test_line_on_simulated_truth() -> None:
    time, event, log_hazard = cohort(4, rows=20_000)
    right = calibration_at(time, event, true_risk(log_hazard), HORIZON)
    assert (right.slope, right.intercept, right.ici) == pytest.approx((1, 0, 0), abs=0.06)
    assert right.observed == pytest.approx(right.predicted, abs=0.01)
    extreme = calibration_at(time, event, true_risk(2 * log_hazard), HORIZON)
    assert extreme.slope == pytest.approx(0.5, abs=0.03)
    assert extreme.ici > 0.08
    too_low = calibration_at(time, event, true_risk(log_hazard - 0.7), HORIZON)
    assert (too_low.slope, too_low.intercept) == pytest.approx((1, 0.7), abs=0.06)
    difference = np.abs(true_risk(log_hazard) - true_risk(log_hazard - 0.7)).mean()
    assert too_low.ici == pytest.approx(difference, abs=0.02)
    assert np.abs(too_low.smoothed - true_risk(log_hazard)).max() < 0.05


def test_line_needs_no_proportional_hazards() -> None:
    """Effects that turn after the horizon: what was predicted for the horizon stays right."""
    time, _, log_hazard = cohort(5, rows=20_000)
    generator = np.random.default_rng(5)
    failure = generator.exponential(10 * np.exp(-log_hazard))
    later = HORIZON + generator.exponential(3 * np.exp(log_hazard))
    failure = np.where(failure <= HORIZON, failure, later)
    found = calibration_at(failure, np.ones(len(time)), true_risk(log_hazard), HORIZON)
    assert (found.slope, found.intercept) == pytest.approx((1, 0), abs=0.06)


# --- the smooth curve -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [9, 0])
def test_cox_fit_of_lifelines(decimals: int) -> None:
    from lifelines import CoxPHFitter

    time, event, log_hazard = cohort(6, decimals=decimals)
    covariates = np.column_stack((log_hazard, log_hazard**2))
    found = cox_fit(covariates, time, event, HORIZON)
    frame = pd.DataFrame({"a": covariates[:, 0], "b": covariates[:, 1], "time": time, "event": event})
    fitter = CoxPHFitter().fit(frame, "time", "event", fit_options={"precision": 1e-10})
    np.testing.assert_allclose(found.coefficients, fitter.params_, rtol=0, atol=1e-7)
    if decimals == 9:  # with ties the baseline of lifelines is Breslow's
        hazard = fitter.baseline_cumulative_hazard_.loc[:HORIZON].iloc[-1].item()
        centre = np.exp(-fitter.params_ @ covariates.mean(axis=0))
        assert np.exp(found.log_cumulative_hazard) == pytest.approx(hazard * centre, rel=1e-7)


def test_cox_fit_by_definition_with_ties() -> None:
    covariates = np.array([[0.5], [-1.0], [0.2], [1.5], [0.0], [-0.3]])
    time, event = np.array([1.0, 1, 1, 2, 2, 3]), np.array([1, 1, 0, 1, 1, 0], dtype=bool)
    found = cox_fit(covariates, time, event, 1.5)
    weight = np.exp(covariates[:, 0] * found.coefficients[0])
    hazard = 1 / weight.sum() + 1 / (weight.sum() - weight[:2].sum() / 2)
    assert np.exp(found.log_cumulative_hazard) == pytest.approx(hazard)

    def minus_log(beta: float) -> float:
        weight, linear = np.exp(covariates[:, 0] * beta), covariates[:, 0] * beta
        first = np.log(weight.sum()) + np.log(weight.sum() - weight[:2].sum() / 2)
        second = np.log(weight[3:].sum()) + np.log(weight[3:].sum() - weight[3:5].sum() / 2)
        return first + second - linear[[0, 1, 3, 4]].sum()

    best = optimize.minimize_scalar(minus_log, bracket=(-1, 1), tol=1e-12)
    assert found.coefficients[0] == pytest.approx(best.x, abs=1e-6)


@pytest.mark.parametrize("decimals", [9, 0])
def test_ici_of_survival_eval(decimals: int) -> None:
    theirs = pytest.importorskip("SurvivalEVAL.evaluations.calibration.single_time.integrated_calibration_index")
    time, event, log_hazard = cohort(7, decimals=decimals)
    predicted = true_risk(1.3 * log_hazard + 0.2)
    expected = theirs.integrated_calibration_index(predicted, time, event.astype(int), HORIZON, draw_figure=False)
    assert calibration_at(time, event, predicted, HORIZON).ici == pytest.approx(expected["ICI"], abs=1e-6)


def test_permuted_and_doubled_cohorts() -> None:
    time, event, log_hazard = cohort(8)
    predicted = true_risk(0.7 * log_hazard)
    found = calibration_at(time, event, predicted, HORIZON)
    order = np.random.default_rng(0).permutation(len(time))
    permuted = calibration_at(time[order], event[order], predicted[order], HORIZON)
    np.testing.assert_allclose(permuted.smoothed, found.smoothed[order], rtol=0, atol=1e-9)
    pd.testing.assert_frame_equal(permuted.groups, found.groups)
    for name in ("slope", "intercept", "ici", "observed"):
        assert getattr(permuted, name) == pytest.approx(getattr(found, name), abs=1e-8)
    doubled = calibration_at(np.tile(time, 2), np.tile(event, 2), np.tile(predicted, 2), HORIZON)
    assert doubled.observed == pytest.approx(found.observed, abs=1e-12)
    assert doubled.slope == pytest.approx(found.slope, abs=0.02)


# --- edges and errors -------------------------------------------------------------------------------------------------


def test_one_value_of_prediction() -> None:
    time, event, _ = cohort(9)
    found = calibration_at(time, event, np.full(400, 0.3), HORIZON)
    assert np.isnan(found.slope)
    assert len(found.groups) == 1
    np.testing.assert_allclose(found.smoothed, found.observed)
    assert found.ici == pytest.approx(abs(found.observed - 0.3), abs=1e-12)
    assert np.log(-np.log(1 - found.observed)) - np.log(-np.log(0.7)) == pytest.approx(found.intercept, abs=0.02)


def test_two_values_of_prediction_are_fitted_by_a_line() -> None:
    time, event, log_hazard = cohort(10)
    found = calibration_at(time, event, np.where(log_hazard > 0, 0.6, 0.2), HORIZON)
    assert len(np.unique(found.smoothed)) == 2
    assert found.slope > 0.5


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_certain_predictions_are_nearly_certain(certain: float) -> None:
    time, event, log_hazard = cohort(11)
    predicted = true_risk(log_hazard)
    predicted[3] = certain
    nearly = np.clip(predicted, 1e-10, 1 - 1e-10)
    found, expected = (calibration_at(time, event, values, HORIZON) for values in (predicted, nearly))
    assert (found.slope, found.intercept) == (expected.slope, expected.intercept)
    assert np.array_equal(found.smoothed, expected.smoothed)
    assert np.isfinite([found.slope, found.intercept, found.ici]).all()


def test_separated_outcomes_have_no_slope() -> None:
    time, event = np.array([1.0, 1, 1, 9, 9, 9]), np.array([1, 1, 1, 0, 0, 0])
    found = calibration_at(time, event, [0.7, 0.8, 0.9, 0.1, 0.2, 0.3], HORIZON, groups=2)
    assert np.isnan(found.slope)
    assert found.groups["observed"].tolist() == [0, 1]


def test_certain_predictions_do_not_warn() -> None:
    """Few events that certain predictions separate: coefficients of thousands, and risks that stay within [0, 1]."""
    time, event = np.array([5.0, 0, 5, 2, 0, 3, 2]), np.array([1, 0, 0, 0, 0, 1, 0])
    predicted = np.array([0.9, 0, 0.2, 1e-300, 0.1, 0.5, 1])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found = calibration_at(time, event, predicted, 3.0, groups=3)
        assert found.smoothed[[1, 3]].tolist() == [0, 0]
        assert ((found.smoothed >= 0) & (found.smoothed <= 1)).all()
        assert found.ici == pytest.approx(np.abs(found.smoothed - predicted).mean())
        generator = np.random.default_rng(0)
        computed = 0
        for _ in range(400):
            rows = generator.integers(2, 12)
            time, event = generator.integers(0, 6, rows).astype(float), generator.random(rows) < 0.5
            predicted = generator.choice([0, 1e-300, 0.1, 0.2, 0.5, 0.9, 1 - 1e-16, 1], rows)
            try:
                found = calibration_at(time, event, predicted, 3.0, groups=2)
            except ValueError:  # the horizon says nothing
                continue
            computed += 1
            assert np.isnan(found.smoothed).all() or ((found.smoothed >= 0) & (found.smoothed <= 1)).all()
        assert computed > 200


def test_cox_fit_without_a_maximum_is_none_without_a_warning() -> None:
    """The steps grow until the risk set of the only event weighs nothing beside the patient who left before it."""
    covariates = np.array([[-18.0], [-20.0], [-16.0], [1400.0]])
    time, event = np.array([4.0, 3, 2, 1]), np.array([0, 0, 1, 0], dtype=bool)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert cox_fit(covariates, time, event, 3) is None


def test_structured_outcomes() -> None:
    time, event, log_hazard = cohort(13, rows=60)
    outcomes = np.array(list(zip(event, time, strict=True)), dtype=[("died", bool), ("months", float)])
    predicted = true_risk(log_hazard)
    found, expected = (calibration_at(*rows, predicted, HORIZON) for rows in ((outcomes, None), (time, event)))
    assert (found.slope, found.ici, found.observed) == (expected.slope, expected.ici, expected.observed)
    survival = np.exp(-time / 10 * np.exp(log_hazard))
    found, expected = (d_calibration(*rows, own_survival=survival) for rows in ((outcomes, None), (time, event)))
    assert found.counts.tolist() == expected.counts.tolist()
    curves, times = np.exp(-np.exp(log_hazard)[:, None] * [0.1, 0.4]), [1.0, 4.0]
    assert d_calibration(outcomes, None, curves, times).p_value == d_calibration(time, event, curves, times).p_value


def test_results_compare_without_looking_into_arrays() -> None:
    time, event, log_hazard = cohort(14, rows=60)
    twice = [calibration_at(time, event, true_risk(log_hazard), HORIZON) for _ in range(2)]
    assert twice[0] == twice[0] and twice[0] != twice[1]
    twice = [d_calibration(time, event, own_survival=true_risk(log_hazard)) for _ in range(2)]
    assert twice[0] == twice[0] and twice[0] != twice[1]


@pytest.mark.parametrize("kind", [np.array, pd.Series, torch.tensor, list])
def test_input_types(kind: Callable) -> None:
    time, event, log_hazard = cohort(12, rows=60)
    expected = calibration_at(time, event, true_risk(log_hazard), HORIZON, groups=3)
    found = calibration_at(kind(time), kind(event), kind(true_risk(log_hazard)), HORIZON, groups=3)
    assert (found.slope, found.ici) == (expected.slope, expected.ici)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": [0.1, 0.2, 1.2, 0.4]}, "predicted risks between 0 and 1, got 1.2 at row 2"),
        ({"predicted": [0.1, np.nan, 0.2, 0.4]}, "predicted risks between 0 and 1, got nan at row 1"),
        ({"predicted": [0.1, 0.2]}, "expected 4 values of predicted"),
        ({"horizon": 0.0}, "positive, finite horizon, got 0.0"),
        ({"horizon": "3"}, "positive, finite horizon, got '3'"),
        ({"horizon": None}, "positive, finite horizon, got None"),
        ({"horizon": np.nan}, "positive, finite horizon, got nan"),
        ({"horizon": 20.0}, "horizon 20.0 lies beyond the follow-up, which ends at 9.0"),
        ({"horizon": 0.5}, "no patient has an event by the horizon 0.5"),
        ({"event": [0, 0, 0, 0]}, "no patient has an event by the horizon"),
        ({"time": [1, 2, 3, 4], "event": [1, 1, 1, 1]}, "nobody is free of the event at the horizon 5.0"),
        ({"groups": 5}, "at most as many groups as the 4 patients, got 5"),
        ({"groups": 0}, "groups must be a whole number of at least 1, got 0"),
        ({"event": [1, 0, 2, 0]}, "got 2 at row 2"),
    ],
)
def test_errors_name_what_is_wrong(change: dict, message: str) -> None:
    arguments = {"time": [1, 6, 3, 9], "event": [1, 0, 1, 0], "predicted": [0.1, 0.2, 0.3, 0.4], "horizon": HORIZON}
    with pytest.raises(ValueError, match=message):
        calibration_at(**{"groups": 2, **arguments, **change})
