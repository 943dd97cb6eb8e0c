"""A panel out of a data frame, without a dense table of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from survcore.data.frames import numeric_table
from survcore.data.sparse_coverage import Coverage
from survcore.data.sparse_values import PanelValues
from survcore.errors import DataError

# Entries of a dense frame that are looked at at a time.
_LOOKED_AT = 1 << 24
_Places = tuple[np.ndarray, np.ndarray]


def panel_of_frame(frame: pd.DataFrame, row_ids: np.ndarray, what: str) -> PanelValues:
    """Values of the frame's rows in their order; of columns of a sparse dtype only what they store is read.

    Args:
        frame: [n, width], dense or sparse columns of 0, 1 and missing values.
        row_ids: str [n], for errors.
        what: names the modality in errors.

    Raises:
        DataError: a column that is not numeric, or a value that is neither 0 nor 1.
    """
    width = frame.shape[1]
    rows, columns = [], []
    missing: np.ndarray | None = None
    for first, ones, gaps in _parts(frame, row_ids, what):
        rows.append(ones[0])
        columns.append(ones[1] + first)
        if len(gaps[0]):
            if missing is None:
                missing = np.zeros((len(frame), -(-width // 8)), dtype=np.uint8)
            places = gaps[1] + first
            np.bitwise_or.at(missing, (gaps[0], places >> 3), (0x80 >> (places & 7)).astype(np.uint8))
    coverage = Coverage.everywhere(len(frame), width)
    if missing is not None:
        coverage = Coverage.of_bits(coverage.packed & ~missing, width)
    return PanelValues.of_pairs(np.concatenate(rows), np.concatenate(columns), coverage)


def require_binary(table: np.ndarray, row_ids: np.ndarray, columns: Sequence[str], what: str) -> None:
    """Raises DataError naming row and column unless every value of a table [n, width] is 0, 1 or NaN."""
    odd = ~(np.isnan(table) | (table == 0) | (table == 1))
    if odd.any():
        row, column = np.argwhere(odd)[0]
        raise DataError(
            f"{what}: kind 'panel' holds 0, 1 or missing entries, got {table[row, column]:g} in "
            f"row {str(row_ids[row])!r}, column {columns[column]!r}; declare the kind 'vector' for other values"
        )


def _parts(frame: pd.DataFrame, row_ids: np.ndarray, what: str) -> Iterator[tuple[int, _Places, _Places]]:
    """Some columns at a time: the number of the first, and (rows, columns counted from it) of the ones and the gaps."""
    size, width = max(1, _LOOKED_AT // max(1, len(frame))), frame.shape[1]
    stored = [isinstance(dtype, pd.SparseDtype) and dtype.kind in "biuf" for dtype in frame.dtypes]
    first = 0
    while first < width:
        if stored[first]:
            found = _stored(frame.iloc[:, first], row_ids, what)
            last = first + 1
        else:
            last = next((place for place in range(first, min(first + size, width)) if stored[place]), None)
            last = min(first + size, width) if last is None else last
            found = _dense(frame.iloc[:, first:last], row_ids, what)
        yield first, *found
        first = last


def _dense(frame: pd.DataFrame, row_ids: np.ndarray, what: str) -> tuple[_Places, _Places]:
    table = numeric_table(frame, row_ids, what)
    require_binary(table, row_ids, frame.columns, what)
    return np.nonzero(table == 1), np.nonzero(np.isnan(table))


def _stored(column: pd.Series, row_ids: np.ndarray, what: str) -> tuple[_Places, _Places]:
    """Of one column of a sparse dtype, from the entries that it stores where the others are 0 or missing."""
    array = column.array
    fill = array.fill_value
    if not (pd.isna(fill) or fill == 0):
        return _dense(column.sparse.to_dense().to_frame(), row_ids, what)
    rows = array.sp_index.to_int_index().indices
    values = np.asarray(array.sp_values, dtype=np.float32)
    require_binary(values[:, None], row_ids[rows], [column.name], what)
    gaps = rows[np.isnan(values)]
    if pd.isna(fill):
        elsewhere = np.ones(len(column), dtype=bool)
        elsewhere[rows] = False
        gaps = np.concatenate((gaps, np.flatnonzero(elsewhere)))
    ones = rows[values == 1]
    return (ones, np.zeros(len(ones), dtype=np.int32)), (gaps, np.zeros(len(gaps), dtype=np.int32))
