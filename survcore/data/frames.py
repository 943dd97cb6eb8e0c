"""Row ids and numbers out of pandas frames, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from survcore.data.messages import listed
from survcore.errors import DataError


def split_ids(frame: pd.DataFrame, id: str, what: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Row ids (the column ``id``, else the index) and the other columns; DataError for duplicate ids or columns."""
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        raise DataError(f"{what}: duplicate column {listed(frame.columns[frame.columns.duplicated()].unique())}")
    if id in frame.columns:
        ids, frame = frame[id], frame.drop(columns=id)
    elif isinstance(frame.index, pd.RangeIndex) and frame.index.name != id:
        raise DataError(f"{what}: no column {id!r} and no index of row ids; the columns are {listed(frame.columns)}")
    else:
        ids = frame.index.to_series()
    row_ids = identifiers(ids, what)
    refuse_duplicates(row_ids, what)
    return row_ids, frame


def identifiers(values: Any, what: str) -> np.ndarray:
    """Ids as a str array [n]; whole numbers lose their decimal point; DataError where one is missing or empty."""
    series = pd.Series(values)
    missing = series.isna().to_numpy() | (series == "").to_numpy()
    if missing.any():
        raise DataError(
            f"{what}: missing id in line {', '.join(str(line + 1) for line in np.flatnonzero(missing)[:5])} of the rows"
        )
    if series.dtype.kind == "f" and (series % 1 == 0).all():
        series = series.astype(np.int64)
    return np.array(series.astype(str), dtype=str)


def refuse_duplicates(row_ids: np.ndarray, what: str) -> None:
    """Raises DataError naming the ids that occur more than once."""
    index = pd.Index(row_ids)
    if not index.is_unique:
        raise DataError(
            f"{what}: duplicate row id {listed(index[index.duplicated()].unique())}; "
            "an id stands for one row (several rows of a patient share a patient_id)"
        )


def numeric_table(
    frame: pd.DataFrame, row_ids: np.ndarray, what: str, *, dtype: type = np.float32, infinite: str = "refuse"
) -> np.ndarray:
    """Values of numeric columns [n, width], NaN where missing.

    Raises:
        DataError: a column that is not numeric (named with its first bad value), or an infinite value unless
            ``infinite`` is "keep".
    """
    frame = frame.reset_index(drop=True)
    kinds = np.array([column.kind for column in frame.dtypes])
    for position in np.flatnonzero(~np.isin(kinds, list("biuf"))):
        name = frame.columns[position]
        frame.isetitem(position, _as_numbers(frame.iloc[:, position], row_ids, f"{what}: column {name!r}"))
    with np.errstate(over="ignore"):
        table = frame.to_numpy(dtype=dtype, na_value=np.nan)
    if infinite == "refuse" and np.isinf(table).any():
        row, column = np.argwhere(np.isinf(table))[0]
        raise DataError(
            f"{what}: infinite value (or one beyond float32) in row {str(row_ids[row])!r}, "
            f"column {frame.columns[column]!r}"
        )
    return table


def _as_numbers(values: pd.Series, row_ids: np.ndarray, what: str) -> pd.Series:
    if values.dtype.kind not in "OSU":
        raise DataError(
            f"{what} is not numeric but {values.dtype}; the first value is {values.iloc[0]!r} (row {str(row_ids[0])!r})"
        )
    numbers = pd.to_numeric(values.astype(object), errors="coerce")
    bad = (numbers.isna() & values.notna()).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{what} is not numeric: {values.iloc[row]!r} in row {str(row_ids[row])!r}")
    return numbers.astype(np.float64)
