"""A panel as callers have it: who was tested for what, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.frames import identifiers, refuse_duplicates
from survcore.data.messages import counted, listed
from survcore.data.sparse_coverage import Coverage
from survcore.data.sparse_values import PanelValues
from survcore.errors import DataError


class Panel:
    """A table of zeros and ones given by its ones, for :meth:`survcore.data.Cohort.from_frames`.

    ``Panel(["p1", "p2"], ["TP53", "KRAS"], [(0, 1)])`` says that p1 and p2 were tested for two genes, and that p1 has
    KRAS mutated. Patients who were not tested are not among the rows. Where not everyone was tested for everything,
    ``assays`` names each row's assay and ``covered`` the columns that an assay covers; the other entries are missing::

        Panel(rows, columns, pairs, assays=["small", "large"], covered={"small": ["TP53"], "large": columns})

    Args:
        rows: row ids [n], each once.
        columns: names of the columns [width], each once.
        pairs: int [active, 2], the place in ``rows`` and the place in ``columns`` of every 1, in any order; a pair that
            comes twice counts once.
        assays: label of the assay of each row [n]; None where every row is covered whole.
        covered: by label, names of the columns that the assay covers, or a bool mask [width].

    Raises:
        DataError: ids or columns that are missing or come twice; pairs of another shape or out of range, or on an entry
            that the row's assay does not cover; an assay of which ``covered`` does not tell, or unknown columns in it.
    """

    def __init__(
        self,
        rows: Sequence[Any] | np.ndarray | pd.Series,
        columns: Sequence[str],
        pairs: Sequence[tuple[int, int]] | np.ndarray,
        *,
        assays: Sequence[Any] | np.ndarray | pd.Series | None = None,
        covered: Mapping[Any, Any] | None = None,
    ) -> None:
        self.row_ids = identifiers(np.asarray(rows), "panel")
        refuse_duplicates(self.row_ids, "panel")
        self.columns = tuple(map(str, columns))
        if not self.columns:
            raise DataError("panel: no columns are given")
        if not (index := pd.Index(self.columns)).is_unique:
            raise DataError(f"panel: duplicate column {listed(index[index.duplicated()].unique())}")
        if (assays is None) != (covered is None):
            raise DataError(
                "panel: assays (one per row) and covered (columns by assay) are given together or not at all"
            )
        if assays is None:
            coverage = Coverage.everywhere(len(self.row_ids), len(self.columns))
        else:
            coverage = self._coverage(np.asarray(assays), covered)
        self.values = PanelValues.of_pairs(*self._places(pairs, coverage), coverage)

    @classmethod
    def of(cls, row_ids: np.ndarray, columns: Sequence[str], values: PanelValues) -> Panel:
        """Of values [n, width] that are checked, row ids str [n] and names of columns [width]."""
        panel = cls.__new__(cls)
        panel.row_ids, panel.columns, panel.values = row_ids, tuple(columns), values
        return panel

    def __repr__(self) -> str:
        ones = len(self.values.ones.columns)
        return f"Panel({counted(len(self.row_ids), 'row')}, {counted(len(self.columns), 'column')}, {ones} of them 1)"

    def _coverage(self, assays: np.ndarray, covered: Mapping[Any, Any]) -> Coverage:
        if assays.shape != self.row_ids.shape:
            raise DataError(f"panel: expected an assay per row ({len(self.row_ids)}), got shape {list(assays.shape)}")
        labels = list(covered)
        numbers = pd.Index(labels, dtype=object).get_indexer(pd.Index(assays, dtype=object))
        if (unknown := numbers < 0).any():
            raise DataError(
                f"panel: row {str(self.row_ids[unknown][0])!r} has assay {str(assays[unknown][0])!r}, but covered "
                f"tells of {listed(labels, 20)}"
            )
        patterns = np.zeros((len(labels), len(self.columns)), dtype=bool)
        place = {column: number for number, column in enumerate(self.columns)}
        for pattern, label in zip(patterns, labels, strict=True):
            given = covered[label]
            if isinstance(given, np.ndarray) and given.dtype == bool:
                if given.shape != pattern.shape:
                    raise DataError(
                        f"panel: covered[{label!r}]: expected a mask of {len(pattern)} columns, got shape "
                        f"{list(given.shape)}"
                    )
                pattern[:] = given
                continue
            names = [given] if isinstance(given, str) else [str(name) for name in given]
            if unknown_names := [name for name in names if name not in place]:
                raise DataError(f"panel: covered[{label!r}] names columns that are not there: {listed(unknown_names)}")
            pattern[[place[name] for name in names]] = True
        return Coverage.of_patterns(numbers, patterns)

    def _places(self, pairs: Any, coverage: Coverage) -> tuple[np.ndarray, np.ndarray]:
        pairs = np.asarray(pairs)
        if pairs.size == 0:
            pairs = np.zeros((0, 2), dtype=np.int64)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
            raise DataError(
                f"panel: pairs are whole numbers [active, 2], got {pairs.dtype} of shape {list(pairs.shape)}"
            )
        if pairs.dtype not in (np.int32, np.int64):
            pairs = pairs.astype(np.int64)
        for places, count, what in zip(pairs.T, (len(self.row_ids), len(self.columns)), ("row", "column"), strict=True):
            if (outside := (places < 0) | (places >= count)).any():
                raise DataError(
                    f"panel: pair number {int(outside.argmax())} names {what} {int(places[outside][0])} of {count} "
                    "(counted from 0)"
                )
        rows, columns = pairs.T
        if (bare := ~coverage.holds(rows, columns)).any():
            raise DataError(
                f"panel: row {str(self.row_ids[rows[bare][0]])!r} has a 1 in column "
                f"{self.columns[columns[bare][0]]!r}, which its assay does not cover ({int(bare.sum())} such pairs)"
            )
        return rows, columns
