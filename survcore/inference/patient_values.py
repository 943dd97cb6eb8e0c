"""One patient's value of one modality, as callers write it, checked and made into what a cohort holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from reprlib import repr as _shortened
from typing import Any

import numpy as np
from torch import Tensor

from survcore.data.array_files import as_tensor
from survcore.data.arrays import ArrayItem, HeldArray, StoredArray
from survcore.data.messages import listed, nearest_listed
from survcore.data.modality import ModalitySpec
from survcore.data.table_scaler import TableScaler
from survcore.errors import DataError

# Suggestions are looked for among thousands of columns, for every patient who needs them.
_SUGGESTED_FOR = 3
ROW_ID, PATIENT_ID = "row_id", "patient_id"


def table_row(value: Any, spec: ModalitySpec, scaler: TableScaler, gaps: bool, where: str) -> np.ndarray | None:
    """One patient's line of a table: float32 [width] in the model's order, NaN where an entry is missing.

    Args:
        value: numbers or None by column, or an array of numbers in the model's order of columns. Columns that the model
            knows and does not read are passed over.
        spec, scaler: of the modality.
        gaps: a column that is not there is a missing entry; else an error.
        where: names patient and modality in errors.

    Returns:
        None where no entry is there at all.

    Raises:
        DataError: an unknown or a missing column, another width, a value that is no number or infinite, or in a panel
            other than 0 and 1.
    """
    panel = spec.kind == "panel"
    # A pandas Series is no Mapping, but has names.
    if isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "to_list")):
        columns, entries = _read_columns(value, scaler)
        columns, places = _known_columns(columns, scaler, where)
        row = numbers(entries, columns, panel, where)
        if np.isnan(row).all():
            return None
        if places is None:
            return row
        if not gaps and len(places) < len(scaler.columns):
            given = set(columns)
            missing = [column for column in scaler.columns if column not in given]
            raise DataError(f"{where}: {missing_columns(missing, len(scaler.columns))}")
        whole = np.full(len(scaler.columns), np.nan, dtype=np.float32)
        whole[places] = row
        return whole
    row = numbers(_in_order(value, scaler.columns, where), scaler.columns, panel, where)
    return None if np.isnan(row).all() else row


def array_item(value: Any, spec: ModalitySpec, folder: Path, where: str) -> ArrayItem | None:
    """One patient's tokens, bag, images or volume; of a file the header alone is read.

    Args:
        value: a path, relative ones from ``folder``; nested lists, a NumPy array or a tensor; or a mapping with
            ``features`` and optionally ``coords``.
        spec: of the modality.
        folder: where relative paths begin.
        where: names patient and modality in errors.

    Returns:
        None where the text is blank or every value is NaN.

    Raises:
        DataError: a file that is missing or damaged, another shape or width, values that are no numbers or infinite.
    """
    if isinstance(value, str | Path):
        if not str(value).strip():
            return None
        path = folder / value
        try:
            item: ArrayItem = StoredArray(path, spec.kind, f"{where} ({path})")
        except DataError as error:
            raise DataError(_told_once(where, error)) from None
    else:
        item = _held(value, spec.kind, where)
        if item.values_without_gaps() is None and item.values().isnan().all():
            return None
    if item.width != spec.width:
        raise DataError(f"{item.where}: the model takes width {spec.width}, got {item.width}")
    return item


def text(value: Any, where: str) -> str | None:
    """One patient's text, or None where it is blank; DataError where it is no text."""
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text, got {shortened(value)}")
    return value if value.strip() else None


def label(value: Any, otherwise: str, what: str) -> str:
    """An id as text, ``otherwise`` where it is None or blank; DataError for what is neither text nor a whole number."""
    if isinstance(value, np.integer):
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise DataError(f"{what}: expected text or a whole number, got {shortened(value)}")
    try:
        found = "" if value is None else str(value)
        found.encode()
    except ValueError as error:  # half a surrogate pair, or more digits than Python prints
        raise DataError(f"{what}: expected text or a whole number: {shortened(str(error))}") from error
    if "\0" in found:
        raise DataError(f"{what}: expected text without NUL, got {shortened(found)}")
    return found if found.strip() else otherwise


def shortened(value: Any) -> str:
    """A value as an error shows it, whatever its size."""
    return _shortened(value.item() if isinstance(value, np.generic) else value)


def numbers(entries: Sequence[Any], columns: Sequence[str], panel: bool, where: str) -> np.ndarray:
    """Numbers and None as float32 [n], NaN for None; DataError names the column of what is neither, of an infinite
    value, and in a panel of what is neither 0 nor 1. True and False are numbers in a panel alone."""
    odd = {kind for kind in set(map(type, entries)) if not _is_number(kind, panel)}
    if odd:
        place = next(place for place, entry in enumerate(entries) if type(entry) in odd)
        raise DataError(f"{where}, column {columns[place]!r}: expected a number, got {shortened(entries[place])}")
    with np.errstate(over="ignore"):
        try:
            row = np.array(entries, dtype=np.float64).astype(np.float32)
        except OverflowError:  # a whole number beyond any float
            row = np.array([_as_float(entry) for entry in entries]).astype(np.float32)
    for place in np.flatnonzero(out_of_range(row, panel))[:1]:
        raise DataError(f"{where}, column {columns[place]!r}: {expected_range(panel)}, got {shortened(entries[place])}")
    return row


