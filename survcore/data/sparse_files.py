"""A panel in files: its ones row by row, the names of its columns, and the patterns of what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from survcore.data.frames import identifiers, refuse_duplicates
from survcore.data.messages import listed
from survcore.data.sparse_coverage import Coverage
from survcore.data.sparse_panel import Panel
from survcore.data.sparse_values import PanelValues
from survcore.data.tables import read_typed
from survcore.errors import DataError

_NUMBERS = pyarrow.large_list(pyarrow.int32())
_ROWS = pyarrow.schema([("row_id", pyarrow.string()), ("active", _NUMBERS), ("coverage", pyarrow.int32())])
_COLUMNS = pyarrow.schema([("column", pyarrow.string())])
_PATTERNS = pyarrow.schema([("missing", _NUMBERS)])


def panel_file(folder: Path, name: str) -> Path:
    """The file with the rows of a panel; the others lie beside it."""
    return folder / f"{name}.active.parquet"


def write_panel(folder: Path, name: str, row_ids: np.ndarray, columns: tuple[str, ...], panel: PanelValues) -> None:
    """Writes NAME.active.parquet, NAME.columns.parquet and NAME.coverage.parquet of the rows that have the panel."""
    present = np.flatnonzero(panel.present)
    if len(present) < len(panel):
        row_ids, panel = row_ids[present], panel.take(present)
    coverage = panel.coverage.canonical()
    active = pyarrow.LargeListArray.from_arrays(panel.ones.offsets.numpy(), panel.ones.columns.numpy())
    rows = [pyarrow.array(row_ids.tolist(), pyarrow.string()), active, pyarrow.array(coverage.numbers)]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(rows, schema=_ROWS), panel_file(folder, name))
    names = pyarrow.Table.from_arrays([pyarrow.array(columns, pyarrow.string())], schema=_COLUMNS)
    pyarrow.parquet.write_table(names, folder / f"{name}.columns.parquet")
    gaps = [(np.nonzero(~bits)[1], (~bits).sum(axis=1)) for _, bits in coverage.blocks()]
    numbers = np.concatenate([np.zeros(0, dtype=np.int32), *(places for places, _ in gaps)], dtype=np.int32)
    ends = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *(counts for _, counts in gaps)]))
    missing = pyarrow.LargeListArray.from_arrays(ends, numbers)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_arrays([missing], schema=_PATTERNS), folder / f"{name}.coverage.parquet"
    )


def read_panel(folder: Path, name: str) -> Panel:
    """What :func:`write_panel` wrote.

    Raises:
        DataError: a file that is missing or damaged, has other columns or types, or says what cannot be: a row or
            column twice, a number out of range, a 1 on an entry that the row's pattern leaves out.
    """
    file, beside = panel_file(folder, name), [folder / f"{name}.{part}.parquet" for part in ("columns", "coverage")]
    columns = _names(beside[0])
    patterns = _patterns(beside[1], len(columns))
    rows = read_typed(file, _ROWS)
    row_ids = identifiers(rows["row_id"].to_pandas(), str(file))
    refuse_duplicates(row_ids, str(file))
    numbers = rows["coverage"].to_numpy()
    _within(numbers, len(patterns.packed), f"{file}: column 'coverage'", beside[1].name)
    coverage = Coverage(numbers, patterns.packed, len(columns))
    counts, active = _lists(rows["active"])
    _within(active, len(columns), f"{file}: column 'active'", beside[0].name)
    owners = np.repeat(np.arange(len(row_ids)), counts)
    if (bare := ~coverage.holds(owners, active)).any():
        raise DataError(
            f"{file}: row {str(row_ids[owners[bare][0]])!r} has a 1 in column {columns[active[bare][0]]!r}, which its "
            f"pattern in {beside[1].name} leaves out"
        )
    return Panel.of(row_ids, columns, PanelValues.of_pairs(owners, active, coverage))


def _names(file: Path) -> tuple[str, ...]:
    names = tuple(read_typed(file, _COLUMNS)["column"].to_pylist())
    if not names:
        raise DataError(f"{file}: it names no columns")
    if not (index := pd.Index(names)).is_unique:
        raise DataError(f"{file}: duplicate column {listed(index[index.duplicated()].unique())}")
    return names


def _patterns(file: Path, width: int) -> Coverage:
    """One row per pattern."""
    counts, missing = _lists(read_typed(file, _PATTERNS)["missing"])
    _within(missing, width, f"{file}: column 'missing'", "the names of the columns")
    packed = np.tile(np.packbits(np.ones(width, dtype=bool)), (len(counts), 1))
    bits = (0xFF ^ (0x80 >> (missing & 7))).astype(np.uint8)
    np.bitwise_and.at(packed, (np.repeat(np.arange(len(counts)), counts), missing >> 3), bits)
    return Coverage(np.arange(len(counts), dtype=np.int32), packed, width)


def _lists(column: pyarrow.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of lists, int64 [n], and what they hold together, int32."""
    counts = pyarrow.compute.list_value_length(column).to_numpy().astype(np.int64)
    return counts, pyarrow.compute.list_flatten(column).to_numpy()


def _within(numbers: np.ndarray, count: int, where: str, of: str) -> None:
    if (outside := (numbers < 0) | (numbers >= count)).any():
        raise DataError(f"{where}: {int(numbers[outside][0])} is none of the {count} of {of}, counted from 0")
