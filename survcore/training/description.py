"""What a model folder says of its training: the rows, and where the recipe departs from the packaged one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from survcore.data.cohort import Cohort
from survcore.data.endpoint import median_follow_up
from survcore.data.prepared import PreparedCohort
from survcore.training.recipe import Recipe, load_recipe


def training_facts(
    training: Cohort, validation: Cohort | None, prepared: PreparedCohort, endpoint: str
) -> dict[str, Any]:
    """JSON-able facts of the rows that a model was trained on.

    Args:
        training: the rows.
        validation: the rows that chose the checkpoint, if there were any.
        prepared: the training rows as the model saw them.
        endpoint: the one trained on.

    Returns:
        ``cohort`` (name), ``simulated``, ``rows``, ``patients``, ``events``, ``validation_rows``, ``causes``,
        ``delayed_entry``, ``median_follow_up`` (months, reverse Kaplan-Meier; None where it is not reached),
        ``modalities`` (by name ``rows`` that have it and ``missing_entries`` of these), ``availability`` (``rows`` and
        ``events`` by pattern of ``modalities``, the most frequent first) and ``imputed_entries`` by table.
    """
    outcome = training.endpoint(endpoint)
    event = outcome.event > 0
    follow_up = median_follow_up(outcome)
    return {
        "cohort": training.name,
        "simulated": training.simulated,
        "rows": len(training),
        "patients": len(np.unique(training.patient_ids)),
        "events": int(event.sum()),
        "validation_rows": 0 if validation is None else len(validation),
        "causes": outcome.causes,
        "delayed_entry": outcome.entry is not None,
        "median_follow_up": None if np.isnan(follow_up) else follow_up,
        "modalities": {
            name: {"rows": int(modality.present.sum()), "missing_entries": modality.missing_entries}
            for name, modality in training.modalities.items()
        },
        "availability": _patterns(training, event),
        "imputed_entries": {name: int(counts.sum()) for name, counts in prepared.imputed.items()},
    }


def departures(recipe: Recipe) -> dict[str, Any] | None:
    """Where a recipe departs from the packaged one of its system, quick or not, whichever is nearer.

    Returns:
        ``quick``, and ``changes``: dotted keys and the values that stand in place of the packaged ones (None for a
        packaged value that the recipe does not have). None where the package has no recipe of the system.
    """
    try:
        packaged = {quick: load_recipe(recipe.system, quick=quick).state() for quick in (False, True)}
    except ValueError:
        return None
    own = dict(_leaves(recipe.state()))
    found = []
    for quick, state in packaged.items():
        theirs = dict(_leaves(state))
        keys = [*own, *(key for key in theirs if key not in own)]
        # A missing key and None are two: a setting may be None.
        changes = {key: own.get(key) for key in keys if (key in own, own.get(key)) != (key in theirs, theirs.get(key))}
        found.append({"quick": quick, "changes": changes})
    return min(found, key=lambda departure: len(departure["changes"]))


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _patterns(cohort: Cohort, event: np.ndarray) -> list[dict[str, Any]]:
    patterns, which, counts = np.unique(cohort.availability, axis=0, return_inverse=True, return_counts=True)
    names = np.array(list(cohort.modalities))
    events = np.bincount(which.reshape(-1)[event], minlength=len(patterns))
    return [
        {"modalities": names[patterns[index]].tolist(), "rows": int(counts[index]), "events": int(events[index])}
        for index in np.argsort(-counts, kind="stable")
    ]
