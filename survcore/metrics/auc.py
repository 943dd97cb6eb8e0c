"""Areas under ROC curves of survival outcomes: cumulative/dynamic over time, and at one horizon."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from survcore import _metrics
from survcore.arguments import common_index, to_numpy
from survcore.metrics.censoring import (
    CensoringDistribution,
    case_probabilities,
    inverse_censoring_weights,
    refuse_entry,
    training_outcome,
    within_follow_up,
)
from survcore.metrics.inputs import outcome, rising, risks
from survcore.metrics.kaplan_meier import kaplan_meier


@dataclass(frozen=True, eq=False)
class DynamicAUC:
    """Cumulative/dynamic areas under the ROC curve.

    Attributes:
        times: float64 [E], evaluation times.
        auc: float64 [E]; NaN at a time without a case or without a control.
        mean: the areas averaged with the fall of the evaluated patients' Kaplan-Meier curve since the previous
            evaluation time as weights (since time 0 at the first; Lambert and Chevret 2014). A time since whose
            predecessor nobody failed has weight 0, its area NaN or not; NaN where an area of positive weight is NaN,
            or all weights are 0.
    """

    times: np.ndarray
    auc: np.ndarray
    mean: float


def cumulative_dynamic_auc(
    time: Any,
    event: Any,
    risk: Any,
    times: Any,
    *,
    train: Any = None,
    convention: str = "G(T-)",
    entry: None = None,
) -> DynamicAUC:
    """How well a risk tells the patients who fail by t from those who live longer, at each evaluation time.

    Cases at t have an event at T <= t and weigh 1 / G(T-), with G the training outcomes' Kaplan-Meier estimate of being
    uncensored, events before censorings at equal times; controls have T > t. Patients censored by t are neither. A
    control whose risk equals a case's exactly counts half. One sort and O(n) per time.

    Args:
        time: follow-up times [n], non-negative and finite; or scikit-survival's structured array, with event None.
        event: [n], True or 1 = event, False or 0 = censored.
        risk: [n], higher = earlier failure expected; or [n, E], a risk for each evaluation time (such as one minus the
            survival at it), each sorted on its own. Infinity is allowed.
        times: evaluation times, one or [E], rising.
        train: outcomes whose censoring gives G, a pair (time, event) or a structured array; None: the evaluated ones.
        convention: "G(T-)", the probability of having been observed until the event, or "G(T)", as scikit-survival
            weighs; they differ where a training censoring shares the time of an event.
        entry: not available; late entries (left truncation) raise.

    Raises:
        ValueError: for outcomes, risks or times of wrong shape or value, evaluation times beyond the training
            follow-up, or a case whose G is 0 (with "G(T)" only).

    Source: Uno et al., Evaluating prediction rules for t-year survivors with censored regression models, JASA 2007;
    the mean: Lambert and Chevret, Summary measure of discrimination in survival models based on cumulative/dynamic
    time-dependent ROC curves, Statistical Methods in Medical Research 2014.
    """
    refuse_entry("cumulative_dynamic_auc", entry)
    common_index(time=time, event=event, risk=risk)
    time, event = outcome(time, event)
    times = rising(times, "times")
    risk = to_numpy(risk)
    if risk.ndim == 2 and risk.shape != (len(time), len(times)):
        raise ValueError(f"expected risk [patients, times] = [{len(time)}, {len(times)}], got shape {risk.shape}")

    case = event & (time <= times[-1])
    weight = _case_weights(time, event, case, times, train, convention)
    place = _metrics.search(times, time, False)
    auc = _areas_by_time(risk, place, weight, len(times)) if risk.ndim == 2 else _areas(risk, place, weight, len(times))
    return DynamicAUC(times, auc, _mean(auc, times, time, event))


def auroc_at_horizon(
    time: Any,
    event: Any,
    risk: Any,
    horizon: float,
    *,
    censoring: str = "left out",
    train: Any = None,
) -> float:
    """Area under the ROC curve of failing by a horizon, with tied risks counting half; NaN without case or control.

    Args:
        time: follow-up times [n], non-negative and finite; or scikit-survival's structured array, with event None.
        event: [n], True or 1 = event, False or 0 = censored.
        risk: [n], higher = earlier failure expected, such as the probability to fail by the horizon.
        horizon: in the unit of time. Cases have their event at or before it.
        censoring: "left out": patients censored before the horizon are no part of it, those censored at it have
            outlived it; biased where censoring is frequent. "weighted": the cumulative/dynamic area at the horizon,
            cases weighted by 1 / G(T-), whose controls are followed beyond the horizon.
        train: outcomes whose censoring gives G where weighted, a pair (time, event) or a structured array; None: the
            evaluated ones.

    Raises:
        ValueError: for outcomes or risks of wrong shape or value, a horizon that is not a number of at least 0,
            ``train`` where nothing is weighted; where weighted, a horizon beyond the training follow-up.
    """
    if censoring == "weighted":
        return float(cumulative_dynamic_auc(time, event, risk, horizon, train=train).auc[0])
    if censoring != "left out":
        raise ValueError(f"expected censoring 'left out' or 'weighted', got {censoring!r}")
    common_index(time=time, event=event, risk=risk)
    if train is not None:
        raise ValueError("train gives censoring weights, and patients are left out without weights: drop one of them")
    time, event = outcome(time, event)
    risk = risks(risk, len(time))
    if not isinstance(horizon, Real) or not 0 <= horizon < np.inf:
        raise ValueError(f"expected a finite horizon of at least 0, got {horizon!r}")
    known = event | (time >= horizon)
    case = (event & (time <= horizon))[known]
    return float(_areas(risk[known], (~case).astype(np.int64), case.astype(np.float64), 1)[0])


def _case_weights(
    time: np.ndarray, event: np.ndarray, case: np.ndarray, times: np.ndarray, train: Any, convention: str
) -> np.ndarray:
    censoring = CensoringDistribution.fit(*training_outcome(train, time, event))
    within_follow_up(times, censoring)
    probability = case_probabilities(censoring, time, case, convention)
    return inverse_censoring_weights(probability, time, case, "evaluate at earlier times")


def _areas(risk: Any, place: np.ndarray, weight: np.ndarray, times: int) -> np.ndarray:
    """Areas [times] of one risk; a row is a control at the times before its place, a case of its weight from there."""
    risk = risks(risk, len(place))
    words = _metrics.pack_order(risk, *((risk.min(), risk.max()) if len(risk) else (0.0, 0.0)))
    words.sort()
    sums = _metrics.auc_sums(risk, words, place, weight, times)
    cases = np.cumsum(np.bincount(place, weights=weight, minlength=times + 1)[:times])
    controls = len(place) - np.cumsum(np.bincount(place, minlength=times + 1)[:times])
    pairs = 2 * cases * controls
    return np.divide(sums, pairs, out=np.full(times, np.nan), where=pairs > 0)


def _areas_by_time(risk: np.ndarray, place: np.ndarray, weight: np.ndarray, times: int) -> np.ndarray:
    """Areas [times] of a risk [n, times]."""
    columns = np.ascontiguousarray(risk.T, dtype=np.float64)
    if np.isnan(columns).any():
        row, column = np.argwhere(np.isnan(risk))[0]
        raise ValueError(f"risk is NaN at row {row}, column {column}")
    return np.array([_areas(column, (place > j).astype(np.int64), weight, 1)[0] for j, column in enumerate(columns)])


def _mean(auc: np.ndarray, times: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    falls = -np.diff(kaplan_meier(time, event).survival_at(times), prepend=1.0)
    fell = falls > 0
    return float(np.sum(auc[fell] * falls[fell]) / np.sum(falls)) if fell.any() else float("nan")
