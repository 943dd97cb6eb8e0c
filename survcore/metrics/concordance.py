"""Harrell's concordance index."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np

from survcore import _metrics
from survcore.arguments import common_index
from survcore.metrics.inputs import case_weights, entries, outcome, risks, strata_codes
from survcore.metrics.weight_scale import scaled_weights

# Weights near 2^400: products of two, summed over pairs of 2^32 rows, stay in range, and so do those of weights that
# are 1e-270 of the largest. Sums of pairs below the least weight have lost digits.
_MAGNITUDE_OF_WEIGHTS = 400
_LEAST_WEIGHT_OF_PAIRS = 2.0**-1000


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

    @property
    def standard_error(self) -> float:
        """Standard error of the value, R's sqrt(var); NaN when no pair is comparable.

        The infinitesimal jackknife: the root of the sum over patients of the squared change of the value per unit of
        the patient's weight, times that weight. Patients are taken as independent, weights of events as known.
        """
        kept = self.__dict__
        rows = kept.get("_rows")
        if rows is not None:
            # Stored before the rows go: whoever finds no rows, in any thread, finds the number.
            kept["_standard_error"] = rows.standard_error()
            kept.pop("_rows", None)
        return kept["_standard_error"]

    def __getstate__(self) -> dict[str, float]:
        """What is copied and pickled: numbers only."""
        _ = self.standard_error
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}


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
        weights: [n], finite and at least 0; a pair weighs the product of its patients' weights. Their unit does not
            matter to the value and its error; counts that exceed the range of float64 are infinite, or 0.

    Returns:
        The index, its pair counts and its standard error; ``float(...)`` gives the index, which is NaN when no pair is
        comparable.

    Raises:
        ValueError: for different lengths, Series of different indexes, NaN, negative or infinite times, an event that
            is not 0 or 1, time and event in exchanged places, an entry that is not before the time, a negative weight,
            or weights that differ so much (by 1e270) that those of all comparable pairs vanish beside the largest.

    Source: Harrell et al., Evaluating the yield of medical tests, JAMA 1982; ties, weights, strata, late entry and
    variance as in R's survival package (Therneau and Watson, The concordance statistic and the Cox model, 2015).
    """
    common_index(time=time, event=event, risk=risk, entry=entry, strata=strata, weights=weights)
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
    columns = {
        "stratum": strata,
        "strata": 1 if strata is None else int(strata.max(initial=-1)) + 1,
        "entry": entry,
        "entry_order": None if entry is None else _ascending(entry),
        "event_weight": event_weights,
    }
    exponent = 0
    if weights is not None:
        columns["weight"], exponent = scaled_weights(weights, _MAGNITUDE_OF_WEIGHTS)
    rows = _metrics.LineUp(time, event, risk, _ascending(time), _ascending(risk), **columns)
    counts = rows.counts()
    concordant, discordant, tied_risk, _, _ = counts
    comparable = concordant + discordant + tied_risk
    value = (concordant + tied_risk / 2) / comparable if comparable else float("nan")
    if weights is not None:
        if comparable < _LEAST_WEIGHT_OF_PAIRS:
            _refuse_vanished_pairs(time, event, risk, entry, strata, weights > 0)
        with np.errstate(over="ignore", under="ignore"):
            counts = np.ldexp(counts, 2 * exponent).tolist()
    return Concordance(value, *counts, rows)


def _refuse_vanished_pairs(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    entry: np.ndarray | None,
    strata: np.ndarray | None,
    present: np.ndarray,
) -> None:
    """Raises where the rows with weight have comparable pairs."""
    entry, strata = (None if column is None else column[present] for column in (entry, strata))
    pairs = count_pairs(time[present], event[present], risk[present], entry=entry, strata=strata)
    if not np.isnan(pairs.value):
        raise ValueError(
            "expected weights of comparable size: those of all comparable pairs vanish beside the largest weight;"
            " leave out the rows of very large weight, which are in no comparable pair"
        )


def _ascending(values: np.ndarray) -> np.ndarray:
    """Sorted words of the rows in increasing order of value (see csrc/metrics/order.h)."""
    words = _metrics.pack_order(values, values.min(initial=np.inf), values.max(initial=-np.inf))
    words.sort()
    return words
