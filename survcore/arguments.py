"""Checks of single arguments that many functions take."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np


def whole_number(name: str, value: object, least: int | None = None) -> int:
    """The value of an argument as an int; ValueError naming it where it is no whole number, or below ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or (least is not None and value < least):
        limit = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{limit}, got {value!r}")
    return int(value)


def to_numpy(values: Any) -> np.ndarray:
    """An array, also from a tensor that needs a gradient or lives on another device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.double()  # NumPy has no bfloat16
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError("expected an array without masked entries: leave these rows out, or fill them")
    return np.asarray(values)


def vector(values: Any, name: str, length: int | None = None) -> np.ndarray:
    """A contiguous float64 vector [length]; ValueError for other shapes, and for what float64 does not hold."""
    values = to_numpy(values)
    if values.dtype.kind in "mMcSU":
        raise ValueError(f"expected {name} as numbers, got {values.dtype}")
    if values.dtype.kind in "iu" and values.size and max(int(values.max()), -int(values.min())) > 2**53:
        raise ValueError(
            f"expected {name} within 2^53, beyond which float64 merges integers: count from a later origin"
        )
    try:
        values = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected {name} as numbers: {error}") from None
    if values.ndim != 1:
        raise ValueError(f"expected {name} as a vector, got shape {values.shape}")
    if length is not None and len(values) != length:
        raise ValueError(f"expected {length} values of {name}, one per time, got {len(values)}")
    return values


def common_index(**arguments: Any) -> Any:
    """The index of those arguments that are pandas Series, None if none is; ValueError if two indexes differ.

    Rows are taken as they come: Series in different orders would mix up patients.
    """
    named = {name: value.index for name, value in arguments.items() if hasattr(value, "iloc") and value.ndim == 1}
    if not named:
        return None
    (first, index), *others = named.items()
    for name, other in others:
        if not index.equals(other):
            raise ValueError(f"{name} and {first} have different indexes: bring them into one order of patients first")
    return index
