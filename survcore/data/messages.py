"""Wording shared by the data errors."""

from __future__ import annotations

from collections.abc import Iterable


def listed(values: Iterable[object], limit: int = 5) -> str:
    """The first few values quoted, and how many more there are: ``'a', 'b' and 12 more``."""
    values = list(values)
    text = ", ".join(repr(str(value)) for value in values[:limit])
    return text if len(values) <= limit else f"{text} and {len(values) - limit} more"


def counted(count: int, noun: str) -> str:
    """``1 row``, ``3 rows``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
