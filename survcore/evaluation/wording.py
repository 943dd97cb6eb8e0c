"""What the reports of evaluations and of ablations say alike."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

INTERVALS = (
    "Intervals show the sampling of test patients, not that of seeds or of training again. An interval of a difference "
    "that covers 0 does not separate the two on this cohort, and one in twenty misses 0 by chance."
)
_PACKAGES = ("survcore", "torch", "numpy", "pandas", "lifelines")


def size(facts: dict[str, Any]) -> str:
    """Rows, patients where they are others, events and folds, from the facts of an evaluation; whether made up."""
    of_patients = f" of {facts['patients']} patients" if facts["patients"] != facts["rows"] else ""
    rows = f"{facts['rows']}{' simulated' if facts['simulated'] else ''} rows{of_patients}"
    return f"{rows}, {facts['events']} events of {facts['endpoint']}, {len(facts['folds'])} folds"


def versions() -> str:
    """Of Python and of the packages that results depend on."""
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
