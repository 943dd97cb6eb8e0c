"""Brier scores of survival curves, weighted by the inverse probability of censoring."""

from __future__ import annotations

from typing import Any

import numpy as np

from survcore import _metrics
from survcore.metrics.censoring import (
    CensoringDistribution,
    case_probabilities,
    inverse_censoring_weights,
    refuse_entry,
    training_outcome,
    within_follow_up,
)
from survcore.metrics.inputs import not_a_probability, outcome, rising, unchecked_curves


def brier_score(
    time: Any,
    event: Any,
    survival: Any,
    times: Any = None,
    *,
    train: Any = None,
    at: Any = None,
    convention: str = "G(T-)",
    entry: None = None,
) -> np.ndarray:
    """Brier score of predicted survival at each evaluation time, float64 [E]: 0 is perfect, S = 1/2 scores 1/4.

    BS(t) = 1/n sum_i [ S_i(t)^2 1(T_i <= t, event) / G(T_i-) + (1 - S_i(t))^2 1(T_i > t) / G(t) ], where G is the
    training outcomes' Kaplan-Meier estimate of being uncensored, events before censorings at equal times. Patients
    censored by t have no term; the weights of the others stand for them.

    Args:
        time: follow-up times [n], non-negative and finite; or scikit-survival's structured array, with event None.
        event: [n], True or 1 = event, False or 0 = censored.
        survival: [n, T] predicted probabilities to survive beyond ``times``, float32 or float64 (read once, without a
            copy); or a DataFrame as lifelines gives it, times as index and patients as columns, with times None.
        times: [T], rising, in the unit of time.
        train: outcomes whose censoring gives G, a pair (time, event) or a structured array; None: the evaluated ones.
        at: evaluation times [E], rising; a curve holds its last value at an earlier or equal time, and is 1 before its
            first. None: ``times``.
        convention: "G(T-)", the probability of having been observed until the event, or "G(T)", as scikit-survival and
            torchsurv weight; they differ where a training censoring shares the time of an event.
        entry: not available; late entries (left truncation) raise.

    Raises:
        ValueError: for outcomes, curves or times of wrong shape or value, evaluation times beyond the last of the
            curves' times or beyond the training follow-up, or where G is 0 at an evaluation time.

    Source: Graf et al., Assessment and comparison of prognostic classification schemes for survival data, Statistics in
    Medicine 1999.
    """
    refuse_entry("brier_score", entry)
    return _scores(time, event, survival, times, train, at, convention)[0]


def integrated_brier_score(
    time: Any,
    event: Any,
    survival: Any,
    times: Any = None,
    *,
    train: Any = None,
    at: Any = None,
    convention: str = "G(T-)",
    entry: None = None,
) -> float:
    """Brier score averaged over time: its integral over the evaluation times by trapezoids, over their range.

    The arguments and errors are those of ``brier_score``; at least two evaluation times.

    Source: Graf et al., Statistics in Medicine 1999.
    """
    refuse_entry("integrated_brier_score", entry)
    scores, at = _scores(time, event, survival, times, train, at, convention)
    if len(at) < 2:
        raise ValueError(f"expected at least two evaluation times to integrate over, got {len(at)}")
    return float(np.sum((scores[1:] + scores[:-1]) * np.diff(at)) / 2 / (at[-1] - at[0]))


def cs_score(concordance: Any, integrated_brier: Any) -> float:
    """The composite (C + 1 - IBS) / 2 of discrimination and calibration: 1 is perfect.

    Args:
        concordance: a concordance index in [0, 1], a number or the result of ``concordance_index``.
        integrated_brier: an integrated Brier score, at least 0.

    NaN where either is NaN (no comparable pair, for one).

    Source: the CS score of impuTMAE (arXiv 2508.09195).
    """
    concordance, integrated_brier = float(concordance), float(integrated_brier)
    if concordance < 0 or concordance > 1:
        raise ValueError(f"expected concordance between 0 and 1, got {concordance}")
    if integrated_brier < 0 or integrated_brier == float("inf"):
        raise ValueError(f"expected integrated_brier as a finite number of at least 0, got {integrated_brier}")
    return (concordance + 1 - integrated_brier) / 2


def _scores(
    time: Any, event: Any, survival: Any, times: Any, train: Any, at: Any, convention: str
) -> tuple[np.ndarray, np.ndarray]:
    """The scores and their evaluation times."""
    time, event = outcome(time, event)
    if not len(time):
        raise ValueError("expected at least one patient, got none")
    survival, times = unchecked_curves(survival, times, len(time))
    if at is not None:
        survival, times = _curves_at(survival, times, rising(at, "at"))
    censoring = CensoringDistribution.fit(*training_outcome(train, time, event))
    within_follow_up(times, censoring)

    control_weight = _control_weights(censoring, times)
    case = event & (time <= times[-1])
    probability = case_probabilities(censoring, time, case, convention)
    weight = inverse_censoring_weights(probability, time, case, "evaluate at earlier times")
    place = _metrics.search(times, time, False)
    sums, wrong = _metrics.brier_sums(survival, place, weight, control_weight)
    if wrong >= 0:
        row, column = divmod(wrong, len(times))
        raise not_a_probability(survival[row, column], row, times[column])
    return sums / len(time), times


def _control_weights(censoring: CensoringDistribution, times: np.ndarray) -> np.ndarray:
    probability = censoring.at(times)
    if not probability[-1] > 0:
        first = times[int((probability > 0).argmin())]
        raise ValueError(
            f"no Brier score at time {first}: no training patient is known to be uncensored beyond it (G = 0);"
            " evaluate at earlier times"
        )
    return 1 / probability


def _curves_at(survival: np.ndarray, times: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curves, right-continuous steps, at other times."""
    if at[-1] > times[-1]:
        raise ValueError(f"expected at within the times of the curves, up to {times[-1]}, got {at[-1]}")
    columns = np.searchsorted(times, at, side="right") - 1
    values = survival[:, columns]
    values[:, columns < 0] = 1
    return values, at
