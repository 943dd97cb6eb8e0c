"""Evaluation metrics of survival predictions.

Argument order is (time, event, ...) as in R and lifelines' fitters; a risk is higher for patients expected to fail
earlier. Inputs are NumPy arrays, pandas Series, lists or torch tensors.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore import _metrics
from survcore.arguments import to_numpy, vector

# Below this many rows waking a second thread costs more than it saves.
_ROWS_WORTH_A_THREAD = 200_000


@dataclass(frozen=True)
class Concordance:
    """Harrell's concordance index and the pairs behind it, counted as R's ``survival::concordance`` does.

    A pair is comparable when one patient has an event and the other is observed longer, or censored at that same time.

    Attributes:
        value: (concordant + tied_risk / 2) / (concordant + discordant + tied_risk); NaN when no pair is comparable.
        concordant: comparable pairs in which the patient who failed first has the higher risk.
        discordant: comparable pairs in which that patient has the lower risk.
        tied_risk: comparable pairs of equal risk (R: tied.x).
        tied_time: pairs of events at the same time with different risks (R: tied.y); they do not enter the value.
        tied_both: pairs of events at the same time with equal risks (R: tied.xy); they do not enter the value.
    """

    value: float
    concordant: int
    discordant: int
    tied_risk: int
    tied_time: int
    tied_both: int

    def __float__(self) -> float:
        return self.value


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


def concordance_index(time: Any, event: Any, risk: Any) -> Concordance:
    """Harrell's concordance index, in O(n log n) and with exact counts.

    Risks tie when they are exactly equal.

    Args:
        time: follow-up times [n], non-negative and finite, any unit.
        event: [n], True or 1 = event, False or 0 = censored.
        risk: [n], higher = earlier failure expected (a log-hazard, or minus a predicted survival time); infinity is
            allowed.

    Returns:
        The index and its pair counts; ``float(...)`` gives the index, which is NaN when no pair is comparable.

    Raises:
        ValueError: for different lengths, NaN, negative or infinite times, an event that is not 0 or 1, or time and
            event in exchanged places.

    Source: Harrell et al., Evaluating the yield of medical tests, JAMA 1982; ties as in R's survival package.
    """
    time, event = _times_and_events(time, event)
    risk = vector(risk, "risk", len(time))
    concordant, discordant, tied_risk, tied_time, tied_both = _metrics.concordance_counts(
        time, event, risk, _ascending(time, "time"), _ascending(risk, "risk")
    )
    comparable = concordant + discordant + tied_risk
    value = (concordant + tied_risk / 2) / comparable if comparable else float("nan")
    return Concordance(value, concordant, discordant, tied_risk, tied_time, tied_both)


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
    words, middle = _metrics.pack_times(*_times_and_events(time, event))
    if len(words) < _ROWS_WORTH_A_THREAD:
        words.sort()
    else:
        other = threading.Thread(target=words[:middle].sort)
        other.start()
        words[middle:].sort()
        other.join()
    return KaplanMeier(*_metrics.kaplan_meier(words))


def _ascending(values: np.ndarray, name: str) -> np.ndarray:
    """Sorted words of the rows in increasing order of value (see csrc/metrics/order.h)."""
    smallest, largest = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if np.isnan(smallest):
        raise ValueError(f"{name} is NaN at row {int(np.isnan(values).argmax())}")
    words = _metrics.pack_order(values, smallest, largest)
    words.sort()
    return words


def _times_and_events(time: Any, event: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as contiguous vectors, float64 and bool, or an error that names the row or the exchange of the two."""
    event = to_numpy(event)
    if to_numpy(time).dtype == bool:
        raise ValueError("time is a vector of True and False: the order is time, event (event and time look exchanged)")
    time = vector(time, "time")
    if event.shape != time.shape:
        raise ValueError(f"expected event as a vector of {len(time)} values like time, got shape {event.shape}")
    if event.dtype != bool:
        event = _events(event, time)
    if len(time) and not (time.min() >= 0 and time.max() < np.inf):
        row = int((~((time >= 0) & (time < np.inf))).argmax())
        raise ValueError(f"expected a finite time of at least 0, got {time[row]} at row {row}")
    return time, np.ascontiguousarray(event)


def _events(event: np.ndarray, time: np.ndarray) -> np.ndarray:
    """A numeric event vector as bool."""
    happened = event == 1
    other = ~(happened | (event == 0))
    if other.any():
        row = int(other.argmax())
        distinct = len(np.unique(event))
        if distinct > 2 and np.isin(time, (0, 1)).all():
            raise ValueError(
                f"time holds only 0 and 1 and event {distinct} different values: the order is time, event"
                " (event and time look exchanged)"
            )
        raise ValueError(
            f"expected event to be 0 (censored) or 1 (event), got {event[row]} at row {row};"
            " of several causes pass event == cause"
        )
    return happened
