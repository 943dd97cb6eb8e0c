"""One modality out of a frame, or out of a dict with one array, text or file per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.array_files import as_tensor, open_arrays
from survcore.data.arrays import ArrayItem, HeldArray, StoredArray, UnreadableArray
from survcore.data.frames import identifiers, numeric_table, refuse_duplicates, split_ids
from survcore.data.messages import counted, listed
from survcore.data.modality import KINDS, TABLE_KINDS, Modality, ModalitySpec
from survcore.data.sparse_frames import panel_of_frame, require_binary
from survcore.data.sparse_panel import Panel
from survcore.data.sparse_values import PanelValues
from survcore.errors import DataError


def make_modality(
    name: str,
    data: Any,
    row_ids: np.ndarray,
    *,
    id: str = "row_id",
    kind: str | None = None,
    groups: Any = None,
    transform: str = "none",
    width: int | None = None,
    keep_broken: bool = False,
) -> Modality:
    """One modality in the order of ``row_ids``; ``kind`` None takes the one that the data suggest.

    With ``keep_broken`` array files that are damaged or of another width raise when they are read.

    Raises:
        DataError: what :meth:`survcore.data.cohort.Cohort.from_frames` lists for a modality.
    """
    what = f"modality {name!r}"
    if kind is not None and kind not in KINDS:
        raise DataError(f"{what}: unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")
    if not isinstance(data, pd.DataFrame | Mapping | Panel):
        raise DataError(
            f"{what}: expected a DataFrame or a dict of one array or text per row id, or a Panel, got "
            f"{type(data).__name__}"
        )
    if isinstance(data, Panel):
        if kind not in (None, "panel"):
            raise DataError(f"{what}: a Panel is of kind 'panel', not {kind!r}")
        kind = "panel"
    if groups is not None and (kind or "tokens") != "tokens":
        raise DataError(f"{what}: token groups are given, but the kind is {kind!r}, not 'tokens'")
    held: np.ndarray | PanelValues
    if isinstance(data, Panel):
        columns = data.columns
        held = data.values.placed(_positions(data.row_ids, row_ids, what), len(row_ids))
    elif isinstance(data, Mapping):
        data = _one_per_row(data, row_ids, what)
        first = next((value for value in data if value is not None), None)
        kind = kind or _suggested_kind(first, groups, what)
        if kind == "text":
            return _text_modality(name, data, what, transform)
        if kind not in TABLE_KINDS and groups is None:
            return _array_modality(name, data, row_ids, kind, transform, width, what, keep_broken)
        held = _stack_rows(data, row_ids, kind, what)
        columns = tuple(str(column) for column in range(held.shape[1]))
        if kind == "panel":
            require_binary(held, row_ids, columns, what)
    else:
        ids, frame = split_ids(data, id, what)
        kind = kind or ("vector" if groups is None else "tokens")
        if kind == "text":
            return _text_modality(name, _one_per_row(_text_column(ids, frame, what), row_ids, what), what, transform)
        if kind not in TABLE_KINDS and not (kind == "tokens" and groups is not None):
            hint = (
                "groups (token -> columns), or a dict of arrays by row id"
                if kind == "tokens"
                else "a dict of arrays by row id"
            )
            raise DataError(f"{what}: kind {kind!r} as a table needs {hint}")
        if frame.shape[1] == 0:
            raise DataError(f"{what}: the table has no columns beside {id!r}")
        columns = tuple(frame.columns)
        if kind == "panel":
            held = panel_of_frame(frame, ids, what).placed(_positions(ids, row_ids, what), len(row_ids))
        else:
            held = _in_order(numeric_table(frame, ids, what), ids, row_ids, what)
    if width is not None and width != len(columns):
        raise DataError(f"{what}: {width} columns are declared, the table has {len(columns)}")
    present = held.present if isinstance(held, PanelValues) else ~np.isnan(held).all(axis=1)
    spec = ModalitySpec(name, kind, len(columns), columns, _token_groups(groups, columns, what), transform)
    return Modality(spec, present, held)


def _positions(ids: np.ndarray, row_ids: np.ndarray, what: str) -> np.ndarray:
    if np.array_equal(ids, row_ids):
        return np.arange(len(row_ids))
    positions = pd.Index(row_ids).get_indexer(ids)
    if (unknown := positions < 0).any():
        raise DataError(
            f"{what}: {counted(int(unknown.sum()), 'row')} without an outcome: {listed(ids[unknown])}. "
            "Drop them, or pass outcomes=None for a cohort without outcomes"
        )
    return positions


def _in_order(table: np.ndarray, ids: np.ndarray, row_ids: np.ndarray, what: str) -> np.ndarray:
    ordered = np.full((len(row_ids), table.shape[1]), np.nan, dtype=np.float32)
    ordered[_positions(ids, row_ids, what)] = table
    return ordered


def _one_per_row(data: Mapping[Any, Any], row_ids: np.ndarray, what: str) -> np.ndarray:
    ids = identifiers(list(data), what) if data else np.empty(0, dtype=str)
    refuse_duplicates(ids, what)
    items = np.full(len(row_ids), None, dtype=object)
    for position, value in zip(_positions(ids, row_ids, what), data.values(), strict=True):
        items[position] = value
    return items


def _suggested_kind(first: Any, groups: Any, what: str) -> str:
    if groups is not None:
        return "tokens"
    if isinstance(first, str):
        return "text"
    if isinstance(first, Mapping) or getattr(first, "ndim", None) == 2:
        return "bag"
    if getattr(first, "ndim", None) == 1:
        return "vector"
    raise DataError(f"{what}: its kind must be declared (kinds={{...}}), one of {', '.join(KINDS)}")


def _array_modality(
    name: str,
    data: np.ndarray,
    row_ids: np.ndarray,
    kind: str,
    transform: str,
    width: int | None,
    what: str,
    keep_broken: bool,
) -> Modality:
    items = np.full(len(row_ids), None, dtype=object)
    broken: dict[int, DataError] = {}
    for position, value in enumerate(data):
        if value is None:
            continue
        try:
            items[position] = _array_item(value, kind, f"{what}, row {str(row_ids[position])!r}")
        except DataError as error:
            if not keep_broken or not isinstance(value, Path):
                raise
            broken[position] = error
    held = [position for position, item in enumerate(items) if item is not None]
    if width is None:
        if not held:
            raise next(iter(broken.values()), DataError(f"{what}: no row has it, so its width is unknown"))
        width = items[held[0]].width
    for position in held:
        if items[position].width != width:
            problem = f"{items[position].where}: width {items[position].width}, but the modality's width is {width}"
            if not keep_broken:
                raise DataError(problem)
            broken[position] = DataError(problem)
    for position, error in broken.items():
        items[position] = UnreadableArray(str(error), kind, f"{what}, row {str(row_ids[position])!r}", int(width))
    present = np.array([item is not None for item in items], dtype=bool)
    return Modality(ModalitySpec(name, kind, int(width), transform=transform), present, items=items)


def _array_item(value: Any, kind: str, where: str) -> ArrayItem:
    """One row's array: an array, a tensor, a mapping with ``features`` and optional ``coords``, or a file's path."""
    if isinstance(value, Path):
        return StoredArray(value, kind, f"{where} ({value})")
    positions = None
    if isinstance(value, Mapping):
        if "features" not in value:
            raise DataError(f"{where}: expected 'features' and optionally 'coords', got {listed(value)}")
        positions = value.get("coords")
        value = value["features"]
    return HeldArray(
        as_tensor(value, where), None if positions is None else as_tensor(positions, f"{where}: coords"), kind, where
    )


def _stack_rows(data: np.ndarray, row_ids: np.ndarray, kind: str, what: str) -> np.ndarray:
    rows = {
        position: _row_vector(value, f"{what}, row {str(row_ids[position])!r}")
        for position, value in enumerate(data)
        if value is not None
    }
    if not rows:
        raise DataError(f"{what}: no row has it, so its width is unknown")
    shape = next(iter(rows.values())).shape
    if len(shape) != 1:
        raise DataError(f"{what}: kind {kind!r} expects one vector [width] per row, got shape {list(shape)}")
    table = np.full((len(row_ids), shape[0]), np.nan, dtype=np.float32)
    for position, row in rows.items():
        if row.shape != shape:
            raise DataError(
                f"{what}, row {str(row_ids[position])!r}: shape {list(row.shape)}, but the first row has {list(shape)}"
            )
        if np.isinf(row).any():
            raise DataError(
                f"{what}, row {str(row_ids[position])!r}: infinite value at index {int(np.isinf(row).argmax())}"
            )
        table[position] = row
    return table


def _row_vector(value: Any, where: str) -> np.ndarray:
    values = open_arrays(value, ("features",))[0] if isinstance(value, Path) else as_tensor(value, where)
    # Slide encoders write one embedding as a batch of one.
    return (values[0] if values.ndim == 2 and len(values) == 1 else values).float().numpy()


def _text_column(ids: np.ndarray, frame: pd.DataFrame, what: str) -> dict[str, Any]:
    if frame.shape[1] != 1:
        raise DataError(f"{what}: kind 'text' expects one column of text, got {listed(frame.columns)}")
    values = frame.iloc[:, 0]
    return dict(zip(ids, values.astype(object).where(values.notna(), None), strict=True))


def _text_modality(name: str, data: np.ndarray, what: str, transform: str) -> Modality:
    for value in data:
        if value is not None and not isinstance(value, str):
            raise DataError(f"{what}: kind 'text' expects text, got {value!r}")
    present = np.array([value is not None and bool(value.strip()) for value in data], dtype=bool)
    return Modality(ModalitySpec(name, "text", 0, transform=transform), present, items=np.where(present, data, None))


def _token_groups(groups: Any, columns: Sequence[str], what: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if groups is None:
        return ()
    if isinstance(groups, pd.DataFrame):
        if not {"token", "column"} <= set(groups.columns):
            raise DataError(f"{what}: token groups expect columns 'token' and 'column', got {listed(groups.columns)}")
        groups = {token: list(rows["column"]) for token, rows in groups.groupby("token", sort=False)}
    known = set(columns)
    for token, members in groups.items():
        if not len(members):
            raise DataError(f"{what}: token group {token!r} has no columns")
        if unknown := [member for member in members if str(member) not in known]:
            raise DataError(f"{what}: token group {token!r} names columns the table lacks: {listed(unknown)}")
    if not groups:
        raise DataError(f"{what}: the token groups are empty")
    return tuple((str(token), tuple(str(member) for member in members)) for token, members in groups.items())
