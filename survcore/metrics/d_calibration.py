"""D-calibration: whether survival probabilities at the event times are uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore.arguments import vector, whole_number
from survcore.metrics.inputs import outcome, survival_curves


@dataclass(frozen=True, eq=False)
class DCalibration:
    """Pearson's test of the survival probabilities at the patients' own times against the uniform distribution.

    Attributes:
        counts: float64 [bins], patients per bin of survival probability, from [0, 1 / bins) to [1 - 1 / bins, 1]; a
            censored patient is spread over several. They sum to the number of patients.
        statistic: sum of (counts - n / bins)^2 / (n / bins).
        p_value: upper tail of the chi-square distribution with bins - 1 degrees of freedom; small = not calibrated.
    """

    counts: np.ndarray
    statistic: float
    p_value: float


def d_calibration(
    time: Any,
    event: Any,
    survival: Any = None,
    times: Any = None,
    *,
    own_survival: Any = None,
    bins: int = 10,
) -> DCalibration:
    """D-calibration of predicted survival.

    Calibrated predictions make S(T) uniform on [0, 1]. A patient with an event counts in the bin of S(time). Of a
    censored one S(T) is only known to lie below S(time), and the patient is spread uniformly over [0, S(time)], which
    makes the test conservative under heavy censoring.

    Curves are read as step functions: the value at the last grid time up to the patient's time, 1 before the first. A
    coarse grid thus gives probabilities that are too high; exact values go into ``own_survival``. Nothing is known of
    a curve beyond its last time: whoever is followed up longer counts as censored there.

    Args:
        time: follow-up times [n], non-negative and finite, in the unit of ``times``; or scikit-survival's structured
            array of (event, time), with event None.
        event: [n], True or 1 = event, False or 0 = censored.
        survival: predicted survival [n, T] in [0, 1] with ``times``, or lifelines' DataFrame with times None.
        times: grid times [T] of the curves, rising.
        own_survival: instead of curves, the predicted survival [n] of each patient at its own time.
        bins: number of bins of equal width, each with its lower and without its upper limit, the last with both.

    Raises:
        ValueError: for no rows, curves and own_survival both given or both missing, times beside own_survival, values
            outside [0, 1] or NaN, and as all metrics for wrong times and events.

    Source: Haider et al., Effective ways to build and evaluate individual survival distributions, JMLR 2020.
    """
    time, event = outcome(time, event)
    bins = whole_number("bins", bins, 2)
    if not len(time):
        raise ValueError("expected at least one patient, got none")
    if (survival is None) == (own_survival is None):
        raise ValueError("expected either survival (curves) or own_survival (one value per patient)")
    if own_survival is None:
        probability, event = _read_off(time, event, *survival_curves(survival, times, len(time)))
    else:
        if times is not None:
            raise ValueError("times belong to curves: expected none beside own_survival, the values at the own times")
        probability = _own(own_survival, len(time))
    counts = _events_per_bin(probability[event], bins) + _censored_per_bin(probability[~event], bins)
    expected = len(time) / bins
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return DCalibration(counts, statistic, _chi_square_tail(statistic, bins - 1))


def _read_off(
    time: np.ndarray, event: np.ndarray, survival: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Survival at the own time, and the events that lie within the curve."""
    place = np.searchsorted(times, time, side="right") - 1
    probability = np.where(place < 0, 1.0, survival[np.arange(len(time)), np.maximum(place, 0)])
    return probability, event & (time <= times[-1])


def _own(own_survival: Any, rows: int) -> np.ndarray:
    probability = vector(own_survival, "own_survival", rows)
    wrong = ~((probability >= 0) & (probability <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"expected own_survival between 0 and 1, got {probability[row]} at row {row}")
    return probability


def _bin_of(probability: np.ndarray, bins: int) -> np.ndarray:
    limits = np.arange(1, bins) / bins  # a division, so that 0.3 falls on the limit 3 / 10
    return np.searchsorted(limits, probability, side="right")


def _events_per_bin(probability: np.ndarray, bins: int) -> np.ndarray:
    return np.bincount(_bin_of(probability, bins), minlength=bins).astype(np.float64)


def _censored_per_bin(probability: np.ndarray, bins: int) -> np.ndarray:
    """Each patient's mass: density 1 / S up to S, so 1 / (bins S) in every whole bin below and the rest in its own."""
    own = _bin_of(probability, bins)
    spread = own > 0  # the mass of the others lies within the first bin, all of it at 0 if S is 0
    per_bin = np.zeros(len(own))
    per_bin[spread] = 1 / (bins * probability[spread])
    rest = 1 - own * per_bin
    whole = np.bincount(own, weights=per_bin, minlength=bins)
    below = np.append(np.cumsum(whole[::-1])[::-1][1:], 0.0)
    return np.bincount(own, weights=rest, minlength=bins) + below


def _chi_square_tail(statistic: float, degrees: int) -> float:
    from scipy.special import chdtrc

    return float(chdtrc(degrees, statistic))
