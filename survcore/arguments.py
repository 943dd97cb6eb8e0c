"""Checks of single arguments that many functions take."""

from __future__ import annotations

from numbers import Integral


def whole_number(name: str, value: object, least: int | None = None) -> int:
    """The value of an argument as an int; ValueError naming it where it is no whole number, or below ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or (least is not None and value < least):
        limit = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{limit}, got {value!r}")
    return int(value)
