"""Wording shared by the data errors."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from functools import lru_cache

# A longer one is no slip of the pen, and would take long to compare.
_LONGEST_NAME = 100


def listed(values: Iterable[object], limit: int = 5) -> str:
    """The first few values quoted, and how many more there are: ``'a', 'b' and 12 more``."""
    values = list(values)
    text = ", ".join(repr(str(value)) for value in values[:limit])
    return text if len(values) <= limit else f"{text} and {len(values) - limit} more"


def nearest(name: object, names: Collection[str]) -> str:
    """A name that is not among ``names``, with up to three that read alike: ``'TP35' (nearest: 'TP53')``.

    Names that differ in case alone read alike; where none does the name stands alone.
    """
    name = str(name)
    found = _close(name[:_LONGEST_NAME], tuple(names))
    return f"{name!r} (nearest: {', '.join(map(repr, found))})" if found else repr(name)


def nearest_listed(unknown: Iterable[object], names: Collection[str], limit: int = 5) -> str:
    """The first few unknown names with those that read alike, and how many more there are."""
    unknown, names = list(unknown), tuple(names)
    text = ", ".join(nearest(name, names) for name in unknown[:limit])
    return text if len(unknown) <= limit else f"{text} and {len(unknown) - limit} more"


# One wrong header tends to come with every patient, and thousands of columns take tens of milliseconds to compare.
@lru_cache(maxsize=256)
def _close(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    folded = {known.casefold(): known for known in reversed(names)}
    return tuple(folded[found] for found in difflib.get_close_matches(name.casefold(), folded, n=3))


def counted(count: int, noun: str) -> str:
    """``1 row``, ``3 rows``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
