"""A Cox regression on a few covariates, small enough to be fitted again on every bootstrap resample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STEPS = 60
_CONVERGED = 1e-9


@dataclass(frozen=True, eq=False)
class CoxFit:
    """Coefficients [covariates], and the logarithm of the cumulative hazard of a row of zeros at a horizon."""

    coefficients: np.ndarray
    log_cumulative_hazard: float


def cox_fit(covariates: np.ndarray, time: np.ndarray, event: np.ndarray, horizon: float) -> CoxFit | None:
    """Maximum of Efron's partial likelihood by Newton's method, O(n log n); None when it is not found.

    ``covariates`` is [n, p] on a common scale. Tied events enter the baseline hazard one after the other as they do
    the likelihood (R's survfit with Efron's ties).
    """
    likelihood = _PartialLikelihood(covariates, time, event)
    coefficients = np.zeros(covariates.shape[1])
    value, gradient, information, _ = likelihood.at(coefficients)
    for _ in range(_STEPS):
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return None
        last = 0 <= gradient @ step < _CONVERGED  # the step is still worth taking: convergence is quadratic
        for _ in range(20):
            found = likelihood.at(coefficients + step)
            if found[0] >= value or (last and np.isfinite(found[0])):
                break
            step = step / 2
        else:
            return None
        coefficients = coefficients + step
        value, gradient, information, log_hazards = found
        if last:
            return CoxFit(coefficients, float(np.logaddexp.reduce(log_hazards[likelihood.event_times <= horizon])))
    return None


class _PartialLikelihood:
    """Efron's partial likelihood, with the order of the rows and their ties worked out once."""

    def __init__(self, covariates: np.ndarray, time: np.ndarray, event: np.ndarray) -> None:
        order = np.argsort(time, kind="stable")
        time = time[order]
        self.rows = covariates[order]
        self.events = np.flatnonzero(event[order])
        self.event_times = time[self.events]
        distinct, self._group_starts, group, tied = np.unique(
            self.event_times, return_index=True, return_inverse=True, return_counts=True
        )
        self._group = group
        self._at_risk_from = np.searchsorted(time, distinct)[group]
        # The k-th of d tied events is compared with a risk set in which the d weigh (1 - k / d) as much.
        self._gone = ((np.arange(len(group)) - self._group_starts[group]) / tied[group])[:, None]

    def at(self, coefficients: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Logarithm, gradient, information, and the logarithm of the step of the baseline hazard at each event.

        The logarithm is -inf where a risk set is too far from the highest risk to be computed: a step too far.
        """
        linear = self.rows @ coefficients
        shift = linear.max()
        weight = np.exp(linear - shift)[:, None]
        products = (self.rows[:, :, None] * self.rows[:, None, :]).reshape(len(self.rows), -1)
        columns = weight * np.hstack((np.ones_like(weight), self.rows, products))
        at_risk = np.cumsum(columns[::-1], axis=0)[::-1][self._at_risk_from]
        tied = np.add.reduceat(columns[self.events], self._group_starts, axis=0)[self._group]
        sums = at_risk - self._gone * tied

        total, size = sums[:, 0], self.rows.shape[1]
        if not total.min() > 0:
            return -np.inf, np.empty(size), np.empty((size, size)), np.empty(len(total))
        means = sums[:, 1:] / sums[:, :1]
        log_hazards = -shift - np.log(total)
        value = (linear[self.events] + log_hazards).sum()
        first, second = means[:, :size], means[:, size:].reshape(-1, size, size)
        gradient = (self.rows[self.events] - first).sum(axis=0)
        information = second.sum(axis=0) - first.T @ first
        return value, gradient, information, log_hazards
