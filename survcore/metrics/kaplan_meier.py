"""Kaplan-Meier's estimate of the survival function."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore import _metrics
from survcore.arguments import to_numpy
from survcore.metrics.inputs import outcome

# Below this many rows waking a second thread costs more than it saves.
_ROWS_WORTH_A_THREAD = 200_000


@dataclass(frozen=True)
class KaplanMeier:
    """Kaplan-Meier's estimate at each distinct observed time (events and censorings).

    Attributes:
        times: float64 [T], increasing, in the unit of the input.
        survival: float64 [T], probability to survive beyond each time.
        at_risk: int64 [T], patients under observation just before each time.
        events: int64 [T], events at each time.
    """

    times: np.ndarray
    survival: np.ndarray
    at_risk: np.ndarray
    events: np.ndarray

    def survival_at(self, times: Any) -> np.ndarray:
        """Survival at any times: a right-continuous step function, 1 before the first observed time.

        Beyond the last observed time the last value holds, whether or not that time is an event; NaN gives NaN.
        """
        times = np.asarray(to_numpy(times), dtype=np.float64)
        steps = np.concatenate(([1.0], self.survival))
        return np.where(np.isnan(times), np.nan, steps[np.searchsorted(self.times, times, side="right")])


def kaplan_meier(time: Any, event: Any) -> KaplanMeier:
    """Kaplan-Meier's product-limit estimate of the survival function; at equal times events precede censorings.

    Args:
        time: follow-up times [n], non-negative and finite, any unit.
        event: [n], True or 1 = event, False or 0 = censored.

    Raises:
        ValueError: for different lengths, NaN, negative or infinite times, an event that is not 0 or 1, or time and
            event in exchanged places.

    Source: Kaplan and Meier, Nonparametric estimation from incomplete observations, JASA 1958.
    """
    words, middle = _metrics.pack_times(*outcome(time, event))
    if len(words) < _ROWS_WORTH_A_THREAD:
        words.sort()
    else:
        other = threading.Thread(target=words[:middle].sort)
        other.start()
        words[middle:].sort()
        other.join()
    return KaplanMeier(*_metrics.kaplan_meier(words))
