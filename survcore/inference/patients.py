"""Patients as callers have them, records or a table, made into a cohort for prediction.

A patient who cannot be read is an error of that patient and hurts no other. Nothing here asks for outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from survcore.data.cohort import Cohort
from survcore.data.messages import listed, nearest_listed
from survcore.data.modality import Modality
from survcore.data.preprocessor import Preprocessor
from survcore.errors import DataError
from survcore.inference.patient_table import read_columns
from survcore.inference.patient_values import PATIENT_ID, ROW_ID, array_item, label, shortened, table_row, text

if TYPE_CHECKING:
    import pandas as pd


_LONGEST_ERROR = 1000


@dataclass(frozen=True)
class Patients:
    """Patients to predict for, and those who cannot be read.

    Attributes:
        row_ids: str [n], in the order given, also of those that failed.
        errors: by position, why this patient cannot be read.
        cohort: the others, in order; None where there are none.
    """

    row_ids: np.ndarray
    errors: dict[int, str]
    cohort: Cohort | None

    def __len__(self) -> int:
        return len(self.row_ids)


def read_records(
    preprocessor: Preprocessor, records: Iterable[Mapping[str, Any]], *, first: int = 0, folder: Path = Path()
) -> Patients:
    """Patients out of records, as JSON objects or dicts hold them.

    A record has ``row_id`` (text or a whole number; where it is absent, null or blank the row id is ``row 1`` for the
    first record, and so on), may have ``patient_id``, and by the name of a modality the patient's value of it, null or
    absent where there is none:

    - tables (vector, panel, embedding, tokens in groups): numbers or null by column, or an array of numbers in the
      model's order of columns; null and NaN are missing entries, and true and false are numbers in panels alone;
    - token arrays, bags, images, volumes: the path of an array file, nested lists, a NumPy array or a tensor, or
      ``features`` and ``coords`` of such;
    - text: a string.

    A modality of which nothing but missing entries is given is absent. A column that is not given is a missing entry
    where the model takes such (``preprocessor.imputes`` is False).

    Args:
        preprocessor: of the model.
        records: read once, one after the other. A :class:`~survcore.errors.DataError` in place of a record is the
            error of a patient of whom nothing could be read.
        first: how many patients came before, for row ids that are counted.
        folder: where relative paths begin.

    Returns:
        Every record's row id, and as errors: what is no mapping, an unknown key, modality or column (with the nearest
        names), a missing column, another width, a value that is no number, infinite, or in a panel other than 0 and 1,
        a file that is missing or damaged, no modality at all, and a row id that an earlier record has.
    """
    rows = _Rows(preprocessor, folder)
    for position, record in enumerate(records):
        rows.add(record, f"row {first + position + 1}")
    return rows.patients()


def _told(error: Exception) -> str:
    """An error as a column shows it, whatever its size."""
    text = str(error)
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]} ..."


def read_table(preprocessor: Preprocessor, frame: pd.DataFrame, *, folder: Path = Path()) -> Patients:
    """Patients out of a table with one line each.

    Columns: ``row_id`` (or an index of that name or of texts; else, and where a cell is empty, ``row 1`` and so on),
    ``patient_id`` if wanted; ``MODALITY.COLUMN`` for tables, or ``COLUMN`` alone where one table of the model has it;
    and a column named like the modality for text and for array files. An empty cell is a missing entry, and a patient
    whose cells of a modality are all empty lacks it. A modality of which no column is there is lacking in everybody.

    Args:
        preprocessor: of the model.
        frame: the table.
        folder: where relative paths begin.

    Returns:
        Every line's row id, and as errors: a cell that is no number, infinite, or in a panel other than 0 and 1, a file
        that is missing or damaged, no modality at all, and a row id that an earlier line has.

    Raises:
        DataError: columns that are duplicate, that the model does not know (with the nearest names) or that several of
            its tables have; a missing column where the model takes no missing entries.
    """
    row_ids, patient_ids, tables, items, errors = read_columns(preprocessor, frame, folder)
    return assembled(preprocessor, row_ids, patient_ids, tables, items, errors)


class _Rows:
    """Records read so far."""

    def __init__(self, preprocessor: Preprocessor, folder: Path) -> None:
        self._preprocessor = preprocessor
        self._folder = folder
        self._gaps = not preprocessor.imputes
        self._known = (*preprocessor.specs, ROW_ID, PATIENT_ID)
        self._ids: dict[str, None] = {}
        self._row_ids: list[str] = []
        self._patient_ids: list[str] = []
        self._values: list[dict[str, Any]] = []
        self._errors: dict[int, str] = {}

    def add(self, record: Any, otherwise: str) -> None:
        """One more record, ``otherwise`` its row id where it has none."""
        row_id, values = otherwise, {}
        try:
            if isinstance(record, DataError):
                raise record
            if not isinstance(record, Mapping):
                raise DataError(
                    f"{otherwise}: expected an object with the patient's modalities, got {shortened(record)}"
                )
            row_id = label(record.get(ROW_ID), otherwise, f"{otherwise}: {ROW_ID}")
            if row_id in self._ids:
                raise DataError(f"duplicate row id {row_id!r}: an earlier patient has it")
            patient_id = label(record.get(PATIENT_ID), row_id, f"patient {row_id!r}: {PATIENT_ID}")
            values = self._read(record, row_id)
        except (DataError, TypeError, ValueError, RuntimeError) as error:  # what a caller's objects may raise
            self._errors[len(self._row_ids)] = _told(error)
            patient_id = row_id
        self._ids[row_id] = None
        self._row_ids.append(row_id)
        self._patient_ids.append(patient_id)
        self._values.append(values)

    def patients(self) -> Patients:
        """All of them."""
        tables: dict[str, np.ndarray] = {}
        items: dict[str, np.ndarray] = {}
        for name, spec in self._preprocessor.specs.items():
            given = {place: values[name] for place, values in enumerate(self._values) if name in values}
            if not given:
                continue
            if spec.is_table:
                column = tables[name] = np.full((len(self._values), spec.width), np.nan, dtype=np.float32)
            else:
                column = items[name] = np.full(len(self._values), None, dtype=object)
            for place, value in given.items():
                column[place] = value
        return assembled(self._preprocessor, self._row_ids, self._patient_ids, tables, items, self._errors)

    def _read(self, record: Mapping[str, Any], row_id: str) -> dict[str, Any]:
        """The patient's modalities: a line of a table, an array or a text each."""
        if unknown := [key for key in record if key not in self._known]:
            raise DataError(
                f"patient {row_id!r}: unknown {nearest_listed(unknown, self._known, 3)}; a record holds {ROW_ID} and "
                f"the modalities {listed(self._preprocessor.specs, 20)}"
            )
        found = {}
        for name, spec in self._preprocessor.specs.items():
            value = record.get(name)
            if value is None:
                continue
            where = f"patient {row_id!r}, modality {name!r}"
            if spec.is_table:
                read: Any = table_row(value, spec, self._preprocessor.tables[name], self._gaps, where)
            elif spec.kind == "text":
                read = text(value, where)
            else:
                read = array_item(value, spec, self._folder, where)
            if read is not None:
                found[name] = read
        return found


