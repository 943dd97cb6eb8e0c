"""Changes of a recipe written as text, ``model.rank=16``, as the command line takes them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any

_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_+./-]*")


def read_changes(entries: Iterable[str]) -> dict[str, Any]:
    """Nested changes for :func:`survcore.training.load_recipe`; of two entries for one key the later one holds.

    Args:
        entries: ``KEY=VALUE`` each, with a dotted key of the recipe and a TOML value; a bare word is a string.

    Raises:
        ValueError: an entry without "=", an empty part of a key, a value that is not TOML, or a key that is a value
            in one entry and a table in another; the message names the key.
    """
    changes: dict[str, Any] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        *tables, name = (part.strip() for part in key.split("."))
        if not equals or not all((*tables, name)):
            raise ValueError(f"a change is KEY=VALUE with a dotted key, e.g. model.rank=16; got {entry!r}")
        place = changes
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key.strip()!r} lies inside {table!r}, which another change sets to {place!r}")
        if isinstance(place.get(name), dict):
            raise ValueError(f"{key.strip()!r} is a table of which another change sets a value; got {text!r}")
        place[name] = _value(key.strip(), text.strip())
    return changes


def _value(key: str, text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if _BARE_WORD.fullmatch(text):
            return text
        raise ValueError(f"the value of {key!r} is not TOML: {text!r} (texts with spaces need quotes)") from error
    if set(table) != {"value"}:
        raise ValueError(f"the value of {key!r} must be one value, got {text!r}")
    return table["value"]
