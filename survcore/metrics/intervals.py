"""Intervals of any metric by resampling patients."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np

from survcore.arguments import whole_number
from survcore.draws import stream_seed
from survcore.metrics.resampling import Metric, Patients, aligned, metric_values, number, percentiles


@dataclass(frozen=True)
class Interval:
    """A metric with its interval.

    Attributes:
        value: the metric on the data themselves.
        lower: lower limit; NaN when the metric is undefined on every resample.
        upper: upper limit, likewise.
        level: intended coverage.
        standard_error: of the value; NaN with fewer than two defined resamples.
        resamples: how many resamples were drawn (of the jackknife: patients left out, one at a time).
        undefined: on how many of them the metric was NaN or raised ValueError (such as: no comparable pair); the limits
            come from the others.
    """

    value: float
    lower: float
    upper: float
    level: float
    standard_error: float
    resamples: int
    undefined: int

    def __str__(self) -> str:
        undefined = f", undefined on {self.undefined} of {self.resamples} resamples" if self.undefined else ""
        return f"{self.value:.3f} ({self.lower:.3f} to {self.upper:.3f}{undefined})"


def bootstrap_interval(
    metric: Metric,
    *arrays: Any,
    groups: Any = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a metric: patients are drawn with replacement.

    It shows the sampling of the evaluated patients, not the retraining of the model. What the metric takes beside rows,
    such as the censoring distribution, stays fixed when it is given apart from them::

        bootstrap_interval(concordance_index, time, event, risk, groups=patient)
        bootstrap_interval(lambda *rows: concordance_index_ipcw(*rows, train=train), time, event, risk)
        bootstrap_interval(lambda *rows: d_calibration(*rows, frame.index).statistic, time, event, frame.T)

    In the last, ``frame`` holds curves as lifelines gives them, times as index and patients as columns.

    Args:
        metric: called with the arrays' rows as NumPy arrays, returns a number or what ``float`` takes.
        arrays: at least one, with one row per observation: [n] or [n, ...]; curves are [n, times]. A DataFrame is
            taken by its rows, whatever its index: curves of as many times as patients must not be left untransposed.
        groups: patient of each row [n]; whole patients are drawn. None: every row is a patient.
        resamples: number of resamples.
        level: intended coverage, between 0 and 1.
        seed: of the draws, which depend on it, the number of patients and nothing else.

    Raises:
        ValueError: for arrays of different lengths, fewer than two patients, a level outside (0, 1), or whatever the
            metric raises on the data themselves.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    found, patients = _checked(arrays, groups, level)
    resamples = whole_number("resamples", resamples, 1)
    value = number(metric(*found))
    generator = bootstrap_generator(seed)
    samples = (patients.draw(generator) for _ in range(resamples))
    values = metric_values(metric, found, samples, undefined=(ValueError,))
    return percentile_interval(value, values, level)


def percentile_interval(value: float, values: np.ndarray, level: float) -> Interval:
    """The interval of a value from those of its resamples [resamples], NaN where undefined."""
    defined = values[~np.isnan(values)]
    error = float(defined.std(ddof=1)) if len(defined) > 1 else np.nan
    lower, upper = percentiles(defined, level)
    return Interval(value, lower, upper, level, error, len(values), len(values) - len(defined))


def jackknife_interval(metric: Metric, *arrays: Any, groups: Any = None, level: float = 0.95) -> Interval:
    """Normal interval of a metric with the standard error of the jackknife: each patient is left out once.

    The limits are value -+ quantile * standard error and may leave the range of the metric. It calls the metric as many
    times as there are patients and draws nothing; for smooth metrics only (not for a median).

    Args:
        metric: called with the arrays' rows, returns a number or what ``float`` takes.
        arrays: at least one, with one row per observation: [n] or [n, ...]; curves are [n, times].
        groups: patient of each row [n]; whole patients are left out. None: every row is a patient.
        level: intended coverage, between 0 and 1.

    Raises:
        ValueError: as :func:`bootstrap_interval`.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, equation 11.5.
    """
    found, patients = _checked(arrays, groups, level)
    value = number(metric(*found))
    samples = (patients.without(patient) for patient in range(len(patients)))
    values = metric_values(metric, found, samples, undefined=(ValueError,))
    defined = values[~np.isnan(values)]
    error = float(np.sqrt((len(defined) - 1) * defined.var())) if len(defined) > 1 else np.nan
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(value, value - reach, value + reach, level, error, len(patients), len(patients) - len(defined))


def bootstrap_generator(seed: int) -> np.random.Generator:
    """The draws of a bootstrap with this seed."""
    return np.random.default_rng(stream_seed(whole_number("seed", seed), "bootstrap"))


def _checked(arrays: Any, groups: Any, level: float) -> tuple[list[np.ndarray], Patients]:
    found = aligned(arrays)
    return found, drawable(len(found[0]), groups, level)


def drawable(rows: int, groups: Any, level: float) -> Patients:
    """The patients behind the rows, at least two, with the level checked."""
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ValueError(f"expected level between 0 and 1, got {level!r}")
    patients = Patients(rows, groups)
    if len(patients) < 2:
        raise ValueError(f"expected at least two patients to draw from, got {len(patients)}")
    return patients
