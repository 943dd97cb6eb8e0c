"""Outcomes, strata, weights and survival curves as the metrics take them, checked: errors name argument and row."""

from __future__ import annotations

from typing import Any

import numpy as np

from survcore.arguments import to_numpy, vector


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
    strata = to_numpy(strata)
    if strata.shape != (rows,):
        raise ValueError(f"expected strata as a vector of {rows} labels, got shape {strata.shape}")
    return np.unique(strata, return_inverse=True)[1].astype(np.int32)


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
    if times is None:
        if not hasattr(survival, "columns"):
            raise ValueError("times are missing: give them, or a DataFrame with times as index and patients as columns")
        times, survival = survival.index, survival.to_numpy().T
    times = vector(times, "times")
    survival = to_numpy(survival)
    if survival.dtype not in (np.float32, np.float64):
        survival = survival.astype(np.float64)
    if survival.shape != (rows, len(times)):
        raise ValueError(f"expected survival [patients, times] = [{rows}, {len(times)}], got shape {survival.shape}")
    if not len(times) or not (np.diff(times) > 0).all() or not np.isfinite(times).all():
        raise ValueError(f"expected times to rise, at least one and all finite, got {times.tolist()}")
    if not survival.flags.f_contiguous:
        survival = np.ascontiguousarray(survival)
    return survival, times


def not_a_probability(value: float, row: int, time: float) -> ValueError:
    """The error of a survival outside [0, 1] or NaN."""
    return ValueError(f"expected survival between 0 and 1, got {value} at row {row}, time {time}")


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
    """A numeric event vector as bool."""
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
