"""What travels between the data room and the models: the description of an input and a batch of rows.

A leaf module (torch only), so that models need not know how a cohort is stored and data need not know a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModalityInput:
    """Shape of one modality as a model sees it.

    Attributes:
        name: the modality's name; the order of inputs is the order of the columns of ``availability``.
        kind: one of the cohort's kinds (vector, panel, tokens, bag, images, volume, text, embedding).
        width: features per row (vector, panel, embedding, grouped tokens) or per token (tokens given as arrays, bags).
        groups: for tokens given as a table: (token name, column indices) pairs; groups may overlap.
    """

    name: str
    kind: str
    width: int
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def state(self) -> dict[str, Any]:
        """A JSON-able description; :meth:`from_state` reads it."""
        groups = [[token, list(columns)] for token, columns in self.groups]
        return {"name": self.name, "kind": self.kind, "width": self.width, "groups": groups}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ModalityInput:
        groups = tuple((token, tuple(columns)) for token, columns in state["groups"])
        return cls(state["name"], state["kind"], state["width"], groups)


@dataclass(frozen=True)
class Target:
    """One endpoint of a batch: time [B] in months, event [B] int64 (0 = censored), time_bin [B] int64, entry [B]."""

    time: Tensor
    event: Tensor
    time_bin: Tensor
    entry: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of a prepared cohort.

    Attributes:
        row_key: int64 [B], 64-bit keys of the row ids; they seed every draw that belongs to a row.
        availability: bool [B, M], which modalities a row has, in the order of the model's inputs.
        values: per modality a float32 tensor: [B, width] for tables, [B, T, width] for token arrays (padded). Rows
            that lack the modality hold zeros that no model may read as data.
        observed: per modality the mask of entries that exist: [B, width] for tables, [B, T] for token arrays. A
            modality that is not listed is complete.
        target: the endpoint being trained, or None at prediction.
        weights: case weights float32 [B], or None.
        latents: frozen parts of earlier stages by name, [B, ...]; filled by the training loop in cached stages.
    """

    row_key: Tensor
    availability: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)
    target: Target | None = None
    weights: Tensor | None = None
    latents: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.availability.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device (row keys stay on the CPU, where the draws are made)."""

        def move(part: Any) -> Any:
            if isinstance(part, Tensor):
                return part.to(device)
            if isinstance(part, dict):
                return {name: value.to(device) for name, value in part.items()}
            if isinstance(part, Target):
                return Target(part.time.to(device), part.event.to(device), part.time_bin.to(device), move(part.entry))
            return part

        moved = {
            name: move(getattr(self, name))
            for name in ("availability", "values", "observed", "target", "weights", "latents")
        }
        return replace(self, **moved)
