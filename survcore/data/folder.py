"""A cohort as a folder.

::

    cohort.toml                 name, endpoints with time unit and causes, modalities with kind, transform, width;
                                simulated = true where the patients are made up
    outcomes.csv | .parquet     row_id, [NAME_]time, _event, _entry, patient_id, fold, split, strata, weights
    rna.csv | .parquet          a table: row_id and one column per feature, or one column of text
    rna.groups.csv              token groups of that table: token, column
    mutations.active.parquet    a panel by its ones, which is small where few entries are 1: row_id, active (list of the
                                columns that are 1, counted from 0), coverage (which pattern of what was measured);
    mutations.columns.parquet   the names of its columns: column;
    mutations.coverage.parquet  one line per pattern, counted from 0: missing (list of the columns not measured)
    slides/ROW_ID.h5            one array per row (npy, safetensors, h5, pt); % and / in an id are %25 and %2F

A small ``cohort.toml``::

    name = "luad"
    [endpoints.primary]         # the columns time and event; [endpoints.OS] reads OS_time and OS_event
    time_unit = "days"
    [modalities.rna]
    kind = "tokens"
    transform = "signed_log"
    [modalities.slides]
    kind = "bag"

A panel may as well be a table with a column for every feature. Reading opens every array file for its shape, but reads
no values. A file that is missing, damaged, unknown or without a row in the outcomes raises
:class:`survcore.errors.DataError` naming it.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.array_files import ARRAY_SUFFIXES, write_arrays
from survcore.data.arrays import StoredArray
from survcore.data.cohort import Cohort
from survcore.data.endpoint import PRIMARY, TIME_UNITS
from survcore.data.frames import identifiers
from survcore.data.messages import listed
from survcore.data.modality import KINDS, Modality
from survcore.data.sparse_files import panel_file, read_panel, write_panel
from survcore.data.tables import TABLE_SUFFIXES, read_table, write_table
from survcore.errors import DataError
from survcore.files import replacing_folder

_MANIFEST = "cohort.toml"
_COHORT_KEYS = {"name", "simulated", "endpoints", "modalities", "rows_without_modality"}
_ENDPOINT_KEYS = {"time_unit", "causes", "time", "event", "entry", "censored_value"}
_MODALITY_KEYS = {"kind", "transform", "width", "groups", "format"}
_FORMATS = ("csv", "parquet", "folder", "active")
_ID = "row_id"


def read_folder(path: Path, *, keep_broken_files: bool = False) -> Cohort:
    """Reads a cohort folder; raises what :meth:`Cohort.from_frames` raises, and DataError for every bad file."""
    manifest = _read_manifest(path / _MANIFEST)
    endpoints, modalities = manifest.get("endpoints", {}), manifest["modalities"]
    outcomes = _read_outcomes(path, endpoints)
    groups = {name: _read_groups(path, name, declared) for name, declared in modalities.items()}
    cohort = Cohort.from_frames(
        {name: _read_values(path, name, declared, outcomes) for name, declared in modalities.items()},
        outcomes,
        time_unit=_declared(endpoints, "time_unit"),
        kinds=_declared(modalities, "kind"),
        groups={name: given for name, given in groups.items() if given is not None},
        transforms=_declared(modalities, "transform"),
        widths=_declared(modalities, "width"),
        endpoints=list(endpoints),
        causes=_declared(endpoints, "causes"),
        time_column=_declared(endpoints, "time"),
        event_column=_declared(endpoints, "event"),
        entry_column=_declared(endpoints, "entry"),
        censored_value=_declared(endpoints, "censored_value"),
        name=manifest.get("name", path.resolve().name),
        rows_without_modality=manifest.get("rows_without_modality", False),
        keep_broken_files=keep_broken_files,
    )
    return replace(cohort, simulated=bool(manifest.get("simulated", False)))


def write_folder(cohort: Cohort, path: Path, *, tables: str, arrays: str | None, overwrite: bool) -> None:
    """Writes a cohort folder beside its final place and renames it when it is whole."""
    if f".{tables}" not in TABLE_SUFFIXES:
        raise DataError(f"tables are written as {listed(TABLE_SUFFIXES)}, got {tables!r}")
    if arrays is not None and f".{arrays}" not in ARRAY_SUFFIXES:
        raise DataError(f"arrays are written as {listed(ARRAY_SUFFIXES)}, got {arrays!r}")
    if path.exists() and not (overwrite and (path / _MANIFEST).is_file()):
        hint = (
            "it holds no cohort, so it is left alone" if overwrite else "pass overwrite=True to replace a cohort there"
        )
        raise DataError(f"{path} exists already; {hint}")
    with replacing_folder(path) as folder:
        for name, modality in cohort.modalities.items():
            _write_modality(folder, name, modality, cohort.row_ids, tables, arrays)
        write_table(_outcomes_frame(cohort), folder / f"outcomes.{tables}")
        (folder / _MANIFEST).write_text(_manifest_text(cohort), encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; a cohort folder holds a {_MANIFEST}")
    try:
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML: {error}") from None
    _check_keys(manifest, _COHORT_KEYS, f"{path}")
    for part, keys in (("endpoints", _ENDPOINT_KEYS), ("modalities", _MODALITY_KEYS)):
        tables = manifest.get(part, {})
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise DataError(f"{path}: expected tables [{part}.NAME]")
        for name, table in tables.items():
            _check_keys(table, keys, f"{path}: [{part}.{name}]")
    if not manifest.get("modalities"):
        raise DataError(f"{path}: no [modalities.NAME] is declared")
    for name, declared in manifest["modalities"].items():
        if declared.get("kind") not in KINDS:
            problem = f"unknown kind {declared['kind']!r}" if "kind" in declared else "no kind is declared"
            raise DataError(f"{path}: [modalities.{name}]: {problem}; the kinds are {', '.join(KINDS)}")
    return manifest


def _check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise DataError(f"{where}: unknown key {listed(unknown)}; expected {', '.join(sorted(known))}")


def _declared(tables: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, Any]:
    return {name: table[key] for name, table in tables.items() if key in table}


def _one_file(path: Path, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    found = [file for suffix in suffixes if (file := path / f"{stem}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(f"{path}: both {found[0].name} and {found[1].name} are there; keep one")
    return found[0] if found else None


def _read_outcomes(path: Path, endpoints: Mapping[str, Any]) -> pd.DataFrame | None:
    file = _one_file(path, "outcomes", TABLE_SUFFIXES)
    if file is None:
        if endpoints:
            raise DataError(f"{path}: endpoints are declared, but there is no outcomes.csv or outcomes.parquet")
        return None
    outcomes = read_table(file, text_columns=(_ID, "patient_id", "split", "strata"))
    if _ID not in outcomes.columns:
        raise DataError(f"{file}: no column {_ID!r}; the columns are {listed(outcomes.columns)}")
    shown = [
        column for column in outcomes.columns if column in ("time", "event") or column.endswith(("_time", "_event"))
    ]
    if not endpoints and shown:
        raise DataError(
            f"{path / _MANIFEST}: no time unit is declared for {listed(shown)} of {file.name}: add "
            f"[endpoints.{PRIMARY}] (or the columns' prefix) with time_unit, one of {', '.join(TIME_UNITS)}"
        )
    return outcomes


def _read_groups(path: Path, name: str, declared: Mapping[str, Any]) -> pd.DataFrame | None:
    file = path / declared.get("groups", f"{name}.groups.csv")
    if not file.is_file():
        if "groups" in declared:
            raise DataError(f"{file}: no such file, but modality {name!r} names it for its token groups")
        return None
    return read_table(file, text_columns=("token", "column"))


def _read_values(path: Path, name: str, declared: Mapping[str, Any], outcomes: pd.DataFrame | None) -> Any:
    wanted = declared.get("format")
    if wanted not in (None, *_FORMATS):
        raise DataError(
            f"{path / _MANIFEST}: [modalities.{name}]: unknown format {wanted!r}; expected {', '.join(_FORMATS)}"
        )
    suffixes = TABLE_SUFFIXES if wanted is None else tuple({f".{wanted}"} & set(TABLE_SUFFIXES))
    table = _one_file(path, name, suffixes)
    is_folder = wanted in (None, "folder") and (path / name).is_dir()
    active = panel_file(path, name)
    is_active = wanted in (None, "active") and active.is_file()
    if sum((table is not None, is_folder, is_active)) > 1:
        there = [table.name] if table else []
        there += [f"a folder {name}"] * is_folder + [active.name] * is_active
        raise DataError(f"{path}: modality {name!r} has both {' and '.join(there)}; keep one or declare its format")
    if is_active:
        return read_panel(path, name)
    if table is not None:
        text = declared["kind"] == "text"
        frame = read_table(table, text_columns=None if text else (_ID,))
        if _ID not in frame.columns:
            raise DataError(f"{table}: no column {_ID!r}; the columns are {listed(frame.columns)}")
        return frame
    if is_folder:
        return _array_files(path / name, None if outcomes is None else identifiers(outcomes[_ID], "outcomes"))
    expected = {
        None: f"{name}.csv, {name}.parquet or the folder {name}",
        "folder": f"the folder {name}",
        "active": active.name,
    }.get(wanted, f"{name}.{wanted}")
    raise DataError(f"{path}: modality {name!r} is declared, but there is no {expected}")


def _array_files(folder: Path, row_ids: np.ndarray | None) -> dict[str, Path]:
    """Files of one modality by row id."""
    known = None if row_ids is None else {_file_stem(row): row for row in row_ids.tolist()}
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        if file.suffix not in ARRAY_SUFFIXES or not file.is_file():
            raise DataError(
                f"{file}: unknown file; {folder.name} holds one file per row, ROW_ID{{{','.join(ARRAY_SUFFIXES)}}}"
            )
        stem = file.name[: -len(file.suffix)]
        row = _row_of_stem(stem) if known is None else known.get(stem, stem)
        if row in files:
            raise DataError(f"{folder}: row {row!r} has both {files[row].name} and {file.name}; keep one")
        files[row] = file
    return files


def _write_modality(
    folder: Path, name: str, modality: Modality, row_ids: np.ndarray, tables: str, arrays: str | None
) -> None:
    spec, present = modality.spec, modality.present
    if modality.panel is not None:
        if tables == "csv":
            _write_panel_text(folder / f"{name}.csv", modality, row_ids)
        else:
            write_panel(folder, name, row_ids, spec.columns, modality.panel)
    elif spec.is_table:
        frame = pd.DataFrame(modality.table[present], columns=list(spec.columns))
        frame.insert(0, _ID, row_ids[present])
        write_table(frame, folder / f"{name}.{tables}")
        if spec.groups:
            pairs = [(token, column) for token, columns in spec.groups for column in columns]
            write_table(pd.DataFrame(pairs, columns=["token", "column"]), folder / f"{name}.groups.csv")
    elif spec.kind == "text":
        write_table(
            pd.DataFrame({_ID: row_ids[present], "text": modality.items[present]}, dtype=str),
            folder / f"{name}.{tables}",
        )
    else:
        (folder / name).mkdir()
        for row in np.flatnonzero(present):
            item = modality.items[row]
            stored = item.path.suffix if isinstance(item, StoredArray) else None
            suffix = f".{arrays}" if arrays is not None else stored or ".safetensors"
            file = folder / name / f"{_file_stem(row_ids[row])}{suffix}"
            if suffix == stored:
                shutil.copyfile(item.path, file)
            else:
                write_arrays(file, item.values(), item.coords(), item.where)


def _write_panel_text(file: Path, modality: Modality, row_ids: np.ndarray) -> None:
    """A panel as a csv with a column for every feature, some rows at a time."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        for rows, table in modality.panel.tables():
            present = modality.present[rows]
            frame = pd.DataFrame(table[present], columns=list(modality.spec.columns))
            frame.insert(0, _ID, row_ids[rows][present])
            frame.to_csv(opened, index=False, header=rows.start == 0)


