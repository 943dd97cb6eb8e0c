"""Encodings of rows with slides, kept for when the same row is asked about again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock

import torch
from torch import Tensor

from survcore.batch import Bags, Batch, SparsePanel
from survcore.models.base import Encoded

# Bytes that one thread digests at a time: a slide is digested by as many threads as compute.
_BLOCK = 1 << 23


class EncodingCache:
    """The last encodings of rows that have a bag, found by the content of the whole row.

    The key is a SHA-256 digest of availability, bag, tables and masks, so a file under another name or a row under
    another id is known again, and a changed one is not mistaken for what it was. Safe to use from several threads.

    Args:
        size: number of rows that are kept; the one that was not asked for longest goes first.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._weights: object = None
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def encode(self, batch: Batch, encode: Callable[[Batch], Encoded], weights: object) -> Encoded:
        """What ``encode`` gives for the rows of a batch: those with a bag one by one, from the cache where it has them.

        Args:
            batch: on the CPU; a bag is read once.
            encode: takes a batch on the CPU.
            weights: says which weights encode; encodings by others are forgotten.
        """
        bags = [name for name, value in batch.values.items() if isinstance(value, Bags)]
        large = [row for row in range(len(batch)) if any(batch.values[name].sizes[row] for name in bags)]
        others = sorted(set(range(len(batch))).difference(large))
        parts = [encode(batch.take(torch.tensor(others)))] if others else []
        for row in large:
            parts.append(self._row(_read(batch.take(slice(row, row + 1)), bags), encode, weights))
        return Encoded.joined(parts).take(torch.tensor(others + large).argsort())

    def _row(self, row: Batch, encode: Callable[[Batch], Encoded], weights: object) -> Encoded:
        key = _digest(row)
        with self._lock:
            if self._weights != weights:
                self._kept.clear()
                self._weights = weights
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return replace(found, row_key=row.row_key)
        found = encode(row)
        with self._lock:
            if self._weights == weights:
                self._kept[key] = found
                while len(self._kept) > self.size:
                    self._kept.popitem(last=False)
        return found


def _read(row: Batch, bags: list[str]) -> Batch:
    """One row with its bags in memory, so that digest and encoder see the same values."""
    held = {
        name: Bags.of([row.values[name][0] if row.values[name].sizes[0] else None])  # type: ignore[union-attr]
        for name in bags
    }
    return replace(row, values={**row.values, **held})


def _digest(row: Batch) -> bytes:
    """Of all that an encoder can see of one row."""
    whole = hashlib.sha256(bytes(row.availability[0].tolist()))
    for group in (row.values, row.observed):
        for name, value in group.items():
            if isinstance(value, Bags):
                value = value[0] if value.sizes[0] else torch.empty(0)
            elif isinstance(value, SparsePanel):
                value = value.columns
            whole.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            whole.update(_content(value))
    return whole.digest()


def _content(values: Tensor) -> bytes:
    data = memoryview(values.contiguous().flatten().view(torch.uint8).numpy())
    blocks = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]
    if len(blocks) < 2:
        return bytes(data) if len(data) < 64 else hashlib.sha256(data).digest()
    with ThreadPoolExecutor(min(len(blocks), torch.get_num_threads())) as threads:
        return b"".join(threads.map(lambda block: hashlib.sha256(block).digest(), blocks))