def assembled(
    preprocessor: Preprocessor,
    row_ids: Sequence[str],
    patient_ids: Sequence[str],
    tables: Mapping[str, np.ndarray],
    items: Mapping[str, np.ndarray],
    errors: Mapping[int, str],
) -> Patients:
    """Patients out of values that are checked.

    Args:
        preprocessor: of the model.
        row_ids, patient_ids: n of them.
        tables: float32 [n, width] by modality, NaN where an entry is missing.
        items: arrays and texts by modality, object [n], None where there is none.
        errors: of patients that are left out of the cohort; those without a modality are added.
    """
    count, errors = len(row_ids), dict(errors)
    present = {name: ~np.isnan(table).all(axis=1) for name, table in tables.items()}
    present |= {name: np.array([item is not None for item in column], dtype=bool) for name, column in items.items()}
    bare = ~np.any(list(present.values()), axis=0) if present else np.ones(count, dtype=bool)
    for position in np.flatnonzero(bare).tolist():
        errors.setdefault(
            position,
            f"patient {row_ids[position]!r}: no modality is there; the model takes {listed(preprocessor.specs, 20)}",
        )
    ids = np.array(row_ids, dtype=str)
    kept = np.array([position for position in range(count) if position not in errors], dtype=np.int64)
    if not len(kept):
        return Patients(ids, errors, None)
    modalities = {
        name: Modality(spec, present[name], tables.get(name), items.get(name))
        for name, spec in preprocessor.specs.items()
        if name in present
    }
    if len(kept) < count:
        modalities = {name: modality.select(kept) for name, modality in modalities.items()}
    cohort = Cohort(ids[kept], np.array(patient_ids, dtype=str)[kept], modalities, {}, name="patients")
    return Patients(ids, errors, cohort)
