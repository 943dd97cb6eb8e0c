"""Reads the bags of one modality when a model asks for them, all instances or a subsample of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

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
        dropped: int64 [N], the instances that the last reading of a row left out for a missing entry; 0 before it.
    """

    modality: Modality
    transform: str
    order: str
    row_ids: np.ndarray
    dropped: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dropped", np.zeros(len(self.row_ids), dtype=np.int64))

    def bags(self, rows: Iterable[int], *, max_patches: int = 0, seed: int = 0) -> Bags:
        """The bags of some rows, none of them read yet."""
        rows, present, items = list(rows), self.modality.present, self.modality.items
        most = max_patches or sys.maxsize
        readers = [partial(self.read, row, max_patches, seed) if present[row] else None for row in rows]
        return Bags(readers, [min(items[row].shape[0], most) if present[row] else 0 for row in rows])

    def larger(self, max_patches: int) -> np.ndarray:
        """The rows whose bag has more than ``max_patches`` instances besides those dropped in reading, bool [N]."""
        sizes = np.array([0 if item is None else item.shape[0] for item in self.modality.items])
        return sizes - self.dropped > max_patches

    def read(self, row: int, max_patches: int = 0, seed: int = 0) -> Tensor:
        """The bag of a row: [N, width] without NaN, float16, bfloat16 or float32 as stored (others as float32).

        Args:
            row: number of a row that has the modality.
            max_patches: largest number of instances; a larger bag gives a subsample without replacement, which follows
                from (seed, row id, modality) alone and keeps the order. For an instance with NaN the next one drawn
                steps in, as long as there is one. 0 for all.
            seed: of that choice.

        Raises:
            DataError: an infinite value, no instance without NaN, an order by coords that the bag lacks.
        """
        item = self.modality.items[row]
        count = item.shape[0]
        if not 0 < max_patches < count:
            bag = self._as_stored(item)
            bag = self._assembled(item) if bag is None else bag
            dropped = count - len(bag)
        else:
            draws = self._draws(row, count, seed)
            bag, dropped = self._assembled(item, _least(draws, max_patches)), 0
            if len(bag) < max_patches:
                index, dropped = _least_whole(item, draws, max_patches)
                bag = self._assembled(item, index) if len(index) else bag
        if not len(bag):
            raise DataError(f"{item.where}: all {count} instances hold missing entries")
        self.dropped[row] = dropped
        return bag

    def _draws(self, row: int, count: int, seed: int) -> np.ndarray:
        keys = row_keys([self.row_ids[row]])
        return row_uniform(stream_seed(seed, self.modality.spec.name), keys, count)[0].numpy()

    def _as_stored(self, item: ArrayItem) -> Tensor | None:
        """All instances where they lie, or None where the model is to have others."""
        if self.order == "coords" or self.transform != "none":
            return None
        values = item.values_without_gaps()
        return values if values is not None and values.dtype in _KEPT else None

    def _assembled(self, item: ArrayItem, index: np.ndarray | None = None) -> Tensor:
        """Chosen instances, converted, transformed and put in order; those with a NaN are left out."""
        count = item.shape[0] if index is None else len(index)
        rank = None
        if self.order == "coords":
            rank = torch.from_numpy(np.argsort(_order_of_coords(item, index)))
        whole = torch.ones(count, dtype=torch.bool)
        bag, start = None, 0
        for _, block, missing in _checked_blocks(item, index):
            taken = slice(start, start + len(block))
            places = taken if rank is None else rank[taken]
            if missing is not None:
                whole[places] = ~missing
            block = block if self.transform == "none" else transformed(block, self.transform)
            if bag is None:
                bag = block.new_empty(count, item.width)
            bag[places] = block
            start += len(block)
        return bag if whole.all() else _closed_up(bag, whole, item.block_rows)


def _checked_blocks(item: ArrayItem, index: np.ndarray | None) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]:
    """Numbers of instances, their values in a dtype that models take, and which hold a NaN (None: none does)."""
    for numbers, block in item.blocks(index):
        block = block if block.dtype in _KEPT else block.float()
        yield numbers, block, missing_rows(block, numbers, item.where)


def _least(draws: np.ndarray, count: int) -> np.ndarray:
    """Sorted places of the ``count`` least draws."""
    last = np.partition(draws, count - 1)[count - 1]
    least = draws < last
    # Which of equal draws a partition puts first differs between machines, so the file's order decides.
    least[np.flatnonzero(draws == last)[: count - least.sum()]] = True
    return np.flatnonzero(least)


def _least_whole(item: ArrayItem, draws: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Up to ``most`` instances without NaN, from the least draw on, reading no further than they take.

    Returns:
        Their sorted numbers, and how many instances with a NaN were passed over.
    """
    walk = np.argsort(draws, kind="stable")
    whole = np.zeros(len(walk), dtype=bool)
    seen, found = 0, 0
    while found < most and seen < len(walk):
        step = np.sort(walk[seen : seen + max(most - found, item.block_rows)])
        for numbers, _, missing in _checked_blocks(item, step):
            whole[numbers] = True if missing is None else ~missing.numpy()
        seen, found = seen + len(step), int(whole.sum())
    places = np.flatnonzero(whole[walk])[:most]
    passed = places[-1] + 1 if len(places) == most else len(walk)
    return np.sort(walk[places]), int(passed) - len(places)


def _order_of_coords(item: ArrayItem, index: np.ndarray | None) -> np.ndarray:
    coords = item.coords()
    if coords is None:
        raise DataError(f"{item.where}: instances in the order of coords were asked for, and the bag has no coords")
    if coords.is_floating_point() and (unknown := coords.isnan().any(1)).any():
        raise DataError(f"{item.where}: coords of instance {int(unknown.nonzero()[0])} are NaN, and set the order")
    x, y = coords.numpy().T if index is None else coords.numpy()[index].T
    return np.lexsort((x, y))


def _closed_up(bag: Tensor, kept: Tensor, rows: int) -> Tensor:
    """The kept rows, moved up in place: a row is read before its place is taken."""
    numbers, first_gap = kept.nonzero().squeeze(1), int(kept.int().argmin())
    for start in range(first_gap, len(numbers), rows):
        part = numbers[start : start + rows]
        bag[start : start + len(part)] = bag[part]
    return bag[: len(numbers)]
