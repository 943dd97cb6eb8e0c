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
    return np.asarray(values)


def vector(values: Any, name: str, length: int | None = None) -> np.ndarray:
    """A contiguous float64 vector [length]."""
    values = np.ascontiguousarray(to_numpy(values), dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected {name} as a vector, got shape {values.shape}")
    if length is not None and len(values) != length:
        raise ValueError(f"expected {length} values of {name}, one per time, got {len(values)}")
    return values
