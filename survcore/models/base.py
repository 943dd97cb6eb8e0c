"""The protocol that every system speaks: encode what is there, complete what is missing, predict, and say its losses.

The training loop, evaluation, prediction and export know nothing else about a system, so a new one is one file in this
folder and one recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from survcore.batch import Batch, ModalityInput


@dataclass(frozen=True)
class Stage:
    """One stage of training, as a recipe states it.

    Attributes:
        name: the stage's name in the system's own words.
        epochs: passes at most; early stopping may end it sooner. A stage of 0 epochs is skipped.
        learning_rate, weight_decay: of AdamW.
        batch_size: rows per forward pass.
        accumulate: batches per optimiser step.
        steps_per_epoch: batches in an epoch; 0 means one pass over the training rows.
        patience: epochs without a better validation value before the stage ends; 0 never ends it early.
        monitor: name of the loss part watched on the validation rows (lower is better); the best epoch's weights are
            kept.
        cached: the stage trains on frozen latents, computed once per row by :meth:`System.latents`.
    """

    name: str
    epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    batch_size: int = 32
    accumulate: int = 1
    steps_per_epoch: int = 0
    patience: int = 0
    monitor: str = "loss"
    cached: bool = False

    def __post_init__(self) -> None:
        for name, least in {"epochs": 0, "batch_size": 1, "accumulate": 1, "steps_per_epoch": 0, "patience": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"stage {self.name!r}: {name} must be a whole number from {least}, got {value!r}")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise ValueError(f"stage {self.name!r}: {name} must be a number from 0, got {value!r}")
        if not isinstance(self.cached, bool):
            raise ValueError(f"stage {self.name!r}: cached must be true or false, got {self.cached!r}")


@dataclass(frozen=True)
class Encoded:
    """What the encoders make of the modalities that are there.

    Attributes:
        parts: named tensors [B, ...].
        availability: bool [B, M], who has what.
        row_key: int64 [B], on the CPU.
    """

    parts: dict[str, Tensor]
    availability: Tensor
    row_key: Tensor

    def __len__(self) -> int:
        return len(self.row_key)

    def take(self, rows: Tensor) -> Encoded:
        """The rows of an int64 index on the CPU, in its order."""
        there = rows.to(self.availability.device)
        parts = {name: part[there] for name, part in self.parts.items()}
        return Encoded(parts, self.availability[there], self.row_key[rows])

    @staticmethod
    def joined(several: Sequence[Encoded]) -> Encoded:
        """The rows of several, one after the other."""
        if len(several) == 1:
            return several[0]
        parts = {name: torch.cat([encoded.parts[name] for encoded in several]) for name in several[0].parts}
        availability = torch.cat([encoded.availability for encoded in several])
        return Encoded(parts, availability, torch.cat([encoded.row_key for encoded in several]))


@dataclass(frozen=True)
class Completed:
    """Every part the head needs, and how each modality came about.

    Attributes:
        parts: named tensors ready for :meth:`System.predict`.
        completed: bool [B, M], modalities that were absent and have been filled in.
        fill: how they were filled ("own", "zeros" or "mean").
    """

    parts: dict[str, Tensor]
    completed: Tensor
    fill: str


@dataclass(frozen=True)
class Losses:
    """Losses of a batch: ``loss`` is minimised, ``parts`` are reported, ``risk`` [B], if known, feeds the C-index."""

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    risk: Tensor | None = None


FILLS = ("own", "zeros", "mean")


class System(nn.Module, ABC):
    """Base of the published systems.

    A subclass is built from the inputs it will see, the number of time bins and its settings, all JSON-able, so that
    a saved model can be rebuilt from its description. It declares which kinds of modalities it takes; whether it takes
    missing entries (else they are imputed), competing causes and left truncation (else they are refused), and strata
    (else they are not looked at), whose number it then has as the setting "strata"; and which of its stages learn from
    rows without outcomes too.
    """

    name: ClassVar[str]
    takes_missing_entries: ClassVar[bool] = False
    takes_competing_causes: ClassVar[bool] = False
    takes_entry: ClassVar[bool] = False
    takes_strata: ClassVar[bool] = False
    modality_kinds: ClassVar[frozenset[str]]
    stage_names: ClassVar[tuple[str, ...]]
    unlabeled_stages: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, inputs: Sequence[ModalityInput], bins: int, settings: dict[str, Any]) -> None:
        super().__init__()
        for modality in inputs:
            if modality.kind not in self.modality_kinds:
                raise ValueError(
                    f"{self.name} takes modalities of kind {', '.join(sorted(self.modality_kinds))}; "
                    f"{modality.name!r} is of kind {modality.kind!r}"
                )
        self.inputs = tuple(inputs)
        self.bins = bins
        self.settings = dict(settings)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities in the order of the columns of ``availability``."""
        return tuple(modality.name for modality in self.inputs)

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """Encode the modalities that each row has."""

    @abstractmethod
    def complete(
        self,
        encoded: Encoded,
        *,
        fill: str = "own",
        seed: int = 0,
        draws: int = 5,
        steps: int = 50,
        solver: str = "ddim",
        precision: str = "full",
    ) -> Completed:
        """Fill in what is absent: the system's own way ("own"), "zeros", or the training "mean"; all at the same
        weights.

        ``draws``, ``steps``, ``solver`` and ``precision`` matter to systems that sample; draws of a row depend on
        (seed, row) only.
        """

    @abstractmethod
    def predict(self, completed: Completed) -> dict[str, Tensor]:
        """Outputs of the task heads by name: ``risk`` [B] float64, higher is worse, and what it comes from.

        The discrete-hazard head gives ``hazard_logits`` [B, K].
        """

    def predict_draws(self, completed: Completed) -> Tensor | None:
        """Risks [B, draws] float64 that each single draw of the completed modalities gives; None where nothing was
        drawn (always, by default)."""
        return None

    def stages(self) -> tuple[str, ...]:
        """The stages this instance trains through, in order: all, unless one has no purpose for its inputs."""
        return self.stage_names

    @abstractmethod
    def stage_parameters(self, stage: str) -> list[nn.Parameter]:
        """The parameters a stage trains; all others are frozen in it."""

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called once before training with all training rows, e.g. to store statistics of their columns."""

    def finish(self, batches: Iterable[Batch]) -> None:
        """Called once after training, in evaluation mode, with all training rows, e.g. to fit a baseline hazard."""

    def start_stage(self, stage: str, latents: dict[str, Tensor], availability: Tensor) -> None:
        """Called once before a cached stage with the latents of all training rows, e.g. to store their statistics."""

    def latents(self, batch: Batch) -> dict[str, Tensor]:
        """Frozen parts of each row for cached stages, [B, ...] each (none by default)."""
        return {}

    @abstractmethod
    def losses(self, batch: Batch, stage: str, *, seed: int = 0) -> Losses:
        """Losses of a batch in a stage; every draw of a row depends on (seed, row) only."""

    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """Invariants of the system on a batch, for the report after training (empty by default)."""
        return {}

    def part_cosines(self, encoded: Encoded) -> tuple[list[str], Tensor] | None:
        """Cosines between the parts into which a system takes each row apart: labels of the P parts, [B, P, P].

        NaN where a row lacks one of the two; None (the default) where a system knows no parts.
        """
        return None
