"""A short mark by which a run recognises the cohort that it was started on."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from survcore.data.arrays import ArrayItem
from survcore.data.sparse_values import PanelValues

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort

# Values of an array that are looked at in one place: little beside a slide, more than chance could make equal.
_LOOKED_AT = 2**14
# Entries of a panel whose table is written out for it.
_WRITTEN_OUT = 2**26


def fingerprint(cohort: Cohort) -> str:
    """16 hex digits over ids, outcomes, folds, splits, weights, tables, texts and arrays.

    Of a large array the shape, the dtype and some rows at its start, middle and end count, so a slide is never read
    whole (but by HDF5 where one chunk holds it all); where a file lies and of which type it is do not count.

    Raises:
        DataError: an array file that is gone or damaged.
    """
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
        if modality.panel is not None:
            _add_panel(digest, modality.panel)
        elif modality.items is None:
            add(modality.held)
        else:
            add([_array_mark(item) if isinstance(item, ArrayItem) else item for item in modality.items])
    return digest.hexdigest()


def _add_panel(digest: hashlib.blake2b, panel: PanelValues) -> None:
    """How a panel was given does not count. A large one is taken by its ones: its table takes long to write out."""
    if len(panel) * panel.width <= _WRITTEN_OUT:
        for _, table in panel.tables():
            digest.update(table.data)
    else:
        coverage = panel.coverage.canonical()
        for part in (panel.ones.columns.numpy(), panel.ones.offsets.numpy(), coverage.numbers, coverage.packed):
            digest.update(np.ascontiguousarray(part).data)
    digest.update(b"\x1f")


def _array_mark(item: ArrayItem) -> str:
    count = item.shape[0]
    rows = min(count, max(1, _LOOKED_AT // math.prod(item.shape[1:])))
    starts = np.array([0, (count - rows) // 2, count - rows])
    index = np.unique(starts[:, None] + np.arange(rows))
    parts, coords = [torch.cat([block for _, block in item.blocks(index)])], item.coords()
    if coords is not None:
        parts.append(coords[torch.from_numpy(index)])
    digest = hashlib.blake2b(repr((item.shape, [part.dtype for part in parts])).encode(), digest_size=8)
    for part in parts:
        digest.update(part.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
