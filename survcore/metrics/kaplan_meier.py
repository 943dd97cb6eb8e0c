"""Kaplan-Meier's estimate of the survival function."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from survcore import _metrics
from survcore.arguments import common_index, to_numpy
from survcore.metrics.inputs import case_weights, entries, outcome
from survcore.metrics.weight_scale import scaled_weights

# Below this many rows waking a second thread costs more than it saves.
_ROWS_WORTH_A_THREAD = 200_000

# Weights near 2^900 leave room above for the sum of 2^32 of them, and below for those that are 1e-590 of the largest.
_MAGNITUDE_OF_WEIGHTS = 900


@dataclass(frozen=True, eq=False, repr=False)
class KaplanMeier:
    """Kaplan-Meier's estimate at each distinct observed time (events and censorings); equal only to itself.

    Attributes:
        times: float64 [T], increasing, in the unit of the input.
        survival: float64 [T], probability to survive beyond each time.
        at_risk: int64 [T], patients under observation just before each time; float64 sums of weights where there are
            weights, infinite where they exceed the range of float64.
        events: int64 [T], events at each time; float64 as at_risk.
    """

    times: np.ndarray
    survival: np.ndarray
    at_risk: np.ndarray
    events: np.ndarray

    @cached_property
    def standard_error(self) -> np.ndarray:
        """Greenwood's standard error of the survival, float64 [T]: S sqrt(sum d / (n (n - d))), NaN where S is 0.

        R's ``survfit`` gives it divided by S as ``std.err``; with weights it is R's with ``robust=FALSE``, which takes
        the weights as numbers of patients.

        Source: Greenwood, The natural duration of cancer, 1926.
        """
        before = np.append(1.0, self.survival[:-1])
        alive = self.survival > 0
        unknown = np.full(len(alive), np.nan)
        # n - d as a share of n: subtracting large sums of weights would lose the few who stay.
        staying = self.at_risk * np.divide(self.survival, before, out=unknown.copy(), where=alive)
        terms = np.divide(self.events / self.at_risk, staying, out=unknown, where=alive)
        return self.survival * np.sqrt(np.cumsum(terms))

    def __repr__(self) -> str:
        first, last = self.times[0], self.times[-1]
        return f"KaplanMeier({len(self.times)} times from {first:g} to {last:g}, last survival {self.survival[-1]:.4g})"

    def survival_at(self, times: Any) -> np.ndarray:
        """Survival at any times: a right-continuous step function, 1 before the first observed time.

        Beyond the last observed time the last value holds, whether or not that time is an event; NaN gives NaN.
        """
        times = np.asarray(to_numpy(times), dtype=np.float64)
        return np.where(np.isnan(times), np.nan, step_values(self.times, self.survival, times, inclusive=True))


def kaplan_meier(time: Any, event: Any = None, *, entry: Any = None, weights: Any = None) -> KaplanMeier:
    """Kaplan-Meier's product-limit estimate of the survival function; at equal times events precede censorings.

    With late entry the estimate is that of survival given survival until the first entry; where at some time all
    patients then at risk fail, it stays 0, however many enter later (as in R).

    Args:
        time: follow-up times [n], non-negative and finite, any unit; or scikit-survival's structured array of (event,
            time), with event left out.
        event: [n], True or 1 = event, False or 0 = censored.
        entry: times of entry [n], before the follow-up times (left truncation): a patient is at risk after entry and
            up to time, both as in R. None: from the start.
        weights: case weights [n], finite and at least 0: a weight of 2 counts as two patients, 0 as none. None: 1.

    Raises:
        ValueError: without patients, or where all weights are 0; for different lengths, NaN, negative or infinite
            times, an event that is not 0 or 1, time and event in exchanged places, an entry that is not before the
            time, or a negative or infinite weight.

    Source: Kaplan and Meier, Nonparametric estimation from incomplete observations, JASA 1958.
    """
    common_index(time=time, event=event, entry=entry, weights=weights)
    time, event = outcome(time, event)
    if not len(time):
        raise ValueError("expected at least one patient, got none")
    if entry is not None:
        entry = entries(entry, time)
    if weights is not None:
        return _weighted(time, event, entry, case_weights(weights, len(time)))
    words, middle = _metrics.pack_times(time, event)
    if len(words) < _ROWS_WORTH_A_THREAD or not _two_threads():
        words.sort()
    else:
        other = threading.Thread(target=words[:middle].sort)
        other.start()
        words[middle:].sort()
        other.join()
    return KaplanMeier(*_metrics.kaplan_meier(words, None if entry is None else np.sort(entry)))


def step_values(table: np.ndarray, values: np.ndarray, at: np.ndarray, *, inclusive: bool) -> np.ndarray:
    """A step function that is 1 before the first time of ``table`` and then its ``values``: at ``at``, any shape.

    Args:
        table: float64 [T], rising.
        values: float64 [T].
        at: float64; NaN gives any of the values.
        inclusive: a step counts at its own time (right-continuous) rather than after it only (left-continuous).
    """
    places = _metrics.search(table, at.ravel(), inclusive)
    return np.concatenate(([1.0], values))[places].reshape(at.shape)


def _two_threads() -> bool:
    """Whether two threads may run: unless OMP_NUM_THREADS is 1 or the process has one core."""
    if os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip() == "1":
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores is not None and cores > 1


def _weighted(time: np.ndarray, event: np.ndarray, entry: np.ndarray | None, weights: np.ndarray) -> KaplanMeier:
    scaled, exponent = scaled_weights(weights, _MAGNITUDE_OF_WEIGHTS)
    order = np.flatnonzero(scaled)
    if not len(order):
        raise ValueError("expected weights above 0, got only zeros")
    order = order[np.argsort(time[order])]
    by_entry = None
    if entry is not None:
        entry = entry[order]
        by_entry = np.argsort(entry).astype(np.uint32)
    curve = KaplanMeier(
        *_metrics.weighted_kaplan_meier(
            time[order],
            event[order],
            scaled[order],
            None if entry is None else entry[by_entry],
            by_entry,
        )
    )
    with np.errstate(over="ignore", under="ignore"):
        at_risk, events = np.ldexp(curve.at_risk, exponent), np.ldexp(curve.events, exponent)
        standard_error = np.ldexp(curve.standard_error, -exponent // 2)
    result = KaplanMeier(curve.times, curve.survival, at_risk, events)
    # Sums that exceed the range of float64 would not give it any more.
    result.__dict__["standard_error"] = standard_error
    return result
