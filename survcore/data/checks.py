"""Checks of what a user declares for a cohort's modalities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.messages import listed
from survcore.data.modality import Modality
from survcore.errors import DataError

# Names become files, keys of checkpoints and names of sub-modules.
_MODALITY_NAME = re.compile(r"\w[\w -]*")


def check_names(modalities: Mapping[str, Any], **declared: Mapping[str, Any] | None) -> None:
    """Raises DataError for names that cannot be a modality, and for declarations of modalities that are not there."""
    if not modalities:
        raise DataError("a cohort needs at least one modality")
    for name in modalities:
        if not isinstance(name, str) or not _MODALITY_NAME.fullmatch(name) or name == "outcomes":
            raise DataError(
                f"modality name {name!r}: expected letters, digits, '_', '-' and spaces (and not 'outcomes')"
            )
    for what, given in declared.items():
        if unknown := [name for name in given or {} if name not in modalities]:
            raise DataError(
                f"{what} are given for {listed(unknown)}, which is no modality; "
                f"the modalities are {listed(modalities, 20)}"
            )


def refuse_outcomes_as_features(modalities: Mapping[str, Modality], outcome_columns: set[str]) -> None:
    """Raises DataError where a table has the very columns that were read as the outcome."""
    for name, modality in modalities.items():
        if leaking := outcome_columns & set(modality.spec.columns):
            raise DataError(
                f"modality {name!r} contains the outcome itself: column {listed(sorted(leaking))}; "
                "drop it from the features"
            )


def refuse_divided_patients(patient_ids: np.ndarray, parts: np.ndarray, what: str) -> None:
    """Raises DataError where rows of one patient lie in several ``parts`` (folds or splits, [N])."""
    several = pd.Series(parts).groupby(np.asarray(patient_ids)).nunique()
    if (several > 1).any():
        patient = several.index[several > 1][0]
        raise DataError(
            f"patient {str(patient)!r} has rows in {several[patient]} {what}; all rows of a patient belong in one"
        )