def out_of_range(values: np.ndarray, panel: bool) -> np.ndarray:
    """Where float32 values are neither NaN nor what a table takes: finite numbers, in a panel 0 or 1."""
    return ~((values == 0) | (values == 1) | np.isnan(values)) if panel else np.isinf(values)


def expected_range(panel: bool) -> str:
    """What :func:`out_of_range` asks for, in words."""
    return "expected 0, 1 or a missing entry" if panel else "expected a finite number in the range of float32"


def missing_columns(missing: Sequence[str], width: int) -> str:
    """What is told of a table that lacks columns."""
    return (
        f"{len(missing)} of the model's {width} columns are missing: {listed(missing)}; write them with empty values "
        "where they were not measured"
    )


def _is_number(kind: type, panel: bool) -> bool:
    if issubclass(kind, bool | np.bool_):
        return panel
    return kind is type(None) or issubclass(kind, Real)


def _as_float(entry: Any) -> float:
    try:
        return np.nan if entry is None else float(entry)
    except OverflowError:
        return np.inf


def _read_columns(value: Any, scaler: TableScaler) -> tuple[tuple[Any, ...], list[Any]]:
    """Columns and entries as given, without those that the model knows and does not read."""
    columns, entries = tuple(value.keys()), [*value.values()] if isinstance(value, Mapping) else value.to_list()
    if scaler.ignored:
        kept = [place for place, column in enumerate(columns) if str(column) not in scaler.ignored_names]
        columns, entries = tuple(columns[place] for place in kept), [entries[place] for place in kept]
    return columns, entries


def _known_columns(
    columns: tuple[Any, ...], scaler: TableScaler, where: str
) -> tuple[tuple[str, ...], list[int] | None]:
    """Columns as given, every one known and given once, and their places; None where all stand in order."""
    if columns == scaler.columns:
        return columns, None
    columns = tuple(map(str, columns))
    places = [*map(scaler.position.get, columns)]
    if None in places:
        unknown = [column for column in columns if column not in scaler.position]
        raise DataError(f"{where}: unknown column {nearest_listed(unknown, scaler.columns, _SUGGESTED_FOR)}")
    if len(set(places)) < len(places):
        twice = [column for column, count in Counter(columns).items() if count > 1]
        raise DataError(f"{where}: given twice: column {listed(twice)}")
    return columns, places


def _in_order(value: Any, columns: tuple[str, ...], where: str) -> list[Any]:
    """The entries of an array of numbers, one per column of the model."""
    if not isinstance(value, list | tuple | np.ndarray | Tensor):
        raise DataError(
            f"{where}: expected numbers by column, or an array of {len(columns)} numbers, got {shortened(value)}"
        )
    entries = list(value) if isinstance(value, list | tuple) else value.tolist()
    # Slide encoders write one embedding as a batch of one.
    if isinstance(entries, list) and len(entries) == 1 and isinstance(entries[0], list) and len(columns) != 1:
        entries = entries[0]
    if not isinstance(entries, list) or len(entries) != len(columns):
        got = f"{len(entries)}" if isinstance(entries, list) else "a single number"
        raise DataError(f"{where}: the model takes {len(columns)} columns, got {got}")
    return entries


def _held(value: Any, kind: str, where: str) -> HeldArray:
    positions = None
    if isinstance(value, Mapping):
        if "features" not in value or not set(value) <= {"features", "coords"}:
            raise DataError(f"{where}: expected 'features' and optionally 'coords', got {listed(value)}")
        positions = value.get("coords")
        value = value["features"]
    features = as_tensor(_array(value, where), where)
    coords = None if positions is None else as_tensor(_array(positions, where), f"{where}: coords")
    return HeldArray(features, coords, kind, where)


def _array(value: Any, where: str) -> Any:
    """Nested lists as float32, None as NaN; anything else as it is."""
    if not isinstance(value, list | tuple):
        return value
    try:
        array = np.array(value)
        if array.dtype == object:
            if odd := [entry for entry in array.flat if not _is_number(type(entry), panel=True)]:
                raise DataError(f"{where}: expected numbers, got {shortened(odd[0])}")
            array = array.astype(np.float64)
        with np.errstate(over="ignore"):
            return array.astype(np.float32) if array.dtype.kind in "iuf" else array
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: expected nested lists of numbers of one length: {error}") from None


def _told_once(where: str, error: DataError) -> str:
    message = str(error)
    return message if message.startswith(where) else f"{where}: {message}"
