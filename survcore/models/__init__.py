"""The published systems, by name."""

from __future__ import annotations

from importlib import import_module

from survcore.models.base import System

_SYSTEMS = {
    "must": ("survcore.models.must", "MUST"),
    "surv_m2ac": ("survcore.models.surv_m2ac", "SurvM2AC"),
}


def system_names() -> tuple[str, ...]:
    """Names of the systems that exist."""
    return tuple(_SYSTEMS)


def system_class(name: str) -> type[System]:
    """The class of a system.

    Raises:
        ValueError: no such system; the message lists those that exist.
    """
    if name not in _SYSTEMS:
        raise ValueError(f"unknown system {name!r}; expected one of {', '.join(_SYSTEMS)}")
    module, attribute = _SYSTEMS[name]
    return getattr(import_module(module), attribute)
