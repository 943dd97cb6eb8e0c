"""Bootstrap and jackknife intervals and paired comparisons: formulas, SciPy, whole patients, coverage."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from scipy import stats

import survcore
from survcore.benchmarks import coverage
from survcore.benchmarks.cli import bench
from survcore.metrics import (
    Interval,
    bootstrap_interval,
    compare_paired,
    concordance_index,
    d_calibration,
    jackknife_interval,
)
from survcore.metrics.resampling import Patients


def mean(values: np.ndarray) -> float:
    return values.mean()


def patients(seed: int, count: int, rows: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, events, a noisy risk and the true one; every patient has the same outcome in ``rows`` rows."""
    return coverage.simulated_patients(np.random.default_rng(seed), count, rows)


# --- bootstrap ------------------------------------------------------------------------------------------------------


def test_bootstrap_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, size=60)
    for level in (0.5, 0.95):
        ours = bootstrap_interval(mean, values, resamples=5000, level=level)
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=5000, confidence_level=level, method="percentile", rng=1
        )
        tolerance = 0.15 * theirs.standard_error  # four times the noise of a 2.5 % quantile of 5000 resamples
        assert (ours.lower, ours.upper) == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)
        assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.05)
        assert ours.value == values.mean()
        assert (ours.level, ours.resamples, ours.undefined) == (level, 5000, 0)


def test_limits_are_the_percentiles_of_the_resampled_values() -> None:
    values = np.random.default_rng(1).normal(size=30)
    seen: list[float] = []

    def recorded(rows: np.ndarray) -> float:
        seen.append(rows.mean())
        return seen[-1]

    interval = bootstrap_interval(recorded, values, resamples=200, level=0.8)
    assert interval.value == seen[0]
    assert (interval.lower, interval.upper) == pytest.approx(tuple(np.percentile(seen[1:], [10, 90])), abs=1e-12)


def test_draws_follow_from_the_seed() -> None:
    time, event, risk, _ = patients(2, 80)
    first = bootstrap_interval(concordance_index, time, event, risk, resamples=50, seed=4)
    assert bootstrap_interval(concordance_index, time, event, risk, resamples=50, seed=4) == first
    assert bootstrap_interval(concordance_index, time, event, risk, resamples=50, seed=5) != first
    assert first.value == concordance_index(time, event, risk).value
    assert survcore.bootstrap_interval is bootstrap_interval


def test_arrays_of_any_kind_are_drawn_together() -> None:
    row = np.arange(40)
    arrays = (pd.Series(row, index=row[::-1]), torch.arange(40), list(row), np.stack([row, 2 * row], axis=1))

    def same_rows(first: np.ndarray, second: np.ndarray, third: np.ndarray, matrix: np.ndarray) -> float:
        assert matrix.shape == (40, 2)
        assert (first == second).all() and (first == third).all() and (matrix == first[:, None] * [1, 2]).all()
        return len(np.unique(first))

    interval = bootstrap_interval(same_rows, *arrays, resamples=100)
    assert interval.value == 40
    assert interval.upper < 33  # about 1 / e of the patients are not drawn


