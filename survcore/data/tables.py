"""Tables in files: csv and parquet, read without guessing what a row id is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.compute
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
        raise _unreadable(path, error) from error
    names = pd.Index(table.column_names)
    if not names.is_unique:
        raise DataError(f"{path}: duplicate column {listed(names[names.duplicated()].unique())}")
    return table.to_pandas()


def read_typed(path: Path, schema: pyarrow.Schema) -> pyarrow.Table:
    """The columns of a schema out of a parquet file, in its types and without nulls.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or has one of another type or with nulls.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    if lacking := [name for name in schema.names if name not in table.column_names]:
        raise DataError(f"{path}: no column {listed(lacking)}; the columns are {listed(table.column_names)}")
    try:
        table = table.select(schema.names).cast(schema)
    except (pyarrow.ArrowException, ValueError) as error:
        found = ", ".join(f"{name} {table.schema.field(name).type}" for name in schema.names)
        expected = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise DataError(f"{path}: expected the columns {expected}, got {found}: {str(error)[:300]}") from error
    for name, column in zip(schema.names, table.columns, strict=True):
        nested = pyarrow.types.is_large_list(column.type)
        if column.null_count or (nested and pyarrow.compute.list_flatten(column).null_count):
            raise DataError(f"{path}: column {name!r} has missing values")
    return table


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Writes csv or parquet by the suffix; numbers read back to the same bits."""
    table = pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
    if path.suffix == ".csv":
        # pandas prints the shortest digits that give the number back.
        frame.to_csv(path, index=False)
    else:
        pyarrow.parquet.write_table(table, path)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as {path.suffix[1:]} (damaged or cut short?): {str(error)[:300]}")


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
