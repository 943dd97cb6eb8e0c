"""Harrell's concordance index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore import _metrics
from survcore.arguments import vector
from survcore.metrics.inputs import outcome


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
    time, event = outcome(time, event)
    risk = vector(risk, "risk", len(time))
    concordant, discordant, tied_risk, tied_time, tied_both = _metrics.concordance_counts(
        time, event, risk, _ascending(time, "time"), _ascending(risk, "risk")
    )
    comparable = concordant + discordant + tied_risk
    value = (concordant + tied_risk / 2) / comparable if comparable else float("nan")
    return Concordance(value, concordant, discordant, tied_risk, tied_time, tied_both)


def _ascending(values: np.ndarray, name: str) -> np.ndarray:
    """Sorted words of the rows in increasing order of value (see csrc/metrics/order.h)."""
    smallest, largest = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if np.isnan(smallest):
        raise ValueError(f"{name} is NaN at row {int(np.isnan(values).argmax())}")
    words = _metrics.pack_order(values, smallest, largest)
    words.sort()
    return words
