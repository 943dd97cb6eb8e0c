"""Calibration of a predicted risk at one horizon: groups, slope, intercept and the integrated calibration index."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from survcore.arguments import vector, whole_number
from survcore.metrics.calibration_curve import calibration_line, pseudo_risks, smoothed_risks
from survcore.metrics.inputs import outcome
from survcore.metrics.kaplan_meier import KaplanMeier, kaplan_meier

# The distance from 0 and 1 at which predictions are held where their complementary log-log is taken.
_NEAREST = 1e-10


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted risk of an event by a horizon against what was observed.

    Attributes:
        horizon: the time by which the event is predicted.
        groups: DataFrame, one row per quantile group in increasing order of the prediction: n, predicted (mean),
            observed (Kaplan-Meier), lower and upper (95 %). observed is NaN in a group whose follow-up ends in a
            censoring before the horizon; the limits are NaN then and where observed is 0 or 1.
        predicted: mean predicted risk of all patients.
        observed: observed risk of all patients (Kaplan-Meier); observed / predicted is the O/E ratio.
        slope: 1 when right; below 1 when predictions are too extreme. NaN when all predictions are equal or the
            regression has no finite solution, as when the predictions separate those with and without an event.
        intercept: 0 when right; above 0 when risks are predicted too low. NaN without a finite solution.
        ici: integrated calibration index, the mean of abs(smoothed - prediction); NaN where smoothed is.
        smoothed: float64 [n], observed risk as a smooth function of the prediction, in the order of the rows; NaN when
            the regression behind it does not converge.
    """

    horizon: float
    groups: pd.DataFrame
    predicted: float
    observed: float
    slope: float
    intercept: float
    ici: float
    smoothed: np.ndarray


def calibration_at(time: Any, event: Any, predicted: Any, horizon: float, *, groups: int = 10) -> Calibration:
    """Calibration of the predicted risk of an event by ``horizon``.

    With x = log(-log(1 - predicted)), the complementary log-log of the prediction, held 1e-10 away from 0 and 1:

    - groups: patients between the quantiles k / groups of the prediction (linear between order statistics), each with
      its upper and without its lower limit, so equal predictions stay together and a group may be empty (left out).
      Observed is 1 - Kaplan-Meier, its limits by Greenwood's variance on the log(-log) scale.
    - slope and intercept: log(-log(1 - risk)) = a + b x fitted by least squares of the risks to jackknife
      pseudo-observations of the event by the horizon. slope = b; intercept = a with b held at 1. Hazards need not be
      proportional; censoring must not depend on the prediction.
    - ici: a Cox model of all follow-up on a restricted cubic spline of x with knots at its 10, 50 and 90 % quantiles
      (linear in x if these coincide) gives each patient a smoothed observed risk by the horizon. With one value of
      prediction only, that is the Kaplan-Meier risk.

    Args:
        time: follow-up times [n], non-negative and finite, any unit; or scikit-survival's structured array of (event,
            time), with event None.
        event: [n], True or 1 = event, False or 0 = censored.
        predicted: risk of an event by the horizon [n], from 0 to 1 (1 minus the predicted survival).
        horizon: positive, in the unit of time.
        groups: number of quantile groups, from 1 to n.

    Raises:
        ValueError: for predictions outside [0, 1] or NaN, a horizon that is no positive number or lies beyond the
            follow-up, no event by the horizon, nobody free of the event at the horizon, or wrong times and events.

    Sources: Royston, Tools for checking calibration of a Cox model in external validation, Stata Journal 2014, and van
    Geloven et al., Validation of prediction models in the presence of competing risks, BMJ 2022 (slope, intercept);
    Austin, Harrell and van Klaveren, Graphical calibration curves and the integrated calibration index for survival
    models, Statistics in Medicine 2020 (ICI).
    """
    time, event = outcome(time, event)
    predicted = _predicted(predicted, len(time))
    if not isinstance(horizon, Real) or not 0 < horizon < np.inf:
        raise ValueError(f"expected a positive, finite horizon, got {horizon!r}")
    groups = whole_number("groups", groups, 1)
    if groups > len(time):
        raise ValueError(f"expected at most as many groups as the {len(time)} patients, got {groups}")
    curve = kaplan_meier(time, event)
    observed = _overall(curve, event & (time <= horizon), horizon)

    x = np.log(-np.log1p(-np.clip(predicted, _NEAREST, 1 - _NEAREST)))
    intercept, slope = calibration_line(x, pseudo_risks(curve, time, event, horizon))
    constant = x.min() == x.max()
    smoothed = np.full(len(time), observed) if constant else smoothed_risks(x, time, event, horizon)
    return Calibration(
        horizon=float(horizon),
        groups=_groups(time, event, predicted, horizon, groups),
        predicted=float(predicted.mean()),
        observed=observed,
        slope=slope,
        intercept=intercept,
        ici=float(np.abs(smoothed - predicted).mean()),
        smoothed=smoothed,
    )


def _predicted(predicted: Any, rows: int) -> np.ndarray:
    predicted = vector(predicted, "predicted", rows)
    wrong = ~((predicted >= 0) & (predicted <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"expected predicted risks between 0 and 1, got {predicted[row]} at row {row}")
    return predicted


def _overall(curve: KaplanMeier, events: np.ndarray, horizon: float) -> float:
    """Observed risk of all patients, or an error where the horizon says nothing."""
    if not events.any():
        raise ValueError(f"no patient has an event by the horizon {horizon}: calibration cannot be computed")
    observed = _observed(curve, horizon)[0]
    if np.isnan(observed):
        raise ValueError(
            f"the horizon {horizon} lies beyond the follow-up, which ends at {curve.times[-1]}: choose an earlier one"
        )
    if observed == 1:
        raise ValueError(f"nobody is free of the event at the horizon {horizon}: calibration cannot be computed")
    return observed


def _groups(time: np.ndarray, event: np.ndarray, predicted: np.ndarray, horizon: float, groups: int) -> pd.DataFrame:
    limits = np.quantile(predicted, np.arange(1, groups) / groups)
    group = np.searchsorted(limits, predicted, side="left")
    lines = []
    for number in np.unique(group):
        rows = group == number
        observed, lower, upper = _observed(kaplan_meier(time[rows], event[rows]), horizon)
        lines.append((int(rows.sum()), predicted[rows].mean(), observed, lower, upper))
    return pd.DataFrame(lines, columns=["n", "predicted", "observed", "lower", "upper"])


def _observed(curve: KaplanMeier, horizon: float) -> tuple[float, float, float]:
    """Risk by the horizon and its 95 % limits; NaN where follow-up ends earlier."""
    last = np.searchsorted(curve.times, horizon, side="right")
    survival = curve.survival[last - 1] if last else 1.0
    if survival == 0:
        return 1.0, np.nan, np.nan
    if curve.times[-1] < horizon:
        return np.nan, np.nan, np.nan
    if survival == 1:
        return 0.0, np.nan, np.nan
    error = curve.standard_error[last - 1] / (-survival * np.log(survival))
    reach = np.exp(NormalDist().inv_cdf(0.975) * error)
    return float(1 - survival), float(1 - survival ** (1 / reach)), float(1 - survival**reach)
