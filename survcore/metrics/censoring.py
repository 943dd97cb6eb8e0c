"""The censoring distribution and the weights that metrics draw from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore.arguments import to_numpy, vector
from survcore.metrics.inputs import numbered_strata, outcome
from survcore.metrics.kaplan_meier import kaplan_meier, step_values


@dataclass(frozen=True, eq=False)
class CensoringDistribution:
    """G(t), the probability of being uncensored beyond t, by Kaplan-Meier's estimate with censorings as the events.

    At equal times events precede censorings, as in R: a patient with an event at t was not at risk of being censored
    at t.

    Attributes:
        times: float64 [T], distinct times of the training outcomes, rising.
        survival: float64 [T], G at each of them.
    """

    times: np.ndarray
    survival: np.ndarray

    @classmethod
    def fit(cls, time: Any, event: Any = None) -> CensoringDistribution:
        """From training outcomes: times [n] and events [n], or scikit-survival's structured array alone."""
        time, event = outcome(time, event, "train")
        if not len(time):
            raise ValueError("expected training outcomes, got none")
        curve = kaplan_meier(time, event)
        exposed = curve.at_risk - curve.events
        staying = np.append(curve.at_risk[1:], 0)
        factors = np.divide(staying, exposed, out=np.ones(len(exposed)), where=exposed > 0)
        return cls(curve.times, np.cumprod(factors))

    @property
    def last_time(self) -> float:
        """The longest follow-up, beyond which G is unknown; -inf without outcomes."""
        return float(self.times[-1]) if len(self.times) else -np.inf

    def at(self, times: Any) -> np.ndarray:
        """G(t): uncensored beyond t; NaN beyond the longest follow-up."""
        return self._step(times, inclusive=True)

    def before(self, times: Any) -> np.ndarray:
        """G(t-): uncensored until just before t; NaN beyond the longest follow-up."""
        return self._step(times, inclusive=False)

    def _step(self, times: Any, *, inclusive: bool) -> np.ndarray:
        times = np.asarray(to_numpy(times), dtype=np.float64)
        values = step_values(self.times, self.survival, times, inclusive=inclusive)
        return np.where(times <= self.last_time, values, np.nan)


def censoring_survival(
    train_time: Any,
    train_event: Any,
    at: Any,
    *,
    before: bool,
    strata: tuple[Any, Any] | None = None,
) -> np.ndarray:
    """G of the training outcomes at any times [m], float64: NaN beyond the longest training follow-up.

    Args:
        train_time: training follow-up times [n], or scikit-survival's structured array with ``train_event`` None.
        train_event: [n], True or 1 = event, False or 0 = censored.
        at: times [m].
        before: G just before each time rather than at it.
        strata: labels of the training rows [n] and of ``at`` [m]; each stratum has a G of its own.

    Raises:
        ValueError: for outcomes that ``inputs.outcome`` refuses, and for a stratum without training rows.
    """
    at = vector(at, "at")
    if strata is None:
        censoring = CensoringDistribution.fit(train_time, train_event)
        return censoring.before(at) if before else censoring.at(at)

    train_time, train_event = outcome(train_time, train_event, "train")
    rows, queries = _rows_by_stratum(strata, len(train_time), len(at))
    values = np.empty(len(at))
    for stratum, places in queries.items():
        if stratum not in rows:
            raise ValueError(f"stratum {stratum!r} has no training outcomes, from which its censoring is estimated")
        own = rows[stratum]
        censoring = CensoringDistribution.fit(train_time[own], train_event[own])
        values[places] = censoring.before(at[places]) if before else censoring.at(at[places])
    return values


def inverse_censoring_weights(probability: np.ndarray, time: np.ndarray, needed: np.ndarray, remedy: str) -> np.ndarray:
    """1 / G for the rows that need a weight and 0 for the others, float64 [n].

    Args:
        probability: G of each row [n], NaN where unknown.
        time: the time behind each G [n], for the error.
        needed: bool [n].
        remedy: what the caller can change, such as "choose tau below 12".

    Raises:
        ValueError: where a needed G is 0 or unknown, with row, time and remedy.
    """
    impossible = needed & ~(probability > 0)
    if impossible.any():
        row = int(impossible.argmax())
        why = (
            "the time is beyond the longest training follow-up"
            if np.isnan(probability[row])
            else "every training patient followed until then was censored (G = 0)"
        )
        raise ValueError(f"no censoring weight for row {row}, time {time[row]}: {why}; {remedy}")
    return np.divide(1.0, probability, out=np.zeros(len(probability)), where=needed)


def case_probabilities(
    censoring: CensoringDistribution, time: np.ndarray, case: np.ndarray, convention: str
) -> np.ndarray:
    """G of each row's own time, float64 [n], 1 for rows that are no case.

    Args:
        censoring: of the training outcomes.
        time: float64 [n].
        case: bool [n].
        convention: "G(T-)", the probability of having been observed until the event, or "G(T)".
    """
    if convention not in ("G(T-)", "G(T)"):
        raise ValueError(f"expected convention 'G(T-)' or 'G(T)', got {convention!r}")
    probability = np.ones(len(time))
    probability[case] = censoring.before(time[case]) if convention == "G(T-)" else censoring.at(time[case])
    return probability


def within_follow_up(times: np.ndarray, censoring: CensoringDistribution) -> None:
    """Raises where an evaluation time is negative or beyond the longest training follow-up."""
    outside = ~((times >= 0) & (times <= censoring.last_time))
    if outside.any():
        raise ValueError(
            f"expected evaluation times within the training follow-up, 0 to {censoring.last_time},"
            f" got {times[int(outside.argmax())]}; evaluate at earlier times"
        )


def training_outcome(train: Any, time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training outcomes: a pair (time, event) or scikit-survival's structured array; None is the evaluated rows."""
    if train is None:
        return time, event
    if isinstance(train, tuple | list) and len(train) == 2:
        return outcome(*train, name="train")
    return outcome(train, None, name="train")


def _rows_by_stratum(strata: tuple[Any, Any], *lengths: int) -> tuple[dict[Any, np.ndarray], ...]:
    """Rows of each label, for the training labels and for those of the queries."""
    groups = []
    for labels, length in zip(strata, lengths, strict=True):
        codes, distinct = numbered_strata(labels, length)
        rows = np.split(np.argsort(codes, kind="stable"), np.bincount(codes, minlength=1).cumsum()[:-1])
        groups.append(dict(zip(distinct, rows, strict=False)))
    return tuple(groups)


def refuse_entry(metric: str, entry: Any) -> None:
    """Raises for late entries, which metrics with censoring weights cannot take."""
    if entry is not None:
        raise ValueError(
            f"{metric} takes no entry: under left truncation the rows do not give the censoring distribution from"
            " time 0; concordance_index and kaplan_meier take it"
        )
