"""Reads the bags of one modality when a model asks for them, all instances or a subsample of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from survcore.batch import Bags
from survcore.data.arrays import ArrayItem, missing_rows, transformed
from survcore.data.modality import Modality
from survcore.draws import row_keys, row_uniform, stream_seed
from survcore.errors import DataError

ORDERS = ("file", "coords")
_KEPT = (torch.float16, torch.bfloat16, torch.float32)


def check_max_patches(value: object) -> int:
    """The value of a ``max_patches`` argument; ValueError where it is no whole number of at least 0."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ValueError(f"max_patches must be a whole number of at least 0 (0: all patches), got {value!r}")
    return int(value)


@dataclass(frozen=True)
class BagReader:
    """Reads the bags of one modality, one at a time.

    A bag that goes to the model as it is stored is handed on where it lies (a map of its file, or memory of the
    cohort); any other is put together block by block, so that reading needs little beyond the bag itself.

    Attributes:
        modality: of kind "bag".
        transform: "none" or "signed_log", which makes a bag float32.
        order: of the instances: "file", or "coords" for rising y, then rising x.
        row_ids: str [N].
    """

    modality: Modality
    transform: str
    order: str
    row_ids: np.ndarray

    def bags(self, rows: Iterable[int], *, max_patches: int = 0, seed: int = 0) -> Bags:
        """The bags of some rows, none of them read yet."""
        present = self.modality.present
        return Bags([partial(self.read, row, max_patches, seed) if present[row] else None for row in rows])

    def larger(self, max_patches: int) -> np.ndarray:
        """The rows whose bag has more than ``max_patches`` instances, bool [N]."""
        return np.array([item is not None and item.shape[0] > max_patches for item in self.modality.items])

    def read(self, row: int, max_patches: int = 0, seed: int = 0) -> Tensor:
        """The bag of a row: [N, width] without NaN, float16, bfloat16 or float32 as stored (others as float32).

        Args:
            row: number of a row that has the modality.
            max_patches: largest number of instances; a larger bag gives a subsample without replacement, which follows
                from (seed, row id, modality) alone and keeps the order. 0 for all.
            seed: of that choice.

        Raises:
            DataError: an infinite value, no instance without NaN, an order by coords that the bag lacks.
        """
        item = self.modality.items[row]
        index = self._chosen(row, item.shape[0], seed, max_patches) if 0 < max_patches < item.shape[0] else None
        order = _order_of_coords(item, index) if self.order == "coords" else None
        if index is None and order is None and self.transform == "none":
            values = item.values_without_gaps()
            if values is not None and values.dtype in _KEPT:
                return values
            del values  # read into memory where the file cannot be mapped
        return self._assembled(item, index, order)

    def _chosen(self, row: int, instances: int, seed: int, count: int) -> np.ndarray:
        """Sorted numbers of ``count`` instances."""
        keys = row_keys([self.row_ids[row]])
        draws = row_uniform(stream_seed(seed, self.modality.spec.name), keys, instances)[0].numpy()
        last = np.partition(draws, count - 1)[count - 1]
        chosen = draws < last
        # Which of equal draws a partition puts first differs between machines, so the file's order decides.
        chosen[np.flatnonzero(draws == last)[: count - chosen.sum()]] = True
        return np.flatnonzero(chosen)

    def _assembled(self, item: ArrayItem, index: np.ndarray | None, order: np.ndarray | None) -> Tensor:
        """Chosen instances, converted, transformed and put in order; those with a NaN are left out."""
        count = item.shape[0] if index is None else len(index)
        rank = None if order is None else torch.from_numpy(np.argsort(order))
        whole = torch.ones(count, dtype=torch.bool)
        bag, start = None, 0
        for numbers, block in item.blocks(index):
            block = block if block.dtype in _KEPT else block.float()
            missing = missing_rows(block, numbers, item.where)
            taken = slice(start, start + len(block))
            places = taken if rank is None else rank[taken]
            if missing is not None:
                whole[places] = ~missing
            block = block if self.transform == "none" else transformed(block, self.transform)
            if bag is None:
                bag = block.new_empty(count, item.width)
            bag[places] = block
            start += len(block)
        if not whole.any():
            raise DataError(f"{item.where}: all {count} instances read hold missing entries")
        return bag if whole.all() else _closed_up(bag, whole, item.block_rows)


def _order_of_coords(item: ArrayItem, index: np.ndarray | None) -> np.ndarray:
    coords = item.coords()
    if coords is None:
        raise DataError(f"{item.where}: instances in the order of coords were asked for, and the bag has no coords")
    x, y = coords.numpy().T if index is None else coords.numpy()[index].T
    return np.lexsort((x, y))


def _closed_up(bag: Tensor, kept: Tensor, rows: int) -> Tensor:
    """The kept rows, moved up in place: a row is read before its place is taken."""
    numbers, first_gap = kept.nonzero().squeeze(1), int(kept.int().argmin())
    for start in range(first_gap, len(numbers), rows):
        part = numbers[start : start + rows]
        bag[start : start + len(part)] = bag[part]
    return bag[: len(numbers)]
