"""Survival curves from discrete hazards: piecewise-constant hazard inside a bin, defined once for every system."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class SurvivalCurves:
    """Curves of n patients over K time bins.

    Inside bin k the hazard rate is constant, -log(1 - h_k) / width_k. The open last bin ends at the longest follow-up
    of the training rows: its hazard is spread up to there, and beyond it survival is not known (NaN).

    Args:
        hazards: conditional probabilities of the event in a bin, [n, K], in [0, 1].
        edges: the K + 1 edges of the bins in months, from 0; the last may be infinite.
        longest_follow_up: months; replaces an infinite last edge.

    Raises:
        ValueError: shapes that do not fit, or edges that fall.
    """

    def __init__(self, hazards: np.ndarray, edges: Sequence[float], longest_follow_up: float) -> None:
        hazards = np.asarray(hazards, dtype=np.float64)
        edges = np.array(edges, dtype=np.float64)
        if hazards.ndim != 2 or hazards.shape[1] != len(edges) - 1:
            raise ValueError(
                f"expected hazards [n, {len(edges) - 1}] for {len(edges)} edges, got {list(hazards.shape)}"
            )
        if not np.isfinite(edges[-1]):
            # A follow-up that ends before the last bin begins leaves that bin a sliver, not a negative width.
            edges[-1] = max(longest_follow_up, np.nextafter(edges[-2], np.inf))
        # A bin without width is legal: equidistant bins begin with the cut at time 0.
        if np.any(np.diff(edges) < 0):
            raise ValueError(f"bin edges must not fall: {edges.tolist()}")
        self.edges = edges
        with np.errstate(divide="ignore"):
            steps = -np.log1p(-hazards)
        self.cumulative = np.concatenate((np.zeros((len(hazards), 1)), np.cumsum(steps, axis=1)), axis=1)

    @property
    def horizon(self) -> float:
        """Months up to which the curves are known."""
        return float(self.edges[-1])

    def survival(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """S(t) [n, times]; NaN beyond the horizon."""
        times = np.atleast_1d(np.asarray(times, dtype=np.float64))
        if np.any(times < 0) or np.any(np.isnan(times)):
            raise ValueError(f"times must be months >= 0, got {times[(times < 0) | np.isnan(times)].tolist()}")
        k = np.clip(np.searchsorted(self.edges, times, side="right") - 1, 0, len(self.edges) - 2)
        share = (times - self.edges[k]) / np.diff(self.edges)[k]
        left, right = self.cumulative[:, k], self.cumulative[:, k + 1]
        with np.errstate(invalid="ignore"):
            # Where nothing of an infinite step has passed, inf * 0 must stay 0.
            hazard = left + np.where(share == 0, 0.0, (right - left) * share)
        hazard = np.where(np.isinf(left), np.inf, hazard)
        return np.where(times > self.horizon, np.nan, np.exp(-hazard))

    def median(self) -> np.ndarray:
        """Months at which S falls to one half, [n]; infinite where it does not within the horizon."""
        return self.quantile(0.5)

    def quantile(self, level: float) -> np.ndarray:
        """Months at which S falls to ``level``, [n]; infinite where not within the horizon, NaN where S is NaN."""
        target = -np.log(level)
        crossed = self.cumulative[:, 1:] >= target
        k = np.argmax(crossed, axis=1)
        rows = np.arange(len(k))
        left, right = self.cumulative[rows, k], self.cumulative[rows, k + 1]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(np.isinf(right), 0.0, (target - left) / (right - left))
        months = self.edges[k] + share * np.diff(self.edges)[k]
        return np.where(np.isnan(self.cumulative).any(axis=1), np.nan, np.where(crossed.any(axis=1), months, np.inf))

    def restricted_mean(self, tau: float) -> np.ndarray:
        """Restricted mean survival time: months lived up to ``tau``, [n]; NaN where tau lies beyond the horizon."""
        if not tau > 0:
            raise ValueError(f"the restricted mean needs a time above 0 months, got {tau}")
        if tau > self.horizon:
            return np.full(len(self.cumulative), np.nan)
        ends = np.minimum(self.edges, tau)
        widths = np.diff(ends)
        survival = self.survival(ends)
        start, stop = survival[:, :-1], survival[:, 1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            # The mean of an exponential decay over an interval; its limit is the start value when nothing decays.
            decay = np.log(start) - np.log(stop)
            mean = np.where(decay > 1e-12, (start - stop) / decay, start)
        mean = np.where(stop == 0, 0.0, np.where(start == 0, 0.0, mean))
        return (mean * widths).sum(axis=1)
