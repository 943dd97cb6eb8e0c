"""A short mark by which a run recognises the cohort that it was started on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort


def fingerprint(cohort: Cohort) -> str:
    """16 hex digits over ids, outcomes, folds, splits, weights, tables and texts; arrays count by their shapes."""
    digest = hashlib.blake2b(digest_size=8)

    def add(values: Any) -> None:
        if isinstance(values, np.ndarray) and values.dtype.kind not in "OU":
            digest.update(np.ascontiguousarray(values).tobytes())
        else:
            digest.update(repr(values if values is None else list(values)).encode())
        digest.update(b"\x1f")

    for part in (cohort.row_ids, cohort.patient_ids, cohort.fold, cohort.split, cohort.strata, cohort.weights):
        add(part if part is None or part.dtype.kind not in "OU" else part.astype(str).tolist())
    for endpoint in cohort.endpoints.values():
        add((endpoint.name, endpoint.causes))
        for part in (endpoint.time, endpoint.event, endpoint.entry):
            add(part)
    for modality in cohort.modalities.values():
        add((modality.spec,))
        add(modality.present)
        if modality.items is None:
            add(modality.table)
        else:
            add([item if item is None or isinstance(item, str) else item.shape for item in modality.items])
    return digest.hexdigest()
