"""A cohort ready for one model, and the batches drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from survcore.arguments import whole_number
from survcore.batch import Bags, Batch, ModalityInput, SparsePanel, Target
from survcore.data.arrays import transformed
from survcore.data.bag_reader import BagReader
from survcore.data.modality import Modality
from survcore.data.sparse_coverage import Coverage
from survcore.errors import DataError


@dataclass(frozen=True)
class ArrayReader:
    """Reads the arrays of one modality when a batch asks for them: tokens, images or volumes."""

    modality: Modality
    transform: str
    row_ids: np.ndarray

    def read(self, rows: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
        """Values of a batch and the mask of what exists.

        Tokens are padded to the longest of the batch: [B, T, width], mask [B, T]; a token with a NaN is masked out.
        Images and volumes are stacked: [B, \\*shape], no mask; (None, None) when no row of the batch has one.
        """
        arrays = [self._array(row) if self.modality.present[row] else None for row in rows]
        if self.modality.spec.kind == "tokens":
            return self._padded(arrays, rows)
        return self._stacked(arrays, rows), None

    def _array(self, row: int) -> Tensor:
        return transformed(self.modality.value(row), self.transform)

    def _padded(self, arrays: list[Tensor | None], rows: np.ndarray) -> tuple[Tensor, Tensor]:
        longest = max([1, *(len(array) for array in arrays if array is not None)])
        values = torch.zeros(len(arrays), longest, self.modality.spec.width)
        observed = torch.zeros(len(arrays), longest, dtype=torch.bool)
        for position, array in enumerate(arrays):
            if array is None:
                continue
            whole = ~array.isnan().any(dim=1)
            if not whole.any():
                raise self._error(rows[position], f"all {len(array)} tokens hold missing entries")
            values[position, : len(array)] = torch.where(whole[:, None], array, 0.0)
            observed[position, : len(array)] = whole
        return values, observed

    def _stacked(self, arrays: list[Tensor | None], rows: np.ndarray) -> Tensor | None:
        first = next((array for array in arrays if array is not None), None)
        if first is None:
            return None
        values = torch.zeros(len(arrays), *first.shape)
        for position, array in enumerate(arrays):
            if array is None:
                continue
            if array.shape != first.shape:
                raise self._error(
                    rows[position], f"shape {tuple(array.shape)}, while the batch has {tuple(first.shape)}"
                )
            if array.isnan().any():
                raise self._error(rows[position], "missing entries (NaN)")
            values[position] = array
        return values

    def _error(self, row: int, problem: str) -> DataError:
        return DataError(f"modality {self.modality.spec.name!r}, row {str(self.row_ids[row])!r}: {problem}")


@dataclass(frozen=True)
class PreparedCohort:
    """Model input of every row of a cohort, made by :meth:`Preprocessor.transform`.

    Attributes:
        row_ids: str [N].
        row_key: int64 [N], 64-bit keys of the row ids that seed every draw of a row.
        availability: bool [N, M] in the order of ``inputs``.
        inputs: the modalities as the model sees them.
        tables: float32 [N, width] per table, without NaN, 0 in the rows that lack the modality; of a panel that is
            still of zeros and ones the ones alone.
        observed: per table with missing entries that were not imputed, which entries are there: bool [N, width], of a
            panel that is held by its ones the patterns that rows share.
        readers: what reads arrays when a batch is made, and bags when the model asks for them.
        targets: the endpoint of all rows, or None where the cohort has no outcomes.
        weights: case weights float32 [N], or None.
        strata: int64 [N], numbers of the strata of the training rows, -1 for another; or None.
        imputed: per table and row, how many missing entries were filled from training values, int64 [N].
        extreme: by row number, what is told of tables with entries more than 20 standard deviations of the training
            rows from their mean (before the clip; scale "standard" alone); the rows without such are not listed.
    """

    row_ids: np.ndarray
    row_key: Tensor
    availability: Tensor
    inputs: tuple[ModalityInput, ...]
    tables: dict[str, Tensor | SparsePanel]
    observed: dict[str, Tensor | Coverage]
    readers: dict[str, ArrayReader | BagReader]
    targets: Target | None
    weights: Tensor | None
    imputed: dict[str, np.ndarray]
    extreme: dict[int, str] = field(default_factory=dict)
    strata: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row_key)

    def batch(
        self, index: Sequence[int] | np.ndarray | Tensor | None = None, *, max_patches: int = 0, seed: int = 0
    ) -> Batch:
        """The rows of an integer index, in its order; all rows by default.

        Text is not part of a batch; images or volumes that no row of the batch has are left out of ``values``. Bags are
        read when the model asks for them, so their errors come then.

        Args:
            index: the rows.
            max_patches: largest number of instances of a bag; a larger bag gives a subsample without replacement that
                follows from (seed, row id, modality) alone and keeps the order, and has that many instances without NaN
                where the bag does. 0 for all.
            seed: of that choice.

        Raises:
            ValueError: ``max_patches`` is no whole number of at least 0.
            DataError: an array that is damaged, holds infinite values or does not fit the others.
        """
        max_patches = whole_number("max_patches", max_patches, 0)
        rows = torch.arange(len(self)) if index is None else torch.as_tensor(index, dtype=torch.int64)
        values: dict[str, Tensor | SparsePanel | Bags] = {
            name: table.take(rows) if isinstance(table, SparsePanel) else table[rows]
            for name, table in self.tables.items()
        }
        observed = {
            name: torch.from_numpy(mask.rows(rows.numpy())) if isinstance(mask, Coverage) else mask[rows]
            for name, mask in self.observed.items()
        }
        for name, reader in self.readers.items():
            if reader.modality.spec.kind == "text":
                continue
            if isinstance(reader, BagReader):
                values[name] = reader.bags(rows.tolist(), max_patches=max_patches, seed=seed)
                continue
            arrays, mask = reader.read(rows.numpy())
            if arrays is not None:
                values[name] = arrays
            if mask is not None:
                observed[name] = mask
        return Batch(
            row_key=self.row_key[rows],
            availability=self.availability[rows],
            values=values,
            observed=observed,
            target=None if self.targets is None else _take(self.targets, rows),
            weights=None if self.weights is None else self.weights[rows],
            strata=None if self.strata is None else self.strata[rows],
        )

    def subsampled(self, max_patches: int) -> np.ndarray:
        """Where :meth:`batch` with ``max_patches`` takes a part of a bag, bool [N, M].

        Instances known to hold a missing entry do not count, so it is exact once the bags were read.
        """
        cut = np.zeros(self.availability.shape, dtype=bool)
        for column, modality in enumerate(self.inputs):
            reader = self.readers.get(modality.name)
            if max_patches and isinstance(reader, BagReader):
                cut[:, column] = reader.larger(max_patches)
        return cut

    def dropped_patches(self) -> np.ndarray:
        """Instances that the last reading of each row's bags left out for a missing entry, int64 [N]."""
        readers = [reader for reader in self.readers.values() if isinstance(reader, BagReader)]
        return sum((reader.dropped for reader in readers), np.zeros(len(self), dtype=np.int64))


def _take(target: Target, rows: Tensor) -> Target:
    entry = None if target.entry is None else target.entry[rows]
    return Target(target.time[rows], target.event[rows], target.time_bin[rows], entry)
