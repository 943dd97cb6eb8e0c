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


def compared(facts: dict[str, Any]) -> list[str]:
    """Which pairs of rows a C-index compares, as a paragraph; none where all pairs may be compared and weigh the same.

    The facts are those of :func:`survcore.evaluation.outcomes.outcome_facts`.
    """
    sentences = []
    if facts["delayed_entry"]:
        sentences.append(
            "Rows are under observation from their entry times on (left truncation): two are compared only where the "
            "one that outlives the other had entered before the event."
        )
    if facts["strata"]:
        sentences.append(
            f"Rows are compared within each of the {facts['strata']} strata only, so risks that tell strata apart gain "
            "nothing."
        )
    if facts["weighted"]:
        sentences.append("A pair of rows counts as much as the product of their case weights.")
    return [" ".join(sentences), ""] if sentences else []


def versions() -> str:
    """Of Python and of the packages that results depend on."""
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
