"""Harrell's concordance index."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from survcore import _metrics
from survcore.metrics.inputs import case_weights, entries, outcome, risks, strata_codes


@dataclass(frozen=True)
class ConcordancePairs:
    """A concordance index and the pairs behind it, counted as R's ``survival::concordance`` does.

    A pair is comparable when one patient has an event and the other is observed longer, or censored at that same time.
    The counts are int; float where pairs have weights.

    Attributes:
        value: the index; NaN when no pair is comparable.
        concordant: comparable pairs in which the patient who failed first has the higher risk.
        discordant: comparable pairs in which that patient has the lower risk.
        tied_risk: comparable pairs of equal risk (R: tied.x).
        tied_time: pairs of events at the same time with different risks (R: tied.y).
        tied_both: pairs of events at the same time with equal risks (R: tied.xy).
    """

    value: float
    concordant: float
    discordant: float
    tied_risk: float
    tied_time: float
    tied_both: float

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Concordance(ConcordancePairs):
    """(concordant + tied_risk / 2) / (concordant + discordant + tied_risk), with its pairs and its standard error.

    Pairs of events at the same time do not enter the value. The standard error is computed when it is first asked for;
    until then the rows are kept, in a form of their own.
    """

    rows: InitVar[_metrics.LineUp]

    def __post_init__(self, rows: _metrics.LineUp) -> None:
        self.__dict__["_rows"] = rows

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the value, R's sqrt(var); NaN when no pair is comparable.

        The infinitesimal jackknife: the root of the sum over patients of the squared change of the value per unit of
        the patient's weight, times that weight. Patients are taken as independent, weights of events as known.
        """
        return self.__dict__.pop("_rows").standard_error()

    def __getstate__(self) -> dict[str, float]:
        """What is copied and pickled: numbers only."""
        _ = self.standard_error
        return self.__dict__


def concordance_index(
    time: Any, event: Any, risk: Any, *, entry: Any = None, strata: Any = None, weights: Any = None
) -> Concordance:
    """Harrell's concordance index, in O(n log n) and, without weights, with exact counts.

    Risks tie when they are exactly equal.

    Args:
        time: follow-up times [n], non-negative and finite, any unit; or scikit-survival's structured array of (event,
            time), with ``event`` None.
        event: [n], True or 1 = event, False or 0 = censored.
        risk: [n], higher = earlier failure expected (a log-hazard, or minus a predicted survival time); infinity is
            allowed.
        entry: times [n] at which patients came under observation (left truncation), before their ``time``; -inf is
            allowed. A pair is comparable only if the patient who outlives the other had entered before the event.
        strata: labels [n]; only pairs within a stratum are compared, and the counts are summed over strata.
        weights: [n], finite and at least 0; a pair weighs the product of its patients' weights.

    Returns:
        The index, its pair counts and its standard error; ``float(...)`` gives the index, which is NaN when no pair is
        comparable.

    Raises:
        ValueError: for different lengths, NaN, negative or infinite times, an event that is not 0 or 1, time and event
            in exchanged places, an entry that is not before the time, or a negative weight.

    Source: Harrell et al., Evaluating the yield of medical tests, JAMA 1982; ties, weights, strata, late entry and
    variance as in R's survival package (Therneau and Watson, The concordance statistic and the Cox model, 2015).
    """
    time, event = outcome(time, event)
    rows = len(time)
    return count_pairs(
        time,
        event,
        risks(risk, rows),
        entry=None if entry is None else entries(entry, time),
        strata=None if strata is None else strata_codes(strata, rows),
        weights=None if weights is None else case_weights(weights, rows),
    )


def count_pairs(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    *,
    entry: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    event_weights: np.ndarray | None = None,
) -> Concordance:
    """``concordance_index`` of checked columns [n]: strata as codes from 0.

    A pair weighs, beyond its patients' weights, the event weight of the patient who fails first.
    """
    rows = _metrics.LineUp(
        time,
        event,
        risk,
        _ascending(time),
        _ascending(risk),
        stratum=strata,
        strata=1 if strata is None else int(strata.max(initial=-1)) + 1,
        entry=entry,
        entry_order=None if entry is None else _ascending(entry),
        weight=weights,
        event_weight=event_weights,
    )
    concordant, discordant, tied_risk, tied_time, tied_both = rows.counts()
    comparable = concordant + discordant + tied_risk
    value = (concordant + tied_risk / 2) / comparable if comparable else float("nan")
    return Concordance(value, concordant, discordant, tied_risk, tied_time, tied_both, rows)


def _ascending(values: np.ndarray) -> np.ndarray:
    """Sorted words of the rows in increasing order of value (see csrc/metrics/order.h)."""
    words = _metrics.pack_order(values, values.min(initial=np.inf), values.max(initial=-np.inf))
    words.sort()
    return words
