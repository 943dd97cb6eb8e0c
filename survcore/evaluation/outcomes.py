"""What is known of test rows beside their risks, as columns, and the C-index that takes all of it into account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from survcore.data.cohort import Cohort
from survcore.metrics import Concordance, concordance_index

COLUMNS = ("time", "event", "entry", "stratum", "weight")


def outcome_columns(rows: Cohort, endpoint: str) -> dict[str, np.ndarray]:
    """Those of :data:`COLUMNS` that a cohort has, [n] each.

    time and entry (left truncation) in months, event bool (any cause), stratum str, weight (case weights) float64.
    """
    outcome = rows.endpoint(endpoint)
    columns = (outcome.time, outcome.event > 0, outcome.entry, rows.strata, rows.weights)
    return {name: column for name, column in zip(COLUMNS, columns, strict=True) if column is not None}


def concordance(columns: Mapping[str, Any], risk: Any) -> Concordance:
    """Harrell's C-index of risks [n]; ``columns`` is a mapping or a DataFrame with time, event and any of the others.

    A pair counts only where the row that outlives the other had entered before the event, both are of one stratum, and
    as much as the product of their weights.
    """
    return concordance_index(
        columns["time"],
        columns["event"],
        risk,
        entry=columns.get("entry"),
        strata=columns.get("stratum"),
        weights=columns.get("weight"),
    )


def outcome_facts(rows: Cohort, endpoint: str) -> dict[str, Any]:
    """What reports say of it: "delayed_entry" and "weighted" (bool), and "strata", how many (0 without)."""
    return {
        "delayed_entry": rows.endpoint(endpoint).entry is not None,
        "strata": 0 if rows.strata is None else len(set(rows.strata)),
        "weighted": rows.weights is not None,
    }
