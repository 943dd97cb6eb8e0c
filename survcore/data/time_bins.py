"""Time bins of discrete-time survival models: which of K bins a follow-up time falls into."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore.errors import DataError

RULES = ("quantile", "equidistant")


@dataclass(frozen=True)
class TimeBins:
    """K bins of follow-up time in months.

    Attributes:
        edges: float64 [K+1], ascending from 0. Bin k runs from ``edges[k]`` to ``edges[k + 1]``; the last edge may be
            infinite. S(k), the survival through bin k, belongs to the time ``edges[k + 1]``.
        rule: "quantile" puts every time into the bin [edges[k], edges[k + 1]) that contains it, censored or not (MCAT).
            "equidistant" is pycox's rule: an event counts at the next cut, a censoring at the last cut it reached.
    """

    edges: np.ndarray
    rule: str

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, dtype=np.float64)
        object.__setattr__(self, "edges", edges)
        if self.rule not in RULES:
            raise ValueError(f"rule of time bins: expected one of {', '.join(RULES)}, got {self.rule!r}")
        if edges.ndim != 1 or len(edges) < 2 or edges[0] != 0 or np.isnan(edges).any():
            raise ValueError(f"time bins need at least two edges, the first of them 0; got {edges.tolist()}")
        # pycox's first cut is time 0 itself, so the first equidistant bin has no width.
        if (np.diff(edges) < 0).any() or (np.diff(edges[1:] if self.rule == "equidistant" else edges) == 0).any():
            raise ValueError(f"edges of time bins must ascend; got {edges.tolist()}")

    def __len__(self) -> int:
        return len(self.edges) - 1

    @classmethod
    def uncensored_quantiles(cls, time: np.ndarray, event: np.ndarray, count: int = 4) -> TimeBins:
        """Bins that hold equally many of the given events; the first starts at 0, the last is open.

        Only uncensored times set the edges, as in MCAT. Give the training part alone: edges taken from a whole cohort
        leak the test patients' times.

        Args:
            time: float [n], months.
            event: int [n], 0 = censored, any other code is an event.
            count: bins asked for. Tied times can make edges coincide; these are merged, with a warning, into fewer
                bins.

        Raises:
            DataError: no events, or all events at one time while more than one bin is asked for.
        """
        time, event = _checked(time, event)
        _check_count(count)
        uncensored = time[event > 0]
        if uncensored.size == 0:
            raise DataError(
                f"time bins are quantiles of uncensored times, and none of the {time.size} rows has an event"
            )
        quantiles = np.quantile(uncensored, np.linspace(0, 1, count + 1)[1:-1])
        # A first quantile of 0, or two equal ones, would be a bin without width.
        inner = np.unique(quantiles[quantiles > 0])
        if count > 1 and (inner.size == 0 or np.unique(uncensored).size == 1):
            raise DataError(
                f"{count} time bins need events at different times; the {uncensored.size} events all fall into one bin"
                f" (times {uncensored.min():g} to {uncensored.max():g} months)"
            )
        if inner.size < count - 1:
            warnings.warn(
                f"tied event times leave {inner.size + 1} time bins of the {count} asked for "
                f"(inner edges {[round(float(edge), 4) for edge in inner]} months)",
                stacklevel=2,
            )
        return cls(np.concatenate(([0.0], inner, [np.inf])), "quantile")

    @classmethod
    def equidistant(cls, maximum: float, count: int) -> TimeBins:
        """Equally spaced cuts from 0 to ``maximum`` months with pycox's right/left cut rule (LabTransDiscreteTime).

        Bin k stands for cut k of ``count``. An event belongs to the first cut at or after its time, a censoring to the
        last cut at or before it, so that nobody counts as surviving an interval that was not observed to its end. The
        first bin, the cut at time 0, has no width: it holds censorings before the second cut and events at time 0.
        """
        _check_count(count, least=2)
        if not (np.isfinite(maximum) and maximum > 0):
            raise DataError(f"equidistant time bins need a positive longest follow-up; got {maximum}")
        cuts = np.linspace(0.0, float(maximum), count)
        return cls(np.concatenate(([0.0], cuts)), "equidistant")

    def index(self, time: np.ndarray, event: np.ndarray) -> np.ndarray:
        """Bin of each row: int64 [n] in 0..K-1 from ``time`` [n] in months and ``event`` [n] (0 = censored).

        Times beyond the last edge (held-out rows followed longer than the training part) fall into the last bin.
        """
        time, event = _checked(time, event)
        if self.rule == "quantile":
            return np.searchsorted(self.edges[1:-1], time, side="right").astype(np.int64)
        cuts = self.edges[1:]
        following = np.searchsorted(cuts, time, side="left")
        reached = np.searchsorted(cuts, time, side="right") - 1
        return np.minimum(np.where(event > 0, following, reached), len(self) - 1).astype(np.int64)

    def state(self) -> dict[str, Any]:
        """A JSON-able description, exact to the last bit (an open last edge is null); :meth:`from_state` reads it."""
        edges = [float(edge) if np.isfinite(edge) else None for edge in self.edges]
        return {"edges": edges, "rule": self.rule}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TimeBins:
        edges = np.array([np.inf if edge is None else edge for edge in state["edges"]], dtype=np.float64)
        return cls(edges, state["rule"])


def _checked(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    time, event = np.asarray(time, dtype=np.float64), np.asarray(event)
    if time.ndim != 1 or time.shape != event.shape:
        raise DataError(f"time and event must be two vectors of one length; got shapes {time.shape} and {event.shape}")
    bad = ~(np.isfinite(time) & (time >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"times must be finite and not negative; {int(bad.sum())} are not, the first is {time[row]} at row {row}"
        )
    return time, event


def _check_count(count: int, least: int = 1) -> None:
    if count < least:
        raise ValueError(f"expected at least {least} time bins, got {count}")
