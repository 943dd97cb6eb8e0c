"""Outcomes, strata, weights and survival curves as the metrics take them, checked: errors name argument and row."""

from __future__ import annotations

from typing import Any

import numpy as np

from survcore.arguments import common_index, to_numpy, vector


def outcome(time: Any, event: Any = None, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Times and events as contiguous vectors, float64 and bool.

    Args:
        time: [n], at least 0, finite; or scikit-survival's structured array of (event, time), with event None.
        event: [n], bool or 0 and 1.
        name: of the outcomes, before the arguments' names in errors, such as "train".

    Raises:
        ValueError: for different lengths, NaN, negative or infinite times, an event that is not 0 or 1, or time and
            event in exchanged places.
    """
    prefix = f"{name} " if name else ""
    if event is None:
        time, event = _structured(time, prefix)
    elif getattr(getattr(time, "dtype", None), "names", None):
        raise ValueError(f"{prefix}time is a structured array of times and events: expected event as None then")
    common_index(**{f"{prefix}time": time, f"{prefix}event": event})
    event = to_numpy(event)
    if to_numpy(time).dtype == bool:
        raise ValueError(
            f"{prefix}time is a vector of True and False: the order is time, event (event and time look exchanged)"
        )
    time = vector(time, f"{prefix}time")
    if event.shape != time.shape:
        raise ValueError(f"expected {prefix}event as a vector of {len(time)} values like time, got shape {event.shape}")
    if event.dtype != bool:
        event = _events(event, time, prefix)
    if len(time) and not (time.min() >= 0 and time.max() < np.inf):
        row = int((~((time >= 0) & (time < np.inf))).argmax())
        raise ValueError(f"expected a finite {prefix}time of at least 0, got {time[row]} at row {row}")
    return time, np.ascontiguousarray(event)


def risks(risk: Any, rows: int) -> np.ndarray:
    """Risks [rows], float64, without NaN."""
    risk = vector(risk, "risk", rows)
    if np.isnan(risk).any():
        raise ValueError(f"risk is NaN at row {int(np.isnan(risk).argmax())}")
    return risk


def entries(entry: Any, time: np.ndarray) -> np.ndarray:
    """Times of entry [n], float64: -inf or more, before the time."""
    entry = vector(entry, "entry", len(time))
    late = ~(entry < time)  # NaN too
    if late.any():
        row = int(late.argmax())
        raise ValueError(f"expected entry before time, got entry {entry[row]} and time {time[row]} at row {row}")
    return entry


def strata_codes(strata: Any, rows: int) -> np.ndarray:
    """Numbers 0, 1, .. of the strata, int32 [rows], from labels of any kind."""
    return numbered_strata(strata, rows)[0]


def numbered_strata(strata: Any, rows: int) -> tuple[np.ndarray, list[Any]]:
    """The number of each row's stratum, int32 [rows], and the labels in the order of the numbers."""
    import pandas as pd

    strata = to_numpy(strata)
    if strata.shape != (rows,):
        raise ValueError(f"expected strata as a vector of {rows} labels, got shape {strata.shape}")
    codes, labels = pd.factorize(strata)
    if (codes < 0).any():
        raise ValueError(f"expected a stratum for every row, got {strata[codes < 0][0]} at row {(codes < 0).argmax()}")
    return codes.astype(np.int32), labels.tolist()


def rising(times: Any, name: str) -> np.ndarray:
    """Times [T], float64, at least one, finite and rising."""
    times = vector(np.atleast_1d(to_numpy(times)), name)
    if not len(times):
        raise ValueError(f"expected at least one time in {name}, got none")
    wrong = ~np.isfinite(times)
    wrong[1:] |= ~(np.diff(times) > 0)
    if wrong.any():
        place = int(wrong.argmax())
        before = f" after {times[place - 1]}" if place else ""
        raise ValueError(f"expected {name} to rise and to be finite, got {times[place]}{before} at place {place}")
    return times


def case_weights(weights: Any, rows: int) -> np.ndarray:
    """Weights [rows], float64, finite and at least 0."""
    weights = vector(weights, "weights", rows)
    wrong = ~((weights >= 0) & (weights < np.inf))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"expected finite weights of at least 0, got {weights[row]} at row {row}")
    return weights


