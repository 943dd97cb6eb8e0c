"""Two predictions of the same patients compared by any metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore.arguments import whole_number
from survcore.metrics.intervals import bootstrap_generator, drawable
from survcore.metrics.resampling import Metric, aligned, metric_values, number, percentiles


@dataclass(frozen=True)
class PairedComparison:
    """The metric of two predictions on the same patients, and their difference.

    Attributes:
        first: the metric of the first prediction.
        second: the metric of the second.
        difference: first minus second.
        lower: lower limit of the difference; NaN when it is undefined on every resample.
        upper: upper limit, likewise.
        p_value: two-sided, for a difference of 0; NaN when it is undefined on every resample.
        level: intended coverage of the limits.
        resamples: how many resamples were drawn.
        undefined: on how many of them one of the two was NaN or raised ValueError; limits and p come from the others.
    """

    first: float
    second: float
    difference: float
    lower: float
    upper: float
    p_value: float
    level: float
    resamples: int
    undefined: int


def compare_paired(
    metric: Metric,
    outcomes: Sequence[Any],
    first: Any,
    second: Any,
    *,
    groups: Any = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Difference of a metric between two predictions, over the same bootstrap draws of patients::

        compare_paired(concordance_index, (time, event), risk_of_model, risk_of_rival, groups=patient)

    The interval is the percentile interval of the difference. The p-value is the smallest 1 - level at which that
    interval would leave out 0: of m defined resamples, 2 min(1 + #{difference <= 0}, 1 + #{difference >= 0}) / (m + 1),
    at most 1. It cannot fall below 2 / (m + 1), and is 1 for two identical predictions.

    Args:
        metric: called as ``metric(*outcomes, prediction)``, returns a number or what ``float`` takes.
        outcomes: arrays that both share, such as (time, event), with one row per observation.
        first: prediction [n] or [n, ...]; a DataFrame by its rows, as in :func:`bootstrap_interval`.
        second: prediction of the other model for the same rows.
        groups: patient of each row [n]; whole patients are drawn. None: every row is a patient.
        resamples: number of resamples.
        level: intended coverage of the interval, between 0 and 1.
        seed: of the draws; the same seed draws as :func:`bootstrap_interval` does.

    Raises:
        ValueError: as :func:`survcore.metrics.bootstrap_interval`; outcomes that are no tuple or list of arrays.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 13.3 and 15.4; one is added to both
    counts as in Davison and Hinkley, Bootstrap Methods and their Application, 1997, equation 4.11.
    """
    if not isinstance(outcomes, tuple | list):
        raise ValueError(
            f"expected outcomes as a tuple of arrays, such as (time, event), got {type(outcomes).__name__}"
        )
    *shared, ours, theirs = aligned([*outcomes, first, second])
    patients = drawable(len(ours), groups, level)
    resamples = whole_number("resamples", resamples, 1)
    of_first, of_second = number(metric(*shared, ours)), number(metric(*shared, theirs))

    def difference(*rows: np.ndarray) -> float:
        *outcomes, of_ours, of_theirs = rows
        return number(metric(*outcomes, of_ours)) - number(metric(*outcomes, of_theirs))

    generator = bootstrap_generator(seed)
    samples = (patients.draw(generator) for _ in range(resamples))
    differences = metric_values(difference, [*shared, ours, theirs], samples, undefined=(ValueError,))
    defined = differences[~np.isnan(differences)]
    lower, upper = percentiles(defined, level)
    return PairedComparison(
        of_first,
        of_second,
        of_first - of_second,
        lower,
        upper,
        _two_sided(defined),
        level,
        resamples,
        resamples - len(defined),
    )


def _two_sided(differences: np.ndarray) -> float:
    if not len(differences):
        return np.nan
    smaller_side = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * float(1 + smaller_side) / (1 + len(differences)))
