"""Which entries of a table were measured, as patterns that many rows share: a gene panel covers the same for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

# Bits that are looked at one by one at a time.
_UNPACKED = 1 << 24


@dataclass(frozen=True, eq=False)
class Coverage:
    """A mask [N, width] by the number of each row's pattern.

    Few patterns make it a few bytes per row; where every row has a pattern of its own it takes one bit per entry.

    Attributes:
        numbers: int32 [N], the pattern of each row.
        packed: uint8 [P, ceil(width / 8)], the bits of the patterns as :func:`numpy.packbits` makes them.
        width: number of columns.
    """

    numbers: np.ndarray
    packed: np.ndarray
    width: int

    @classmethod
    def everywhere(cls, rows: int, width: int) -> Coverage:
        """Every entry of so many rows."""
        return cls.of_patterns(np.zeros(rows, dtype=np.int32), np.ones((1, width), dtype=bool))

    @classmethod
    def of_patterns(cls, numbers: np.ndarray, patterns: np.ndarray) -> Coverage:
        """Of each row's pattern, int [N], and the patterns, bool [P, width]."""
        return cls(numbers.astype(np.int32, copy=False), np.packbits(patterns, axis=1), patterns.shape[1])

    @classmethod
    def of_bits(cls, packed: np.ndarray, width: int) -> Coverage:
        """Of every row's own bits, uint8 [N, ceil(width / 8)]; rows with the same bits share a pattern."""
        if not len(packed) or (packed == packed[0]).all():
            return cls(np.zeros(len(packed), dtype=np.int32), packed[:1], width)
        rows = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}")[:, 0]
        _, first, numbers = np.unique(rows, return_index=True, return_inverse=True)
        return cls(numbers.astype(np.int32), packed[first], width)

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def counts(self) -> np.ndarray:
        """Entries that are there, per row: int64 [N]."""
        counts = [bits.sum(axis=1) for _, bits in self.blocks()]
        return np.concatenate(counts, dtype=np.int64)[self.numbers] if counts else np.zeros(0, dtype=np.int64)

    def rows(self, index: np.ndarray | slice) -> np.ndarray:
        """The mask of some rows: bool [n, width]."""
        return self._unpacked(self.packed[self.numbers[index]])

    def holds(self, rows: np.ndarray, columns: np.ndarray | int) -> np.ndarray:
        """Whether single entries are there: bool [n] for n rows and their columns, or one column."""
        columns = np.asarray(columns)
        return self.packed[self.numbers[rows], columns >> 3] & (0x80 >> (columns & 7)) != 0

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The patterns, bool [p, width], a few at a time."""
        size = max(1, _UNPACKED // self.width)
        for start in range(0, len(self.packed), size):
            block = slice(start, start + size)
            yield block, self._unpacked(self.packed[block])

    def column_counts(self) -> np.ndarray:
        """Rows that have an entry, per column: int64 [width]."""
        rows = np.bincount(self.numbers, minlength=len(self.packed)).astype(np.float64)
        return sum((rows[block] @ bits for block, bits in self.blocks()), np.zeros(self.width)).astype(np.int64)

    def take(self, index: np.ndarray) -> Coverage:
        """The rows of an integer index, in its order."""
        numbers = self.numbers[index]
        if len(self.packed) <= len(numbers):
            return replace(self, numbers=numbers)
        # Patterns of many other rows would outweigh those of a few.
        used, numbers = np.unique(numbers, return_inverse=True)
        return Coverage(numbers.astype(np.int32), self.packed[used], self.width)

    def placed(self, positions: np.ndarray, count: int) -> Coverage:
        """Row k at ``positions[k]`` of ``count`` rows; no entry is there in the others."""
        if len(positions) == count:
            numbers = np.empty(count, dtype=np.int32)
            numbers[positions] = self.numbers
            return replace(self, numbers=numbers)
        numbers = np.full(count, len(self.packed), dtype=np.int32)
        numbers[positions] = self.numbers
        return Coverage(numbers, self._with_nothing(), self.width)

    def without(self, rows: np.ndarray) -> Coverage:
        """No entry is there where the bool mask ``rows`` [N] is set."""
        numbers = np.where(rows, np.int32(len(self.packed)), self.numbers)
        return Coverage(numbers, self._with_nothing(), self.width)

    def canonical(self) -> Coverage:
        """The same mask, equal in every attribute whatever patterns it was made of."""
        used, numbers = np.unique(self.numbers, return_inverse=True)
        different = Coverage.of_bits(self.packed[used], self.width)
        return Coverage(different.numbers[numbers], different.packed, self.width)

    def columns(self, places: np.ndarray) -> Coverage:
        """Other columns: ``places`` [new width] are their old places, -1 for one that is nowhere there."""
        parts = [
            np.packbits(np.where(places < 0, False, bits[:, np.maximum(places, 0)]), axis=1)
            for _, bits in self.blocks()
        ]
        return Coverage(self.numbers, np.concatenate(parts), len(places))

    def _unpacked(self, packed: np.ndarray) -> np.ndarray:
        return np.unpackbits(packed, axis=1, count=self.width).view(bool)

    def _with_nothing(self) -> np.ndarray:
        return np.concatenate((self.packed, np.zeros((1, self.packed.shape[1]), dtype=np.uint8)))