def test_whole_patients_are_drawn() -> None:
    labels = np.array(["c", "a", "c", "b", "c", "b", "d", "d"], dtype=object)

    def whole(groups: np.ndarray) -> float:
        found = {label: int((groups == label).sum()) for label in labels}
        assert all(found[label] % (labels == label).sum() == 0 for label in labels)
        times_drawn = {label: found[label] // (labels == label).sum() for label in labels}
        assert sum(times_drawn.values()) == 4
        return max(times_drawn.values())

    interval = bootstrap_interval(whole, labels, groups=labels, resamples=200)
    assert interval.upper >= 3


def test_rows_of_patients() -> None:
    of = Patients(6, [3, 1, 3, 2, 1, 3])
    assert len(of) == 3
    assert of.rows_of(np.array([2, 0, 2])).tolist() == [0, 2, 5, 1, 4, 0, 2, 5]
    assert of.without(0).tolist() == [0, 2, 3, 5]
    assert Patients(3).without(1).tolist() == [0, 2]


@pytest.mark.parametrize("raises", [False, True])
def test_undefined_resamples_are_counted(raises: bool) -> None:
    """Events are rare: some resamples hold none and have no comparable pair."""
    time, event, risk = np.arange(12.0), np.arange(12) == 3, np.arange(12.0)[::-1]

    def metric(*rows: np.ndarray) -> float:
        value = float(concordance_index(*rows))
        if raises and np.isnan(value):
            raise ValueError("no comparable pair")
        return value

    interval = bootstrap_interval(metric, time, event, risk, resamples=1000)
    share = (1 - 1 / 12) ** 12  # the one event is not drawn
    assert interval.undefined / 1000 == pytest.approx(share, abs=0.06)
    assert interval.lower == interval.upper == 1
    assert f"undefined on {interval.undefined} of 1000" in str(interval)
    never = bootstrap_interval(concordance_index, time, np.zeros(12), risk, resamples=10)
    assert never.undefined == 10
    assert np.isnan([never.value, never.lower, never.upper, never.standard_error]).all()


# --- jackknife ------------------------------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(size=50)
    interval = jackknife_interval(mean, values, level=0.9)
    error = values.std(ddof=1) / np.sqrt(50)
    assert interval.standard_error == pytest.approx(error, rel=1e-12)
    assert interval.upper - interval.value == pytest.approx(stats.norm.ppf(0.95) * error, rel=1e-12)
    assert interval.value - interval.lower == pytest.approx(stats.norm.ppf(0.95) * error, rel=1e-12)
    assert (interval.resamples, interval.undefined) == (50, 0)


def test_jackknife_leaves_whole_patients_out() -> None:
    values = np.random.default_rng(4).normal(size=30)
    each = jackknife_interval(mean, values)
    repeated = jackknife_interval(mean, np.repeat(values, 3), groups=np.repeat(np.arange(30), 3))
    assert repeated.standard_error == pytest.approx(each.standard_error, rel=1e-12)
    assert repeated.resamples == 30
    assert jackknife_interval(mean, np.repeat(values, 3)).standard_error < 0.6 * each.standard_error


def test_jackknife_counts_undefined() -> None:
    interval = jackknife_interval(concordance_index, [1.0, 2.0, 3.0], [1, 0, 0], [3.0, 1.0, 2.0])
    assert (interval.value, interval.resamples, interval.undefined) == (1.0, 3, 1)


# --- two predictions ------------------------------------------------------------------------------------------------


def test_paired_difference_uses_the_draws_of_the_interval() -> None:
    time, event, noisy, exact = patients(5, 120)
    compared = compare_paired(concordance_index, (time, event), exact, noisy, resamples=300, seed=2)

    def difference(time: np.ndarray, event: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
        return float(concordance_index(time, event, first)) - float(concordance_index(time, event, second))

    direct = bootstrap_interval(difference, time, event, exact, noisy, resamples=300, seed=2)
    assert (compared.difference, compared.lower, compared.upper) == (direct.value, direct.lower, direct.upper)
    assert compared.first == concordance_index(time, event, exact).value
    assert compared.second == concordance_index(time, event, noisy).value
    swapped = compare_paired(concordance_index, (time, event), noisy, exact, resamples=300, seed=2)
    assert (swapped.difference, swapped.lower, swapped.upper) == pytest.approx(
        (-compared.difference, -compared.upper, -compared.lower), abs=1e-12
    )
    assert swapped.p_value == compared.p_value
    assert survcore.compare_paired is compare_paired


def test_p_value_by_definition() -> None:
    generator = np.random.default_rng(6)
    first, second = generator.normal(0.15, 1, (2, 40))
    seen: list[float] = []

    def recorded(shared: np.ndarray, values: np.ndarray) -> float:
        seen.append(values.mean())
        return seen[-1]

    compared = compare_paired(recorded, (np.zeros(40),), first, second, resamples=99)
    draws = np.array(seen[2:]).reshape(99, 2).T
    below, above = (draws[0] <= draws[1]).sum(), (draws[0] >= draws[1]).sum()
    assert 0 < min(below, above)
    assert compared.p_value == pytest.approx(2 * (1 + min(below, above)) / 100)
    far = compare_paired(recorded, (np.zeros(40),), first + 9, second, resamples=99)
    assert far.p_value == pytest.approx(2 / 100)


def test_equal_predictions_do_not_differ() -> None:
    time, event, risk, _ = patients(7, 60)
    compared = compare_paired(concordance_index, [time, event], risk, 2 * risk + 1, resamples=50)
    assert (compared.difference, compared.lower, compared.upper, compared.p_value) == (0, 0, 0, 1)


def test_paired_draws_are_not_kept() -> None:
    first, second = np.random.default_rng(8).normal(size=(2, 20_000))
    tracemalloc.start()
    try:
        compare_paired(lambda shared, values: values[0], (first,), first, second, resamples=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * first.nbytes


def test_paired_undefined_resamples() -> None:
    compared = compare_paired(
        concordance_index, (np.arange(5.0), np.arange(5) == 1), np.ones(5), np.arange(5.0), resamples=200
    )
    assert 0 < compared.undefined < 200
    none = compare_paired(concordance_index, (np.arange(5.0), np.zeros(5)), np.ones(5), np.arange(5.0), resamples=20)
    assert none.undefined == 20
    assert np.isnan([none.lower, none.upper, none.p_value]).all()


# --- coverage on simulated truth --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def truth() -> tuple[float, float]:
    """C-indices of the noisy and the true risk among 300,000 patients."""
    time, event, risk, log_hazard = patients(100, 300_000)
    return concordance_index(time, event, risk).value, concordance_index(time, event, log_hazard).value


def share_covered(interval: Callable[[int], Interval], truth: float, simulations: int = 100) -> float:
    intervals = [interval(simulation) for simulation in range(simulations)]
    return float(np.mean([found.lower <= truth <= found.upper for found in intervals]))


def test_bootstrap_covers_the_truth(truth: tuple[float, float]) -> None:
    """Four standard errors of a share of 100 around the level."""

    def interval(simulation: int, level: float) -> Interval:
        time, event, risk, _ = patients(simulation, 100)
        return bootstrap_interval(concordance_index, time, event, risk, resamples=120, level=level, seed=simulation)

    assert 0.86 <= share_covered(lambda simulation: interval(simulation, 0.95), truth[0])
    assert 0.3 <= share_covered(lambda simulation: interval(simulation, 0.5), truth[0]) <= 0.7


def test_patients_with_several_rows_must_be_drawn_whole(truth: tuple[float, float]) -> None:
    def interval(simulation: int, whole: bool) -> Interval:
        time, event, risk, _ = patients(simulation, 60, rows=3)
        groups = np.repeat(np.arange(60), 3) if whole else None
        return bootstrap_interval(concordance_index, time, event, risk, groups=groups, resamples=120, seed=simulation)

    assert share_covered(lambda simulation: interval(simulation, whole=True), truth[0]) >= 0.86
    assert share_covered(lambda simulation: interval(simulation, whole=False), truth[0]) <= 0.8


def test_jackknife_covers_the_truth(truth: tuple[float, float]) -> None:
    def interval(simulation: int) -> Interval:
        time, event, risk, _ = patients(simulation, 100)
        return jackknife_interval(concordance_index, time, event, risk)

    assert 0.86 <= share_covered(interval, truth[0]) < 1


def test_paired_difference_covers_the_truth_and_seldom_finds_what_is_not_there(truth: tuple[float, float]) -> None:
    covered = rejected = 0
    for simulation in range(100):
        time, event, risk, log_hazard = patients(simulation, 100)
        compared = compare_paired(concordance_index, (time, event), log_hazard, risk, resamples=120, seed=simulation)
        covered += compared.lower <= truth[1] - truth[0] <= compared.upper
        first, second = np.random.default_rng((simulation, 1)).normal(size=(2, 100))  # both know nothing
        rejected += compare_paired(concordance_index, (time, event), first, second, resamples=120).p_value < 0.05
    assert 0.86 <= covered / 100
    assert rejected / 100 <= 0.14


def test_coverage_from_the_command_line() -> None:
    arguments = "coverage --simulations 2 --resamples 20 --patients 30 --patients 40 --seed 3".split()
    lines = CliRunner().invoke(bench, arguments, catch_exceptions=False).output.splitlines()
    assert lines[0].startswith(f"survcore {survcore.__version__} · numpy {np.__version__} · date 20")
    assert lines[0].endswith("simulations 2 · resamples 20 · seed 3")
    truth = coverage.true_concordance(3)
    assert lines[1] == f"true C-index {truth[0]:.4f}, of the better risk {truth[1]:.4f}"
    for patients in (30, 40):
        start = lines.index(f"{patients} patients")
        found = coverage.coverage(patients, truth, simulations=2, resamples=20, seed=3)
        assert len(found) == 4
        for line, share in zip(lines[start + 1 :], found, strict=False):
            assert line.split("  ")[1] == share.interval
            assert f" {100 * share.share:.1f} % " in line


def test_coverage_counts_what_holds_the_truth() -> None:
    options = {"simulations": 3, "resamples": 20}
    assert [found.share for found in coverage.coverage(30, (2.0, 0.0), **options)] == [0, 0, 0, 0]
    shares = [found.share for found in coverage.coverage(100, coverage.true_concordance(0, 20_000), **options)]
    assert max(shares) > 0.5


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (([1, 2, 3], [1, 2]), {}, "one row per patient each, got shapes \\[\\(3,\\), \\(2,\\)\\]"),
        ((), {}, "one row per patient"),
        ((1.0,), {}, "one row per patient each, got shapes \\[\\(\\)\\]"),
        (([1, 2, 3],), {"groups": ["a", "b"]}, "groups as a vector of 3 patients, one per row, got shape \\(2,\\)"),
        (([1, 2, 3],), {"groups": [1.0, np.nan, 2.0]}, "groups names no patient at row 1"),
        (([1, 2, 3],), {"groups": ["a", None, "b"]}, "groups names no patient at row 1"),
        (([1, 2, 3],), {"groups": ["a", "a", "a"]}, "at least two patients to draw from, got 1"),
        (([],), {}, "at least two patients to draw from, got 0"),
        (([1, 2, 3],), {"level": 95}, "level between 0 and 1, got 95"),
        (([1, 2, 3],), {"level": "a"}, "level between 0 and 1, got 'a'"),
    ],
)
def test_errors_name_what_is_wrong(arrays: tuple, options: dict, message: str) -> None:
    for interval in (bootstrap_interval, jackknife_interval):
        with pytest.raises(ValueError, match=message):
            interval(lambda *rows: rows[0].mean(), *arrays, **options)


def test_frames_of_curves_are_taken_by_rows() -> None:
    time, event, _, log_hazard = patients(9, 40)
    times = [0.2, 0.5, 1.0]
    curves = np.exp(-np.exp(log_hazard)[:, None] * times)
    frame = pd.DataFrame(curves.T, index=times)

    def statistic(*rows: np.ndarray) -> float:
        return d_calibration(*rows, frame.index).statistic

    found = bootstrap_interval(statistic, time, event, frame.T, resamples=20)
    assert found == bootstrap_interval(statistic, time, event, curves, resamples=20)
    for wrong in (
        lambda: bootstrap_interval(statistic, time, event, frame),
        lambda: jackknife_interval(statistic, time, event, frame),
        lambda: compare_paired(statistic, (time, event), frame, frame),
    ):
        with pytest.raises(ValueError, match="a DataFrame with times as index goes in transposed, as frame.T"):
            wrong()
    with pytest.raises(ValueError, match="curves are \\[patients, times\\]$"):
        bootstrap_interval(statistic, time, event, curves.T)


def test_errors_of_the_metric_on_the_data_pass_through() -> None:
    with pytest.raises(ValueError, match="risk is NaN at row 1"):
        bootstrap_interval(concordance_index, [1, 2], [1, 0], [1, np.nan])
    with pytest.raises(ValueError, match="risk is NaN at row 0"):
        compare_paired(concordance_index, ([1, 2], [1, 0]), [1, 2], [np.nan, 2])


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="resamples must be a whole number of at least 1, got 0"):
        bootstrap_interval(mean, [1, 2], resamples=0)
    with pytest.raises(TypeError, match="return one number, got tuple"):
        bootstrap_interval(lambda rows: (1, 2), [1, 2])
    with pytest.raises(ValueError, match="outcomes as a tuple of arrays, such as \\(time, event\\), got ndarray"):
        compare_paired(concordance_index, np.ones(2), [1, 2], [1, 2])
    with pytest.raises(ValueError, match="one row per patient"):
        compare_paired(concordance_index, ([1, 2], [1, 0]), [1, 2], [1, 2, 3])
