"""lifelines' Cox regression, made fast for rows with entry times.

With entry times lifelines gathers the rows at risk anew for every time of an event, which takes minutes for 20,000
rows. Here their sums are differences of running sums: a Newton step of n rows and p covariates costs
O(n log n + n p^2).
"""

from __future__ import annotations

from typing import Any

import numpy as np


def cox_fitter(penalizer: float) -> Any:
    """A fitter that is used, and gives the same coefficients, as lifelines' ``CoxPHFitter(penalizer=penalizer)``."""
    from lifelines.fitters.coxph_fitter import SemiParametricPHFitter

    class CoxFitter(SemiParametricPHFitter):
        def _choose_gradient_calculator(self, T: Any, X: Any, entries: Any) -> Any:
            if entries is None:
                return super()._choose_gradient_calculator(T, X, entries)
            return lambda X, T, E, weights, entries, beta: derivatives(
                *(part.to_numpy() for part in (X, T, E, weights, entries)), beta
            )

    return CoxFitter(penalizer=penalizer)


def derivatives(
    covariates: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    weights: np.ndarray,
    entry: np.ndarray,
    coefficients: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Hessian [p, p], gradient [p] and value of Efron's log partial likelihood of one stratum.

    Args:
        covariates: float64 [n, p].
        time, entry: [n]; a row is at risk at the times after its entry, up to and including its time.
        event: bool [n].
        weights: [n], above 0; the d events of one time each count with their mean weight.
        coefficients: [p].
    """
    hazard = weights * np.exp(covariates @ coefficients)
    sums = np.column_stack((hazard, hazard[:, None] * covariates))
    times, of_event, tied = np.unique(time[event], return_inverse=True, return_counts=True)
    weight = (np.bincount(of_event, weights[event]) / tied).repeat(tied)
    tied_sums = np.zeros((len(times), sums.shape[1]))
    np.add.at(tied_sums, of_event, sums[event])
    at_risk = _sums_from(times, time, sums) - _sums_from(times, entry, sums)

    # One term per event: of d events at a time, the k-th sees a risk set in which all d weigh (1 - k / d) as much.
    group = np.arange(len(times)).repeat(tied)
    gone = (np.arange(len(group)) - (np.cumsum(tied) - tied)[group]) / tied[group]
    terms = at_risk[group] - gone[:, None] * tied_sums[group]
    means = terms[:, 1:] / terms[:, :1]

    # A row enters the second moments of all risk sets it is in with one coefficient, so no moment is made per time.
    shares = np.column_stack((weight, weight * gone)) / terms[:, :1]
    each_time = np.zeros((len(times), 2))
    np.add.at(each_time, group, shares)
    running = np.concatenate(([0.0], np.cumsum(each_time[:, 0])))
    factor = running[np.searchsorted(times, time, side="right")] - running[np.searchsorted(times, entry, side="right")]
    factor[event] -= each_time[of_event, 1]

    second = (covariates * (hazard * factor)[:, None]).T @ covariates
    weighted = weights[event] @ covariates[event]
    hessian = (means * weight[:, None]).T @ means - second
    value = weighted @ coefficients - weight @ np.log(terms[:, 0])
    return hessian, weighted - weight @ means, float(value)


def _sums_from(times: np.ndarray, own: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Per time the sums of the values [n, c] of all rows whose own time is at or after it."""
    order = np.argsort(own, kind="stable")
    sums = np.concatenate((np.cumsum(values[order][::-1], axis=0)[::-1], np.zeros((1, values.shape[1]))))
    return sums[np.searchsorted(own[order], times, side="left")]
