"""The values of a panel: its ones, and which of its entries were measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from survcore.batch import SparsePanel
from survcore.data.sparse_coverage import Coverage

# Entries of a table that are written out at a time.
_WRITTEN_OUT = 1 << 20


@dataclass(frozen=True, eq=False)
class PanelValues:
    """A table [N, width] of zeros, ones and missing entries: four bytes per one and a dozen per row.

    Attributes:
        ones: the entries that are 1, on the CPU, with int32 columns; all of them are covered.
        coverage: the entries that are not missing.
    """

    ones: SparsePanel
    coverage: Coverage

    @classmethod
    def of_pairs(cls, rows: np.ndarray, columns: np.ndarray, coverage: Coverage) -> PanelValues:
        """Of the row and column numbers of every 1, int [active], in any order; one that comes twice counts once."""
        count, width = len(coverage), coverage.width
        keys = rows.astype(np.int64)
        keys *= width
        keys += columns
        if not (keys[1:] > keys[:-1]).all():
            keys.sort()
            keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        offsets = np.searchsorted(keys, np.arange(count + 1, dtype=np.int64) * width)
        keys -= np.repeat(np.arange(count, dtype=np.int64) * width, np.diff(offsets))
        ones = SparsePanel(torch.from_numpy(keys.astype(np.int32)), torch.from_numpy(offsets), width)
        return cls(ones, coverage)

    @classmethod
    def of_table(cls, table: np.ndarray) -> PanelValues:
        """Of float32 [N, width] of 0, 1 and NaN."""
        coverage = Coverage.of_bits(np.packbits(~np.isnan(table), axis=1), table.shape[1])
        return cls.of_pairs(*np.nonzero(table == 1), coverage)

    @classmethod
    def nowhere(cls, rows: int, width: int) -> PanelValues:
        """Rows without any entry."""
        coverage = Coverage.of_patterns(np.zeros(rows, dtype=np.int32), np.zeros((1, width), dtype=bool))
        return cls.of_pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), coverage)

    def __len__(self) -> int:
        return len(self.ones)

    @property
    def width(self) -> int:
        return self.ones.width

    @property
    def present(self) -> np.ndarray:
        """Rows with any entry: bool [N]."""
        return self.coverage.counts > 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        numpy = (self.coverage.numbers, self.coverage.packed)
        return self.ones.columns.nbytes + self.ones.offsets.nbytes + sum(part.nbytes for part in numpy)

    def table(self, rows: slice = slice(None)) -> np.ndarray:
        """The table of a slice of rows, float32 [n, width] with NaN where an entry is missing."""
        values = self.ones.take(rows).dense().numpy()
        values[~self.coverage.rows(rows)] = np.nan
        return values

    def tables(self) -> Iterator[tuple[slice, np.ndarray]]:
        """:meth:`table` of all rows, some at a time."""
        size = max(1, _WRITTEN_OUT // self.width)
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self.table(rows)

    def column_ones(self) -> np.ndarray:
        """Rows that are 1, per column: int64 [width]."""
        return np.bincount(self.ones.columns.numpy(), minlength=self.width)

    def take(self, index: np.ndarray) -> PanelValues:
        """The rows of an integer index, in its order."""
        index = np.ascontiguousarray(index, dtype=np.int64)
        return PanelValues(self.ones.take(torch.from_numpy(index)), self.coverage.take(index))

    def placed(self, positions: np.ndarray, count: int) -> PanelValues:
        """Row k at ``positions[k]`` of ``count`` rows; the others have no entry."""
        if len(positions) == count and (positions == np.arange(count)).all():
            return self
        counts = np.zeros(count, dtype=np.int64)
        counts[positions] = np.diff(self.ones.offsets.numpy())
        ones = self.ones.take(torch.from_numpy(np.argsort(positions)))
        offsets = torch.from_numpy(np.concatenate(([0], np.cumsum(counts))))
        return PanelValues(SparsePanel(ones.columns, offsets, self.width), self.coverage.placed(positions, count))

    def without(self, rows: np.ndarray) -> PanelValues:
        """The same without any entry where the bool mask ``rows`` [N] is set."""
        kept = np.flatnonzero(~rows)
        return self.take(kept).placed(kept, len(self))

    def columns(self, places: np.ndarray) -> PanelValues:
        """Other columns: ``places`` [new width] are their old places, -1 for one that is missing everywhere."""
        if len(places) == self.width and (places == np.arange(self.width)).all():
            return self
        new = np.full(self.width, -1, dtype=np.int64)
        new[places[places >= 0]] = np.flatnonzero(places >= 0)
        columns = new[self.ones.columns.numpy()]
        kept = columns >= 0
        return PanelValues.of_pairs(self._row_numbers()[kept], columns[kept], self.coverage.columns(places))

    def filled(self, fill: np.ndarray) -> SparsePanel | None:
        """The ones once missing entries became ``fill`` [width], or None where that is neither 0 nor 1 for one of them.

        Rows without any entry stay without.
        """
        counts = self.coverage.counts
        gaps = (counts > 0) & (counts < self.width)
        if not gaps.any():
            return self.ones
        index = np.flatnonzero(gaps)
        missing = self.coverage.take(index).column_counts() < len(index)
        if not np.isin(fill[missing], (0.0, 1.0)).all():
            return None
        rows, columns = [self._row_numbers()], [self.ones.columns.numpy()]
        for column in np.flatnonzero(missing & (fill == 1)):
            rows.append(index[~self.coverage.holds(index, column)])
            columns.append(np.full(len(rows[-1]), column))
        if len(rows) == 1:
            return self.ones
        return PanelValues.of_pairs(np.concatenate(rows), np.concatenate(columns), self.coverage).ones

    def _row_numbers(self) -> np.ndarray:
        """Row of every 1, int64 [active]."""
        return np.repeat(np.arange(len(self)), np.diff(self.ones.offsets.numpy()))
