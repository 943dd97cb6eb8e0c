"""The columns of a table of patients: which entry of which modality each one holds, and their cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from survcore.data.messages import listed, nearest_listed
from survcore.data.modality import ModalitySpec
from survcore.data.preprocessor import Preprocessor
from survcore.errors import DataError
from survcore.inference.patient_values import (
    PATIENT_ID,
    ROW_ID,
    array_item,
    expected_range,
    label,
    missing_columns,
    out_of_range,
    shortened,
    text,
)

if TYPE_CHECKING:
    import pandas as pd

# What an empty cell is in a csv column of numbers; where one cell is text, the others come as text too.
_EMPTY = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA", "NULL"]
    + ["NaN", "n/a", "nan", "null"]
)
Found = tuple[list[str], list[str], dict[str, np.ndarray], dict[str, np.ndarray], dict[int, str]]


def read_columns(preprocessor: Preprocessor, frame: pd.DataFrame, folder: Path) -> Found:
    """What :func:`survcore.inference.patients.read_table` assembles.

    Returns:
        Row ids and patient ids [n]; tables, float32 [n, width] by modality; arrays and texts, object [n] by modality;
        and the errors by position. A modality of which no column is there is in neither dict.
    """
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        raise DataError(f"duplicate column {listed(frame.columns[frame.columns.duplicated()].unique())}")
    targets = _targets(preprocessor, [name for name in frame.columns if name not in (ROW_ID, PATIENT_ID)])
    row_ids, patient_ids, errors = _labels(frame)
    tables, items = {}, {}
    for name, columns in targets.items():
        spec = preprocessor.specs[name]
        if spec.is_table:
            missing = [column for column in spec.columns if column not in columns]
            if missing and preprocessor.imputes:
                raise DataError(f"modality {name!r}: {missing_columns(missing, spec.width)}")
            tables[name] = _table(frame, spec, columns, row_ids, errors)
        else:
            items[name] = _items(frame[columns[name]], spec, folder, row_ids, errors)
    return row_ids, patient_ids, tables, items, errors


def _targets(preprocessor: Preprocessor, header: list[str]) -> dict[str, dict[str, str]]:
    """By modality the table's columns: the name in the header by the model's column (of arrays and text: the modality).

    Raises:
        DataError: a column that the model does not know, that several of its tables have, or that is given twice.
    """
    owners: dict[str, list[tuple[str, str]]] = {}
    # Columns that the model knows and does not read are nobody's error.
    known = {name: (*scaler.columns, *scaler.ignored) for name, scaler in preprocessor.tables.items()}
    for name, columns in known.items():
        for column in columns:
            owners.setdefault(column, []).append((name, column))
    # A name with its modality, and that of an array, stand before a column that happens to be called so.
    for name in preprocessor.specs:
        if name in known:
            owners |= {f"{name}.{column}": [(name, column)] for column in known[name]}
        else:
            owners[name] = [(name, name)]
    if unknown := [name for name in header if name not in owners]:
        raise DataError(
            f"the model does not know {len(unknown)} of the table's columns: {nearest_listed(unknown, owners)}"
        )
    found: dict[str, dict[str, str]] = {}
    for name in header:
        if len(owners[name]) > 1:
            raise DataError(
                f"column {name!r} stands in several of the model's tables; write one of "
                f"{listed(f'{modality}.{column}' for modality, column in owners[name])}"
            )
        modality, column = owners[name][0]
        columns = found.setdefault(modality, {})
        if column in columns:
            raise DataError(f"columns {columns[column]!r} and {name!r} mean the same; keep one")
        columns[column] = name
    return found


def _labels(frame: pd.DataFrame) -> tuple[list[str], list[str], dict[int, str]]:
    """Row ids, patient ids, and the errors of lines whose ids cannot be or are not the first of their kind."""
    row_ids, patient_ids, errors, seen = [], [], {}, set()
    given = _ids(frame, ROW_ID)
    if given is None and (frame.index.name == ROW_ID or frame.index.dtype.kind not in "iuf"):
        given = frame.index.to_list()
    groups = _ids(frame, PATIENT_ID)
    for position in range(len(frame)):
        row_id = patient_id = f"row {position + 1}"
        try:
            row_id = patient_id = label(None if given is None else given[position], row_id, f"{row_id}: {ROW_ID}")
            if row_id in seen:
                raise DataError(f"duplicate row id {row_id!r}: an earlier patient has it")
            patient_id = label(
                None if groups is None else groups[position], row_id, f"patient {row_id!r}: {PATIENT_ID}"
            )
        except DataError as error:
            errors[position] = str(error)
        seen.add(row_id)
        row_ids.append(row_id)
        patient_ids.append(patient_id)
    return row_ids, patient_ids, errors


def _ids(frame: pd.DataFrame, column: str) -> list[Any] | None:
    """The cells of a column of ids, None where one is empty; or None where there is no such column."""
    if column not in frame.columns:
        return None
    cells = frame[column]
    # A gap makes numbers of a column floating point.
    whole = cells.dtype.kind == "f" and (cells.dropna() % 1 == 0).all()
    return [
        None if absent else int(cell) if whole else cell
        for cell, absent in zip(cells.to_list(), cells.isna(), strict=True)
    ]


def _table(
    frame: pd.DataFrame, spec: ModalitySpec, columns: dict[str, str], row_ids: list[str], errors: dict[int, str]
) -> np.ndarray:
    """Values of one modality, float32 [n, width]; lines with a wrong cell are told in ``errors``."""
    panel = spec.kind == "panel"
    places = np.array([place for place, column in enumerate(spec.columns) if column in columns], dtype=np.int64)
    part = frame[[columns[spec.columns[place]] for place in places]].reset_index(drop=True)
    numeric = np.array([dtype.kind in ("biuf" if panel else "iuf") for dtype in part.dtypes], dtype=bool)
    values = np.full((len(frame), spec.width), np.nan, dtype=np.float32)
    # Whole numbers beyond float32, and text that is none, are told below, cell by cell.
    with np.errstate(over="ignore", invalid="ignore"):
        if numeric.any():
            block = part.loc[:, numeric].to_numpy(dtype=np.float64, na_value=np.nan)
            values[:, places[numeric]] = block.astype(np.float32)
        odd = np.zeros(values.shape, dtype=bool)
        for place, column in zip(places[~numeric], part.columns[~numeric], strict=True):
            cells, odd[:, place] = _numbers(part[column], panel)
            values[:, place] = cells.astype(np.float32)
    wrong = odd | out_of_range(values, panel)
    for row in np.flatnonzero(wrong.any(axis=1)).tolist():
        place = int(wrong[row].argmax())
        column = spec.columns[place]
        expected = "expected a number" if odd[row, place] else expected_range(panel)
        errors.setdefault(
            row,
            f"patient {row_ids[row]!r}, modality {spec.name!r}, column {column!r}: {expected}, got "
            f"{shortened(part[columns[column]].iloc[row])}",
        )
    return values


def _numbers(cells: pd.Series, panel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a column that is not numeric as float64 [n], and which of them are no numbers, bool [n]."""
    import pandas as pd

    cells = cells.astype(object)
    empty = cells.isna() | cells.map(lambda cell: isinstance(cell, str) and cell.strip() in _EMPTY)
    boolean = cells.map(lambda cell: isinstance(cell, bool | np.bool_))
    # Of other objects pandas would make numbers too (dates count nanoseconds).
    known = cells.map(lambda cell: isinstance(cell, str | int | float | np.number)) & (~boolean | panel)
    values = pd.to_numeric(cells.where(known & ~empty, None), errors="coerce").astype(np.float64).to_numpy()
    # Text such as "nan" reads as a number that is none.
    return values, (~empty & np.isnan(values)).to_numpy()


def _items(
    cells: pd.Series, spec: ModalitySpec, folder: Path, row_ids: list[str], errors: dict[int, str]
) -> np.ndarray:
    """Arrays or texts of one modality, object [n]; what cannot be read is told in ``errors``."""
    found = np.full(len(cells), None, dtype=object)
    for position, (cell, empty) in enumerate(zip(cells.to_list(), cells.isna(), strict=True)):
        if empty or position in errors:
            continue
        where = f"patient {row_ids[position]!r}, modality {spec.name!r}"
        try:
            found[position] = text(cell, where) if spec.kind == "text" else _from_file(cell, spec, folder, where)
        except DataError as error:
            errors[position] = str(error)
    return found


def _from_file(cell: Any, spec: ModalitySpec, folder: Path, where: str) -> Any:
    if not isinstance(cell, str | Path):
        raise DataError(f"{where}: expected the path of an array file, got {shortened(cell)}")
    return array_item(cell, spec, folder, where)