def _outcomes_frame(cohort: Cohort) -> pd.DataFrame:
    columns: dict[str, Any] = {_ID: cohort.row_ids, "patient_id": cohort.patient_ids}
    for name, endpoint in cohort.endpoints.items():
        prefix = "" if name == PRIMARY else f"{name}_"
        columns |= {f"{prefix}time": endpoint.time, f"{prefix}event": endpoint.event}
        if endpoint.entry is not None:
            columns[f"{prefix}entry"] = endpoint.entry
    for part in ("fold", "split", "strata", "weights"):
        if getattr(cohort, part) is not None:
            columns[part] = getattr(cohort, part)
    return pd.DataFrame(columns)


def _manifest_text(cohort: Cohort) -> str:
    lines = [f"name = {_quoted(cohort.name)}"]
    if cohort.simulated:
        lines.append("simulated = true")
    if not cohort.availability.any(axis=1).all():
        lines.append("rows_without_modality = true")
    for name, endpoint in cohort.endpoints.items():
        lines += ["", f"[endpoints.{_quoted(name)}]", 'time_unit = "months"', f"causes = {endpoint.causes}"]
    for name, modality in cohort.modalities.items():
        spec = modality.spec
        lines += [
            "",
            f"[modalities.{_quoted(name)}]",
            f"kind = {_quoted(spec.kind)}",
            f"transform = {_quoted(spec.transform)}",
        ]
        lines += [f"width = {spec.width}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _file_stem(row_id: str) -> str:
    escaped = row_id.replace("%", "%25").replace("/", "%2F")
    return f"%2E{escaped[1:]}" if escaped.startswith(".") else escaped


def _row_of_stem(stem: str) -> str:
    for code, character in (("%2E", "."), ("%2F", "/"), ("%25", "%")):
        stem = stem.replace(code, character)
    return stem
