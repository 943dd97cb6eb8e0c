"""From log-hazards to absolute risk: the baseline hazard of the proportional hazards model and survival curves.

Log-hazards tell who is at higher risk, the baseline hazard how high it is. Inputs are NumPy arrays, pandas Series,
lists or torch tensors; curves are DataFrames with times as index and patients as columns, as lifelines' are.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from survcore.arguments import common_index, to_numpy, vector

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

BANDS = ("log", "log-log", "plain")


@dataclass(frozen=True)
class _Curve:
    """Cumulative hazard of one stratum at log-hazard 0: before the first time nothing, after ``end`` unknown."""

    times: np.ndarray
    log_step: np.ndarray
    log_cumulative_hazard: np.ndarray
    log_variance: np.ndarray
    end: float

    def at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of cumulative hazard and variance at any times."""
        step = np.searchsorted(self.times, times, side="right")
        unknown = np.where(times > self.end, np.nan, 0.0)
        log_hazard = np.concatenate(([-np.inf], self.log_cumulative_hazard))[step]
        return log_hazard + unknown, np.concatenate(([-np.inf], self.log_variance))[step] + unknown


class BaselineHazard:
    """Cumulative hazard of a patient whose log-hazard is 0, and the curves of others; made by :func:`baseline_hazard`.

    Attributes:
        strata: labels of the strata in rising order, or None without strata.
    """

    def __init__(self, curves: list[_Curve], strata: np.ndarray | None) -> None:
        self._curves = curves
        self.strata = strata

    def __repr__(self) -> str:
        steps = sum(len(curve.times) for curve in self._curves)
        strata = "" if self.strata is None else f", {len(self.strata)} strata"
        return f"BaselineHazard({steps} event times{strata}, known up to {self.end:g})"

    @property
    def end(self) -> float:
        """Longest follow-up of all strata, in the unit of the times."""
        return max((curve.end for curve in self._curves), default=0.0)

    @property
    def event_times(self) -> np.ndarray:
        """Times at which a curve of any stratum falls, rising."""
        return np.unique(self._joined("times"))

    def to_frame(self) -> pd.DataFrame:
        """One row per event time and stratum: time, hazard (the step), cumulative_hazard, survival, with strata
        stratum; all at log-hazard 0.

        A baseline beyond what float64 holds shows as 0 or infinite here; curves of patients are not affected.
        """
        import pandas as pd

        with np.errstate(over="ignore"):
            columns = {
                "time": self._joined("times"),
                "hazard": np.exp(self._joined("log_step")),
                "cumulative_hazard": np.exp(self._joined("log_cumulative_hazard")),
            }
        columns["survival"] = np.exp(-columns["cumulative_hazard"])
        if self.strata is not None:
            steps = [len(curve.times) for curve in self._curves]
            columns = {"stratum": np.repeat(self.strata, steps), **columns}
        return pd.DataFrame(columns)

    def cumulative_hazard(self, log_hazard: Any, times: Any = None, *, strata: Any = None) -> pd.DataFrame:
        """H(t) = H0(t) e^log_hazard, [times, patients]; arguments as in :meth:`survival_function`."""
        curves = self._evaluated(log_hazard, times, strata)
        return curves.frame(curves.cumulative_hazard)

    def survival_function(self, log_hazard: Any, times: Any = None, *, strata: Any = None) -> pd.DataFrame:
        """S(t) = exp(-H0(t) e^log_hazard), right-continuous.

        Args:
            log_hazard: [n], [n, 1] or one number; the index of a Series becomes the columns.
            times: at least 0, in the unit of the fit; None means the event times.
            strata: the stratum of each patient [n]; required if and only if the baseline has strata.

        Returns:
            [times, patients]; NaN beyond the longest follow-up of the patient's stratum, where nothing is known.

        Raises:
            ValueError: a log-hazard that is NaN or +inf, a time that is negative or NaN, a stratum that the baseline
                does not have, strata missing or given in vain. The message names the patient.
        """
        curves = self._evaluated(log_hazard, times, strata)
        return curves.frame(curves.survival)

    def survival_band(
        self, log_hazard: Any, times: Any = None, *, strata: Any = None, level: float = 0.95, band: str = "log"
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Pointwise lower and upper limits of :meth:`survival_function`.

        They are conditional on the log-hazards: the uncertainty of the baseline hazard is in them (Tsiatis 1981; as R's
        ``survfit`` without the part of the coefficients), that of the model which gave the log-hazards is not.

        Args:
            log_hazard, times, strata: as in :meth:`survival_function`.
            level: probability that a limit's interval has, between 0 and 1.
            band: the scale on which the interval is symmetric: "log" (R's default: the cumulative hazard), "log-log" or
                "plain" (survival itself, cut off at 0 and 1).

        Raises:
            ValueError: a level or band that does not exist, and as :meth:`survival_function`.
        """
        if not isinstance(level, Real) or not 0 < level < 1 or (1 + level) / 2 == 1:
            raise ValueError(f"level must be between 0 and 1, got {level!r}")
        if band not in BANDS:
            raise ValueError(f"band must be one of {', '.join(map(repr, BANDS))}, got {band!r}")
        curves = self._evaluated(log_hazard, times, strata)
        quantile = NormalDist().inv_cdf((1 + level) / 2)
        return curves.frame(curves.limit(band, quantile)), curves.frame(curves.limit(band, -quantile))

    def _joined(self, name: str) -> np.ndarray:
        """An attribute of all curves, one after the other."""
        return np.concatenate([np.empty(0), *(getattr(curve, name) for curve in self._curves)])

    def _evaluated(self, log_hazard: Any, times: Any, strata: Any) -> _Curves:
        index = common_index(log_hazard=log_hazard, strata=strata)
        log_hazard = _log_hazards(log_hazard)
        index = range(len(log_hazard)) if index is None else index
        _check_log_hazards(log_hazard, index)
        times = self.event_times if times is None else vector(np.atleast_1d(to_numpy(times)), "times")
        if not (times >= 0).all():
            raise ValueError(f"times must be at least 0, got {times[~(times >= 0)].tolist()}")
        numbers, column = np.unique(self._strata_of(strata, len(log_hazard), index), return_inverse=True)
        hazards, variances = np.empty((2, len(times), len(numbers)))
        for place, number in enumerate(numbers):
            hazards[:, place], variances[:, place] = self._curves[number].at(times)
        return _Curves(times, index, hazards[:, column] + log_hazard, variances[:, column] + 2 * log_hazard)

    def _strata_of(self, strata: Any, rows: int, index: Any) -> np.ndarray:
        """Number of each patient's curve."""
        if self.strata is None:
            if strata is not None:
                raise ValueError("the baseline hazard has no strata, got some")
            return np.zeros(rows, dtype=np.int64)
        if strata is None:
            raise ValueError("strata are missing: the baseline hazard has one curve for each")
        strata = np.atleast_1d(to_numpy(strata))
        if strata.shape != (rows,):
            raise ValueError(f"strata must have one entry per patient, [{rows}], got shape {strata.shape}")
        number = np.searchsorted(self.strata, strata)
        wrong = self.strata.take(number, mode="clip") != strata if len(self.strata) else np.ones(rows, dtype=bool)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"patient {index[row]} is of stratum {strata[row]}, which the baseline hazard does not have"
            )
        return number


def baseline_hazard(
    log_hazard: Any,
    time: Any,
    event: Any,
    *,
    entry: Any = None,
    strata: Any = None,
    weights: Any = None,
    ties: str = "efron",
) -> BaselineHazard:
    """Breslow's estimate of the baseline hazard, with the ties that the model was trained with.

    The baseline is that of log-hazard 0, not of an average patient: give the log-hazards as the model makes them, those
    of the training patients here and of whomever later. Left truncation, strata and weights are those of
    :func:`survcore.cox_ph_loss`.

    Args:
        log_hazard: [n], of the patients that the baseline is estimated from; finite, or -inf for a hazard of 0.
        time: [n], at least 0, in any unit; the curves are in that unit.
        event: [n], bool or 0 (censored) and 1 (event).
        entry: [n], left truncation.
        strata: labels [n], numbers or text; each stratum has its own baseline.
        weights: case weights [n], at least 0.
        ties: "efron" (R's ``survfit`` of a fit with Efron's ties) or "breslow" (lifelines, scikit-survival).

    Raises:
        ValueError: as :func:`survcore.cox_ph_loss`, for log-hazards that are NaN or +inf, and for Series of which two
            have different indexes; row and argument named.
        TypeError: an argument holds no numbers.

    Source: Breslow, discussion of Cox, JRSS B 1972; Efron's increments as Therneau and Grambsch 2000, section 10.2.
    """
    import torch

    from survcore.ops import cox_baseline_hazard

    columns = {"time": time, "event": event, "entry": entry, "weights": weights}
    common_index(log_hazard=log_hazard, strata=strata, **columns)
    tensors = {name: None if value is None else _tensor(name, value) for name, value in columns.items()}
    log_hazard = _log_hazards(log_hazard)
    _check_log_hazards(log_hazard, range(len(log_hazard)))
    names, number = np.zeros(1), np.zeros(len(tensors["time"]), dtype=np.int64)
    if strata is not None:
        names, number = np.unique(to_numpy(strata), return_inverse=True)
        tensors["strata"] = torch.from_numpy(number)
    steps = cox_baseline_hazard(torch.from_numpy(log_hazard), **tensors, ties=ties)

    time = tensors["time"].double().numpy()
    row, *logarithms = (value.numpy() for value in steps)
    ends = np.zeros(len(names))
    np.maximum.at(ends, number, time)
    begins = np.searchsorted(number[row], np.arange(len(names) + 1))  # of the steps, which come by stratum
    curves = []
    for name, end in enumerate(ends):
        own = slice(begins[name], begins[name + 1])
        curves.append(_Curve(time[row[own]], *(values[own] for values in logarithms), float(end)))
    return BaselineHazard(curves, None if strata is None else names)


@dataclass(frozen=True)
class _Curves:
    """Curves of patients: logarithms of their cumulative hazards and variances, [times, patients]."""

    times: np.ndarray
    patients: Any
    log_cumulative_hazard: np.ndarray
    log_variance: np.ndarray

    @property
    def cumulative_hazard(self) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.exp(self.log_cumulative_hazard)

    @property
    def survival(self) -> np.ndarray:
        return np.exp(-self.cumulative_hazard)

    def limit(self, band: str, quantile: float) -> np.ndarray:
        """Survival at the cumulative hazard that lies ``quantile`` standard errors higher, on the scale of the band."""
        hazard = self.cumulative_hazard
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.exp(self.log_variance / 2)
            if band == "plain":
                limit = np.clip(np.where(self.survival == 0, 0.0, self.survival * (1 - quantile * error)), 0.0, 1.0)
            elif band == "log":
                limit = np.exp(-np.maximum(hazard + quantile * error, 0.0))
            else:  # the error of log H is that of H divided by H
                relative = np.exp(self.log_variance / 2 - self.log_cumulative_hazard)
                limit = np.exp(-hazard * np.exp(quantile * relative))
        # Before the first event, and for a hazard of 0, survival is 1 and certain; where it has reached 0 it stays.
        limit = np.where(hazard == 0, 1.0, limit)
        return np.where(np.isinf(hazard), 0.0, limit)

    def frame(self, values: np.ndarray) -> pd.DataFrame:
        """Values [times, patients] as a table."""
        import pandas as pd

        return pd.DataFrame(values, index=pd.Index(self.times, name="time"), columns=self.patients)


def _tensor(name: str, values: Any) -> Tensor:
    """A tensor of numbers, of their own type where it has one."""
    import torch

    values = to_numpy(values)
    if values.dtype == object:  # of a column with missing entries, for example
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must hold numbers: {error}") from None
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got {values.dtype}")
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _log_hazards(values: Any) -> np.ndarray:
    """[n] from [n], [n, 1] or a number."""
    values = np.atleast_1d(to_numpy(values))
    return vector(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values, "log_hazard")


def _check_log_hazards(log_hazard: np.ndarray, index: Any) -> None:
    known = log_hazard < np.inf
    if not known.all():
        row = int((~known).argmax())
        raise ValueError(f"log_hazard must be finite or -inf, got {log_hazard[row]} for patient {index[row]}")
