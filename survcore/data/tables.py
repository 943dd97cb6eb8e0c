"""Tables in files: csv and parquet, read without guessing what a row id is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from survcore.data.messages import listed
from survcore.errors import DataError

TABLE_SUFFIXES = (".csv", ".parquet")
_LARGEST_BLOCK = 2**31 - 1


def read_table(path: Path, *, text_columns: Sequence[str] | None) -> pd.DataFrame:
    """A table with its column names as they stand in the file.

    Args:
        path: a csv or parquet file.
        text_columns: columns of a csv that stay text, so that "007" and "NA" remain what they are; None keeps all so.

    Raises:
        DataError: the file cannot be read, or has the same column twice; the message names it.
    """
    try:
        table = _read_csv(path, text_columns) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as {path.suffix[1:]} (damaged or cut short?): {str(error)[:300]}"
        ) from error
    names = pd.Index(table.column_names)
    if not names.is_unique:
        raise DataError(f"{path}: duplicate column {listed(names[names.duplicated()].unique())}")
    return table.to_pandas()


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Writes csv or parquet by the suffix; numbers read back to the same bits."""
    table = pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
    if path.suffix == ".csv":
        # pandas prints the shortest digits that give the number back.
        frame.to_csv(path, index=False)
    else:
        pyarrow.parquet.write_table(table, path)


def _read_csv(path: Path, text_columns: Sequence[str] | None) -> pyarrow.Table:
    size = path.stat().st_size
    # One block: types are inferred from the whole file, and a line may be longer than the default block.
    read = pyarrow.csv.ReadOptions(block_size=min(max(size, 2**20), _LARGEST_BLOCK))
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    if text_columns is None:
        with path.open("rb") as file:
            text_columns = pyarrow.csv.open_csv(file, read, parse).schema.names
    convert = pyarrow.csv.ConvertOptions(column_types={name: pyarrow.string() for name in text_columns})
    return pyarrow.csv.read_csv(path, read, parse, convert)
