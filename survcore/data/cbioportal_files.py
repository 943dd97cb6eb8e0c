"""Text files of a cBioPortal study: tab-separated, comment lines before the header, blanks and words for missing cells.

The formats are described at https://docs.cbioportal.org/file-formats/.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import pandas as pd

from survcore.data.messages import listed
from survcore.errors import DataError

MISSING = frozenset(
    {
        *("", "na", "n/a", "nan", "null", "not available", "not applicable"),
        *("[not available]", "[not applicable]", "[not evaluated]", "[not reported]", "[not recorded]"),
        *("[unknown]", "[discrepancy]", "[pending]"),
    }
)
_TYPES = {"STRING", "NUMBER", "BOOLEAN"}
_POINTER = "version https://git-lfs"


@dataclass(frozen=True, eq=False)
class StudyFile:
    """One file, read.

    Attributes:
        path: what errors name.
        table: cells as text, None where missing; columns in capitals, the index holds the number of each line.
        types: by column "STRING", "NUMBER" or "BOOLEAN" where the comment lines declare it.
    """

    path: Path
    table: pd.DataFrame
    types: dict[str, str]

    def cell(self, line: int, column: str) -> str:
        """Where a cell stands, as errors say it."""
        return f"{self.path}: line {line}, column {column!r}"


def find_file(folder: Path, *names: str) -> Path | None:
    """The one file of these names, in any case and plain or with .gz; None where there is none.

    Raises:
        DataError: several of them are there.
    """
    wanted = {f"{name}{ending}".lower() for name in names for ending in ("", ".gz")}
    found = sorted(path for path in folder.iterdir() if path.name.lower() in wanted and path.is_file())
    if len(found) > 1:
        raise DataError(f"{folder}: keep one of {listed(path.name for path in found)}")
    return found[0] if found else None


def require_file(folder: Path, *names: str) -> Path:
    """As :func:`find_file`; DataError where there is none."""
    path = find_file(folder, *names)
    if path is None:
        raise DataError(f"{folder}: expected {' or '.join(map(repr, names))} (plain or .gz); no such file")
    return path


def read_study_file(path: Path, required: Collection[str], optional: Collection[str] | None = None) -> StudyFile:
    """Reads the columns ``required`` and ``optional`` (names in capitals); every column where ``optional`` is None.

    Cells are stripped of blanks and quotes. Lines without any cell are left out, cells that a line lacks are missing.

    Raises:
        DataError: a damaged or empty file, a required column that is absent, a column twice, a line with more cells
            than the header has names. The message names file, line and column.
    """
    lines = numbered_lines(path)
    types: list[str] = []
    header: list[str] = []
    for _, line in lines:
        cells = [cell.strip().strip('"').upper() for cell in line.lstrip("#").split("\t")]
        if not line.startswith("#"):
            header = cells
            break
        if set(cells) - {""} and set(cells) - {""} <= _TYPES:
            types = cells
    if not header:
        raise DataError(f"{path}: the file has no header line")
    columns = _chosen_columns(header, required, optional, path)
    numbers, rows = [], []
    clean = _CleanCells()
    pick, deepest = itemgetter(*columns.values(), 0), max(columns.values())
    for number, line in lines:
        cells = line.split("\t", deepest + 1)
        if len(cells) <= deepest:
            cells += [""] * (deepest + 1 - len(cells))
        if line.count("\t") >= len(header) and (beyond := "".join(line.split("\t")[len(header) :]).strip()):
            raise DataError(
                f"{path}: line {number}: expected {len(header)} cells as in the header, got more: {beyond!r}"
            )
        if not line.strip():
            continue
        numbers.append(number)
        rows.append(list(map(clean.__getitem__, pick(cells)[:-1])))
    table = pd.DataFrame(rows, index=pd.Index(numbers, dtype="int64"), columns=list(columns), dtype=object)
    declared = dict(zip(header, types, strict=False))
    return StudyFile(path, table, {name: declared[name] for name in columns if declared.get(name)})


def read_header(path: Path) -> list[str]:
    """Names of the columns as they stand in the file."""
    for _, line in numbered_lines(path):
        if not line.startswith("#"):
            return [cell.strip().strip('"') for cell in line.split("\t")]
    raise DataError(f"{path}: the file has no header line")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines from 1 without their ends, blank ones before the header left out; other text than UTF-8 is cp1252.

    Raises:
        DataError: the file cannot be read, or is the pointer that Git leaves where large files were not fetched.
    """
    started = False
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as lines:
            for number, raw in enumerate(lines, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    line = raw.decode("cp1252", errors="replace")
                line = line.rstrip("\r\n")
                if number == 1 and line.startswith(_POINTER):
                    raise DataError(f"{path}: only the pointer of a large file; fetch the file itself (git lfs pull)")
                started = started or bool(line.strip())
                if started:
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read (damaged or cut short?): {error}") from error


def _chosen_columns(
    header: list[str], required: Collection[str], optional: Collection[str] | None, path: Path
) -> dict[str, int]:
    """Position of each column to read."""
    named = [name for name in header if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise DataError(f"{path}: duplicate column {listed(twice)}")
    if absent := [name for name in required if name not in named]:
        raise DataError(f"{path}: no column {listed(absent)}; the columns are {listed(named, 12)}")
    wanted = set(named) if optional is None else {*required, *optional}
    return {name: position for position, name in enumerate(header) if name in wanted}


class _CleanCells(dict[str, str | None]):
    """Cell -> its text or None where it is missing; what recurs is worked out and held once."""

    def __missing__(self, cell: str) -> str | None:
        text = cell.strip()
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1].strip()
        self[cell] = None if text.lower() in MISSING else text
        return self[cell]
