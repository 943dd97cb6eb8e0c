"""What travels between the data room and the models: the description of an input and a batch of rows.

A leaf module (torch only), so that models need not know how a cohort is stored and data need not know a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
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


class Bags:
    """Ragged bags of the rows of a batch, each read when it is asked for.

    A batch of slides never holds them all: a model reads one row, reduces it, and lets go of it. Where gradients are
    recomputed a row is read again, so a reader gives the same values at every call.

    Args:
        readers: per row what reads its bag [N_i, width], or None where the row lacks it.
        sizes: per row how many instances its bag has at most, 0 where the row lacks it.
        device: where the bags are put.
    """

    def __init__(
        self,
        readers: Sequence[Callable[[], Tensor] | None],
        sizes: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self._readers = tuple(readers)
        self.sizes = tuple(sizes)
        self.device = torch.device(device)

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None]) -> Bags:
        """Bags held in memory, [N_i, width] each on one device; None where a row lacks its bag."""
        held = [tensor for tensor in tensors if tensor is not None]
        readers = [None if tensor is None else partial(_itself, tensor) for tensor in tensors]
        sizes = [0 if tensor is None else len(tensor) for tensor in tensors]
        return cls(readers, sizes, held[0].device if held else "cpu")

    def __len__(self) -> int:
        return len(self._readers)

    def __getitem__(self, row: int) -> Tensor:
        """Reads the bag of a row now: [N_i, width] in its stored floating dtype, not to be written to.

        Raises:
            ValueError: the row lacks it.
            DataError: its file is damaged or holds infinite values.
        """
        read = self._readers[row]
        if read is None:
            raise ValueError(f"row {row} of the batch has no bag to read; availability says which rows have one")
        return read().to(self.device)

    def take(self, rows: slice | Tensor) -> Bags:
        """The bags of a slice or an int64 index of rows, in its order; none is read."""
        if isinstance(rows, slice):
            return Bags(self._readers[rows], self.sizes[rows], self.device)
        if rows.dtype != torch.int64:
            raise ValueError(f"expected a slice or an int64 index of rows, got {rows.dtype}")
        numbers = rows.tolist()
        return Bags([self._readers[row] for row in numbers], [self.sizes[row] for row in numbers], self.device)

    def to(self, device: torch.device | str) -> Bags:
        """The same bags, read to another device."""
        return Bags(self._readers, self.sizes, device)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


class SparsePanel:
    """Rows of zeros and ones [B, width] by their ones: a mutation panel has about thirteen of a thousand.

    A model's first layer gathers the columns of the ones (``embedding_bag(columns, weight, offsets[:-1], mode="sum")``)
    or asks for :meth:`dense`.

    Args:
        columns: int32 or int64 [active], the columns that are 1, row after row, rising within a row.
        offsets: int64 [B + 1], where each row begins in ``columns``, and the end of the last.
        width: number of columns.
    """

    def __init__(self, columns: Tensor, offsets: Tensor, width: int) -> None:
        self.columns = columns
        self.offsets = offsets
        self.width = width

    @classmethod
    def from_dense(cls, values: Tensor) -> SparsePanel:
        """Of a table [B, width]; ValueError where an entry is neither 0 nor 1."""
        active = values != 0
        if not bool((values == active).all()):
            raise ValueError(f"expected zeros and ones, got {values[values != active][0].item()}")
        counts = active.sum(dim=1)
        return cls(active.nonzero()[:, 1].to(torch.int32), _offsets(counts), values.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """(B, width), as of the dense table."""
        return len(self), self.width

    @property
    def device(self) -> torch.device:
        return self.columns.device

    def take(self, rows: slice | Tensor) -> SparsePanel:
        """The rows of a slice or an int64 index, in its order."""
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            if step == 1:
                offsets = self.offsets[first : max(first, last) + 1]
                whole = self.columns if len(offsets) == len(self.offsets) else self.columns[offsets[0] : offsets[-1]]
                return SparsePanel(whole, offsets - offsets[0], self.width)
            rows = torch.arange(first, last, step)
        if rows.dtype != torch.int64:
            raise ValueError(f"expected a slice or an int64 index of rows, got {rows.dtype}")
        rows = rows.to(self.device)
        rows = torch.where(rows < 0, rows + len(self), rows)
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        offsets = _offsets(counts)
        shifts = torch.repeat_interleave(starts - offsets[:-1], counts)
        places = torch.arange(len(shifts), device=self.device) + shifts
        return SparsePanel(self.columns[places], offsets, self.width)

    def to(self, device: torch.device | str) -> SparsePanel:
        """The same rows on another device."""
        return SparsePanel(self.columns.to(device), self.offsets.to(device), self.width)

    def dense(self) -> Tensor:
        """The table, float32 [B, width], made at every call."""
        values = torch.zeros(self.shape, device=self.device)
        starts = torch.arange(len(self), device=self.device) * self.width
        values.view(-1)[torch.repeat_interleave(starts, self.offsets.diff()) + self.columns] = 1.0
        return values


def _offsets(counts: Tensor) -> Tensor:
    """Where rows with so many ones begin, int64 [B + 1]."""
    offsets = counts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def dense(values: Tensor | SparsePanel) -> Tensor:
    """A table of a batch as a tensor [B, width], for what wants no :class:`SparsePanel`."""
    return values.dense() if isinstance(values, SparsePanel) else values


@dataclass(frozen=True)
class Target:
    """One endpoint of a batch: time [B] in months, event [B] int64 (0 = censored), time_bin [B] int64, entry [B]."""

    time: Tensor
    event: Tensor
    time_bin: Tensor
    entry: Tensor | None = None

    @staticmethod
    def joined(several: Sequence[Target | None]) -> Target | None:
        """The rows of several, one after the other; None where there are none."""
        if several[0] is None:
            return None
        return Target(*(joined([getattr(target, entry.name) for target in several]) for entry in fields(Target)))


def joined(several: Sequence[Tensor | None]) -> Tensor | None:
    """The rows of several tensors, one after the other; None where there are none."""
    return None if several[0] is None else torch.cat(several)


@dataclass(frozen=True)
class Batch:
    """Rows of a prepared cohort.

    Attributes:
        row_key: int64 [B], 64-bit keys of the row ids; they seed every draw that belongs to a row.
        availability: bool [B, M], which modalities a row has, in the order of the model's inputs.
        values: per modality a float32 tensor, [B, width] for tables, [B, T, width] for token arrays (padded), where
            rows that lack the modality hold zeros that no model may read as data; for panels that are not scaled a
            :class:`SparsePanel` of B rows (:func:`dense` makes the tensor); for bags of instances :class:`Bags` of B
            rows, read one at a time, in their stored floating dtype and without NaN.
        observed: per modality the bool mask of entries that exist: [B, width] for tables, sparse panels too, [B, T]
            for token arrays. A modality that is not listed is complete; bags never are listed.
        target: the endpoint being trained, or None at prediction.
        weights: case weights float32 [B], or None.
        strata: int64 [B], numbers of the strata that the model was trained with, -1 for another; None without strata.
        latents: frozen parts of earlier stages by name, [B, ...]; filled by the training loop in cached stages.
    """

    row_key: Tensor
    availability: Tensor
    values: dict[str, Tensor | SparsePanel | Bags] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)
    target: Target | None = None
    weights: Tensor | None = None
    strata: Tensor | None = None
    latents: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.availability.shape[0]

    def take(self, rows: slice | Tensor) -> Batch:
        """A slice of rows, or those of an int64 index on the CPU; none of their bags is read."""
        parts = ("row_key", "availability", "values", "observed", "target", "weights", "strata", "latents")
        return self._mapped(parts, lambda part: part.take(rows) if isinstance(part, Bags | SparsePanel) else part[rows])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device (row keys stay on the CPU, where the draws are made)."""
        parts = ("availability", "values", "observed", "target", "weights", "strata", "latents")
        return self._mapped(parts, lambda part: part.to(device))

    def _mapped(self, parts: Sequence[str], change: Callable[[Any], Any]) -> Batch:
        """The batch with a function applied to every tensor, panel and :class:`Bags` of these parts."""

        def mapped(part: Any) -> Any:
            if isinstance(part, dict):
                return {name: mapped(value) for name, value in part.items()}
            if isinstance(part, Target):
                return Target(*(mapped(getattr(part, entry.name)) for entry in fields(Target)))
            return None if part is None else change(part)

        return replace(self, **{name: mapped(getattr(self, name)) for name in parts})
