"""Observed risk at a horizon as a function of the predicted one: a line through pseudo-observations, a smooth curve."""

from __future__ import annotations

import numpy as np

from survcore.metrics.cox_fit import cox_fit
from survcore.metrics.kaplan_meier import KaplanMeier

_STEPS = 100
_CONVERGED = 1e-9


def pseudo_risks(curve: KaplanMeier, time: np.ndarray, event: np.ndarray, horizon: float) -> np.ndarray:
    """Jackknife pseudo-observations of the event by the horizon [n]: n F - (n - 1) F without the patient, O(n).

    F is 1 - Kaplan-Meier at the horizon and ``curve`` that estimate from ``time`` and ``event``. Without censoring they
    are 1 for an event by the horizon and 0 otherwise; with it some lie outside [0, 1].

    Source: Andersen and Perme, Pseudo-observations in survival analysis, Statistical Methods in Medical Research 2010.
    """
    within = curve.times <= horizon
    times, at_risk, events = curve.times[within], curve.at_risk[within], curve.events[within]
    others = np.maximum(at_risk - 1, 1)  # whoever is alone at risk leaves nobody, and no event, behind
    factors = 1 - events / at_risk
    before = np.append(1.0, np.cumprod(1 - events / others))  # of a patient at risk and free of the event
    after = np.append(np.cumprod(factors[::-1])[::-1], 1.0)

    survival_without = np.full(len(time), before[-1])
    followed = time <= horizon
    place = np.searchsorted(times, time[followed])
    own = 1 - (events[place] - event[followed]) / others[place]
    survival_without[followed] = before[place] * own * after[place + 1]
    n = len(time)
    return n * (1 - after[0]) - (n - 1) * (1 - survival_without)


def calibration_line(x: np.ndarray, pseudo: np.ndarray) -> tuple[float, float]:
    """(intercept at slope 1, slope) of log(-log(1 - risk)) = a + b x, by least squares of pseudo - risk.

    The slope is NaN when all x are equal; either is NaN without a finite solution.
    """
    intercept = _least_squares(np.ones((len(x), 1)), x, pseudo, np.zeros(1))[0]
    if np.isnan(intercept) or x.min() == x.max():
        return float(intercept), np.nan
    centre = x.mean()
    design = np.column_stack((np.ones(len(x)), x - centre))
    slope = _least_squares(design, np.zeros(len(x)), pseudo, np.array([intercept + centre, 1.0]))[1]
    return float(intercept), float(slope)


def _least_squares(design: np.ndarray, offset: np.ndarray, pseudo: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Gauss-Newton with step halving; NaN when it does not converge or fits perfectly, which only infinity does."""

    def fitted(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        linear = np.minimum(design @ coefficients + offset, 50.0)  # a risk of 1 long before
        hazard = np.exp(linear)
        return pseudo + np.expm1(-hazard), design * np.exp(linear - hazard)[:, None]

    coefficients = start
    residual, slopes = fitted(coefficients)
    for _ in range(_STEPS):
        step = np.linalg.lstsq(slopes, residual, rcond=None)[0]
        if residual @ residual < 1e-12:
            break
        if np.abs(step).max() < _CONVERGED:
            return coefficients + step
        enough = residual @ residual * (1 + 1e-12)  # rounding must not shorten the last steps
        for _ in range(40):
            tried = fitted(coefficients + step)
            if tried[0] @ tried[0] <= enough:
                break
            step = step / 2
        else:
            break
        coefficients = coefficients + step
        residual, slopes = tried
    return np.full_like(start, np.nan)


def smoothed_risks(x: np.ndarray, time: np.ndarray, event: np.ndarray, horizon: float) -> np.ndarray:
    """Risk by the horizon [n] of a Cox model with Efron's ties on a spline of x; NaN without a fit."""
    spline = _restricted_cubic_spline(x)
    spline = (spline - spline.mean(axis=0)) / spline.std(axis=0)
    fit = cox_fit(spline, time, event, horizon)
    if fit is None:
        return np.full(len(x), np.nan)
    with np.errstate(over="ignore"):  # where predictions separate the outcomes, hazards grow beyond all limits
        return -np.expm1(-np.exp(fit.log_cumulative_hazard + spline @ fit.coefficients))


def _restricted_cubic_spline(x: np.ndarray) -> np.ndarray:
    """x, and the cubic term of three knots that is linear beyond the outer ones (left out if two knots coincide)."""
    first, middle, last = np.quantile(x, [0.1, 0.5, 0.9])
    if not first < middle < last:
        return x[:, None]
    cubes = [np.maximum(x - knot, 0) ** 3 for knot in (first, middle, last)]
    bend = cubes[0] * (last - middle) - cubes[1] * (last - first) + cubes[2] * (middle - first)
    return np.column_stack((x, bend / ((last - middle) * (last - first) ** 2)))
