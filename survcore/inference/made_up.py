"""Made-up patients, for what is set up or tried before the first real one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from survcore.batch import Bags, Batch, SparsePanel
from survcore.models.base import System

# Of a bag: more than landmarks, so that the attention of large bags is set up.
_PATCHES = 512
# The share of ones in a panel.
_ACTIVE = 0.01
# Kinds whose shape the model's inputs do not tell.
_SHAPELESS = frozenset({"images", "volume", "text"})


def made_up_patients(system: System) -> Iterator[Batch]:
    """One row with all modalities, then one without each, of standard normal values on the CPU; in panels a few ones.

    Images, volumes and texts are left out, as though nobody had them.
    """
    shown = [index for index, modality in enumerate(system.inputs) if modality.kind not in _SHAPELESS]
    for missing in (None, *(shown if len(shown) > 1 else ())):
        yield _row(system, [index for index in shown if index != missing])


def _row(system: System, owned: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    availability = torch.zeros(1, len(system.inputs), dtype=torch.bool)
    availability[0, owned] = True
    values: dict[str, Tensor | SparsePanel | Bags] = {}
    for index, modality in enumerate(system.inputs):
        if modality.kind in _SHAPELESS:
            continue
        there = index in owned
        if modality.kind == "bag":
            bag = torch.randn(_PATCHES, modality.width, generator=generator)
            values[modality.name] = Bags.of([bag if there else None])
        elif modality.kind == "panel":
            panel = torch.rand(1, modality.width, generator=generator) < _ACTIVE
            panel[0, 0] = True
            values[modality.name] = SparsePanel.from_dense((panel & there).float())
        else:
            token_array = modality.kind == "tokens" and not modality.groups
            shape = (1, 1, modality.width) if token_array else (1, modality.width)
            values[modality.name] = torch.randn(shape, generator=generator) * there
    return Batch(torch.zeros(1, dtype=torch.int64), availability, values)
