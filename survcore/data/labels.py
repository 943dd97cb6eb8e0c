"""What else the outcomes say of a row: its patient, fold, split, stratum and weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.frames import identifiers, numeric_table, refuse_duplicates, split_ids
from survcore.data.messages import counted, listed
from survcore.data.sparse_panel import Panel
from survcore.errors import DataError


def union_of_rows(modalities: Mapping[str, Any], id: str) -> np.ndarray:
    """Row ids of all modalities in the order of their first appearance: str [N]."""
    parts = []
    for name, data in modalities.items():
        what = f"modality {name!r}"
        if isinstance(data, Panel):
            parts.append(data.row_ids)
        elif isinstance(data, pd.DataFrame):
            parts.append(split_ids(data, id, what)[0])
        else:
            parts.append(identifiers(list(data), what))
    row_ids = pd.unique(pd.Series(np.concatenate(parts))).astype(str)
    if not len(row_ids):
        raise DataError("no modality has any rows")
    return row_ids


def patient_ids(outcomes: pd.DataFrame | None, column: str | None, row_ids: np.ndarray) -> np.ndarray:
    """Patient ids: str [N], the row ids where no column gives them."""
    values = _column(outcomes, column, "patient_id")
    return row_ids if values is None else identifiers(values, f"outcomes: column {values.name!r}")


def fold(outcomes: pd.DataFrame | None, given: Any, row_ids: np.ndarray, id: str) -> np.ndarray | None:
    """Folds: int64 [N], -1 where a row is in none."""
    values = _by_row(outcomes, given, row_ids, id, "fold")
    if values is None:
        return None
    numbers = numeric_table(values.to_frame(), row_ids, "folds", dtype=np.float64, infinite="keep")[:, 0]
    numbers = np.where(np.isnan(numbers), -1, numbers)
    wrong = (numbers < -1) | (numbers != np.floor(numbers)) | np.isinf(numbers)
    if wrong.any():
        raise DataError(
            f"folds are whole numbers from 0 (or missing), got {numbers[wrong][0]:g} in row {listed(row_ids[wrong])}"
        )
    return numbers.astype(np.int64)


def split(outcomes: pd.DataFrame | None, given: Any, row_ids: np.ndarray, id: str) -> np.ndarray | None:
    """Splits: str [N], "" where a row is in none."""
    values = _by_row(outcomes, given, row_ids, id, "split")
    return None if values is None else _texts(values)


def strata(outcomes: pd.DataFrame | None, column: str | None, row_ids: np.ndarray) -> np.ndarray | None:
    """Strata: str [N]; DataError where a row has none."""
    values = _column(outcomes, column, "strata")
    if values is None:
        return None
    if (missing := values.isna().to_numpy() | (values == "").to_numpy()).any():
        raise DataError(
            f"column {values.name!r}: no stratum in {counted(int(missing.sum()), 'row')}: {listed(row_ids[missing])}"
        )
    return _texts(values)


def weights(outcomes: pd.DataFrame | None, column: str | None, row_ids: np.ndarray) -> np.ndarray | None:
    """Case weights: float64 [N]; DataError unless finite and not negative."""
    values = _column(outcomes, column, "weights")
    if values is None:
        return None
    numbers = numeric_table(values.to_frame(), row_ids, "outcomes", dtype=np.float64)[:, 0]
    if (wrong := ~(numbers >= 0)).any():
        raise DataError(
            f"column {values.name!r}: weights must be known and not negative; not so in row {listed(row_ids[wrong])}"
        )
    return numbers


def _texts(values: pd.Series) -> np.ndarray:
    missing = values.isna().to_numpy() | (values == "").to_numpy()
    texts = np.full(len(values), "", dtype=object)
    if not missing.all():
        texts[~missing] = identifiers(values[~missing], "outcomes")
    return texts.astype(str)


def _column(outcomes: pd.DataFrame | None, column: str | None, default: str) -> pd.Series | None:
    if outcomes is None or (column is None and default not in outcomes.columns):
        if column is not None:
            raise DataError(f"column {column!r} is asked for, but there are no outcomes")
        return None
    column = column or default
    if column not in outcomes.columns:
        raise DataError(f"no column {column!r} in the outcomes; they have {listed(outcomes.columns, 12)}")
    return outcomes[column]


def _by_row(outcomes: pd.DataFrame | None, given: Any, row_ids: np.ndarray, id: str, what: str) -> pd.Series | None:
    if given is None or isinstance(given, str):
        return _column(outcomes, given, what)
    if isinstance(given, pd.DataFrame):
        ids, rest = split_ids(given, id, f"{what} table")
        if rest.shape[1] != 1 and what not in rest.columns:
            raise DataError(f"{what} table: expected a column {what!r}, got {listed(rest.columns)}")
        values = rest[what] if what in rest.columns else rest.iloc[:, 0]
    else:
        values = pd.Series(given)
        ids = identifiers(values.index.to_series(), f"{what} table")
        refuse_duplicates(ids, f"{what} table")
    unknown = ~np.isin(ids, row_ids)
    if unknown.any():
        raise DataError(
            f"{what} table: {counted(int(unknown.sum()), 'row')} that the cohort lacks: {listed(ids[unknown])}"
        )
    return pd.Series(values.to_numpy(), index=ids, name=what).reindex(row_ids)
