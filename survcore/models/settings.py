"""Settings of a system: a dataclass of defaults, filled from a recipe's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

SettingsType = TypeVar("SettingsType")


def read_settings(kind: type[SettingsType], given: Mapping[str, Any], system: str) -> SettingsType:
    """An instance of the dataclass ``kind`` with the given values in place of its defaults.

    Raises:
        ValueError: a name the system does not have, or a value of another type than its default; the message names it.
    """
    defaults = {entry.name: entry.default for entry in fields(kind)}
    for name, value in given.items():
        if name not in defaults:
            raise ValueError(f"{system} has no setting {name!r}; it has: {', '.join(sorted(defaults))}")
        expected = type(defaults[name])
        accepted = (int, float) if expected is float else (expected,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
            raise ValueError(f"setting {name!r} of {system} must be of type {expected.__name__}, got {value!r}")
    return kind(**given)
