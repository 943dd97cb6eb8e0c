"""Made-up patients for any model, and the scenarios in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survcore.benchmarks.case import LeftOut
from survcore.data.cohort import Cohort
from survcore.data.preprocessor import Preprocessor
from survcore.inference.patients import read_records

COMPLETE = "complete"
_SHAPELESS = ("images", "volume", "text")
_TOKENS = 16
# Slides of several patients are parts of one array: different ones, which together take no more bytes than this.
_MOST_HELD = 1 << 28

Record = dict[str, Any]


def scenarios(preprocessor: Preprocessor) -> list[str]:
    """ "complete", and "without" each modality where there are several; of those that can be made up.

    Raises:
        LeftOut: none can be.
    """
    names = [declared.name for declared in preprocessor.inputs if declared.kind not in _SHAPELESS]
    if not names:
        raise LeftOut(f"no modality of this model can be made up: all are {' or '.join(_SHAPELESS)}")
    return [COMPLETE, *(f"without {name}" for name in names if len(names) > 1)]


def made_up_records(preprocessor: Preprocessor, count: int, *, patches: int, seed: int = 0) -> list[Record]:
    """Patients with all modalities but images, volumes and texts, as records that the model's reader takes.

    Values are standard normal once they are scaled as the model scales them; panels hold zeros and ones; a bag has
    ``patches`` instances in float16.
    """
    draw = np.random.default_rng(seed)
    bags = {
        entry.name: _bags(entry.width, count, patches, seed) for entry in preprocessor.inputs if entry.kind == "bag"
    }
    records = []
    for number in range(count):
        record: Record = {"row_id": f"made up {number}"}
        for entry in preprocessor.inputs:
            if entry.name in bags:
                record[entry.name] = bags[entry.name][number]
            elif entry.kind == "panel":
                record[entry.name] = draw.integers(0, 2, entry.width).astype(np.float32)
            elif entry.name in preprocessor.tables:
                record[entry.name] = _table_row(preprocessor, entry.name, draw)
            elif entry.kind not in _SHAPELESS:
                record[entry.name] = draw.standard_normal((_TOKENS, entry.width), dtype=np.float32)
        records.append(record)
    return records


def shown(record: Record, scenario: str) -> Record:
    """The record as it comes in a scenario."""
    left_out = scenario.removeprefix("without ")
    return {name: value for name, value in record.items() if scenario == COMPLETE or name != left_out}


def cohort_of(preprocessor: Preprocessor, records: Sequence[Record]) -> Cohort:
    """The patients as a cohort.

    Raises:
        ValueError: one of them cannot be read.
    """
    patients = read_records(preprocessor, records)
    if patients.errors or patients.cohort is None:
        raise ValueError(f"made-up patients that the model does not take: {next(iter(patients.errors.values()), '')}")
    return patients.cohort


def mixed(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """Each patient in one of the scenarios, in turns."""
    return [shown(record, names[number % len(names)]) for number, record in enumerate(records)]


def _bags(width: int, count: int, patches: int, seed: int) -> list[Tensor]:
    """[patches, width] each, which overlap where they would take much memory together."""
    most = max(patches + count, min(count * patches, _MOST_HELD // (2 * width)))
    generator = torch.Generator().manual_seed(seed)
    held = torch.empty(most, width, dtype=torch.float16)
    for start in range(0, most, 4096):
        held[start : start + 4096] = torch.randn(len(held[start : start + 4096]), width, generator=generator)
    starts = [number * (most - patches) // max(1, count - 1) for number in range(count)]
    return [held[start : start + patches] for start in starts]


def _table_row(preprocessor: Preprocessor, name: str, draw: np.random.Generator) -> np.ndarray:
    """Values [width] that the model's scaler turns into standard normal ones, or those of [0, 1] into such."""
    scaler = preprocessor.tables[name]
    own = preprocessor.settings["modalities"].get(name, {})
    between = own.get("scale", preprocessor.settings["scale"]) == "minmax"
    scaled = draw.uniform(size=len(scaler.columns)) if between else draw.standard_normal(len(scaler.columns))
    values = scaler.centre + scaler.scale * scaled
    if scaler.transform == "signed_log":
        values = np.sign(values) * np.expm1(np.abs(values))
    return values.astype(np.float32)