def survival_curves(survival: Any, times: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Survival [rows, T] in [0, 1] and its times [T], rising, both float64.

    Args:
        survival: [rows, T] with ``times``, or a DataFrame with times as index and patients as columns, in the order of
            the outcomes, with times None.
        times: [T], rising.
        rows: how many patients there are.
    """
    survival, times = unchecked_curves(survival, times, rows)
    survival = np.ascontiguousarray(survival, dtype=np.float64)
    wrong = ~((survival >= 0) & (survival <= 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise not_a_probability(survival[row, column], row, times[column])
    return survival, times


def unchecked_curves(survival: Any, times: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """As ``survival_curves``, for compiled steps that check the values as they read them, once.

    Returns:
        Survival [rows, T] of any values, float32 or float64, contiguous by rows or by columns; its times [T], float64.
    """
    if hasattr(survival, "columns"):
        survival, times = _of_frame(survival, times)
    elif times is None:
        raise ValueError("times are missing: give them, or a DataFrame with times as index and patients as columns")
    times = rising(times, "times")
    survival = to_numpy(survival)
    if survival.dtype not in (np.float32, np.float64):
        survival = survival.astype(np.float64)
    if survival.shape != (rows, len(times)):
        raise ValueError(f"expected survival [patients, times] = [{rows}, {len(times)}], got shape {survival.shape}")
    if not survival.flags.f_contiguous:
        survival = np.ascontiguousarray(survival)
    return survival, times


def _of_frame(frame: Any, times: Any) -> tuple[np.ndarray, Any]:
    """Curves [patients, times] and times of a DataFrame, whichever way its index and columns lie."""
    values = frame.to_numpy()
    if times is None:
        if values.size and (np.diff(values, axis=0) > 1e-6).any():
            raise ValueError(
                "the curves of survival rise: expected a DataFrame with times as index and patients as columns"
            )
        return values.T, frame.index
    times = rising(times, "times")
    by_index, by_columns = (
        len(labels) == len(times) and labels.inferred_type in ("integer", "floating") and np.array_equal(labels, times)
        for labels in (frame.index, frame.columns)
    )
    if by_index == by_columns:
        raise ValueError("survival is a DataFrame: expected times as its index, and no times beside it")
    return (values.T if by_index else values), times


def not_a_probability(value: float, row: int, time: float) -> ValueError:
    """The error of a survival outside [0, 1] or NaN."""
    rounding = "; clip what rounding has carried over" if -1e-5 < value < 1 + 1e-5 else ""
    return ValueError(f"expected survival between 0 and 1, got {value} at row {row}, time {time}{rounding}")


def _structured(outcomes: Any, prefix: str) -> tuple[Any, Any]:
    """Time and event of scikit-survival's structured array, whose fields have any name."""
    kinds = getattr(outcomes, "dtype", None)
    names = getattr(kinds, "names", None) or ()
    events = [name for name in names if kinds[name].kind == "b"]
    if len(names) != 2 or len(events) != 1:
        raise ValueError(
            f"{prefix}event is missing: give time and event, or a structured array of one bool and one number per row"
        )
    (time,) = [name for name in names if name not in events]
    return outcomes[time], outcomes[events[0]]


def _events(event: np.ndarray, time: np.ndarray, prefix: str) -> np.ndarray:
    """An event vector of another type as bool."""
    if event.dtype.kind not in "iuf":
        try:
            event = np.array([np.nan if isinstance(value, str) else float(value) for value in event])
        except (TypeError, ValueError):
            raise ValueError(
                f"expected {prefix}event to be bool, or 0 (censored) and 1 (event), got missing or other values"
            ) from None
    happened = event == 1
    other = ~(happened | (event == 0))
    if other.any():
        row = int(other.argmax())
        distinct = len(np.unique(event))
        if distinct > 2 and np.isin(time, (0, 1)).all():
            raise ValueError(
                f"{prefix}time holds only 0 and 1 and event {distinct} different values: the order is time, event"
                " (event and time look exchanged)"
            )
        raise ValueError(
            f"expected {prefix}event to be 0 (censored) or 1 (event), got {event[row]} at row {row};"
            " of several causes pass event == cause"
        )
    return happened
