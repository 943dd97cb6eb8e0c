"""Tables of published mutation cohorts: found in a folder, keyed by patient, genes and categories as 0/1 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.frames import identifiers, numeric_table
from survcore.data.messages import counted, listed
from survcore.data.prepare_shared import read_published, require_columns
from survcore.errors import DataError

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def find_table(folder: Path, stem: str) -> Path:
    """The one file of the folder called ``stem`` and a suffix of tables; DataError where there is none, or several."""
    candidates = [folder / f"{stem}{suffix}" for suffix in _SUFFIXES]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        problem = "keep one" if found else "none is there"
        raise DataError(f"{folder}: expected one of {listed(path.name for path in found or candidates)}; {problem}")
    return found[0]


def read_patients(path: Path, id: str, columns: Iterable[str]) -> pd.DataFrame:
    """A table of one line per patient, indexed by the text in column ``id``.

    Raises:
        DataError: a column that is absent, an empty id, or a patient in several lines.
    """
    table = read_published(path, dtype={id: str})
    require_columns(table, (id, *columns), path)
    patients = pd.Index(identifiers(table[id], f"{path}: column {id!r}"), name=id)
    if patients.has_duplicates:
        raise DataError(f"{path}: patient {listed(patients[patients.duplicated()].unique())} in several lines")
    return table.set_index(patients)


def numbers(table: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    """Columns of numbers or flags as float32, NaN = missing; DataError naming file, column and row of anything else."""
    chosen = table[list(columns)]
    return pd.DataFrame(numeric_table(chosen, table.index.to_numpy(), str(path)), index=table.index, columns=columns)


def flags(table: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    """As :func:`numbers`, of columns of 0 and 1; DataError naming file, column and row of anything else."""
    found = numbers(table, columns, path)
    wrong = (found.notna() & (found != 0) & (found != 1)).to_numpy()
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{path}: column {columns[column]!r}: expected 0 or 1, got {found.iloc[row, column]:g} in row "
            f"{table.index[row]!r}"
        )
    return found


def categories(table: pd.DataFrame, columns: Sequence[str], *, unknown: Sequence[str] = ()) -> pd.DataFrame:
    """One 0/1 column ``COLUMN=VALUE`` per value of each column of text, missing where the text is, or is ``unknown``.

    A column of one value gives a column that is 1 wherever the text is known.
    """
    parts = []
    for column in columns:
        values = table[column].where(table[column].notna() & ~table[column].isin(unknown))
        for value in sorted(values.dropna().unique()):
            flag = (values == value).astype(np.float64).where(values.notna())
            parts.append(flag.rename(f"{column}={value}"))
    return pd.concat(parts, axis=1) if parts else pd.DataFrame(index=table.index)


def gene_panel(patient: pd.Series, gene: pd.Series, patients: pd.Index, what: str, facts: list[str]) -> pd.DataFrame:
    """A 0/1 table of patients x genes out of a list of variants; a patient with none listed is 0 throughout.

    Args:
        patient, gene: of each variant, in the order of the list; lines without gene are left out.
        patients: the rows of the panel. Variants of others are left out, and counted in ``facts``.
        what: names the list in ``facts`` and in the error.

    Raises:
        DataError: no variant of these patients.
    """
    known = (gene.notna() & patient.isin(patients)).to_numpy()
    if not known.any():
        raise DataError(f"{what}: no variant of any of the {counted(len(patients), 'patient')}")
    genes = sorted(gene[known].unique())
    table = np.zeros((len(patients), len(genes)), dtype=np.float32)
    table[patients.get_indexer(patient[known]), pd.Index(genes).get_indexer(gene[known])] = 1
    mutated = int(table.any(axis=1).sum())
    facts.append(
        f"{what}: {counted(int(known.sum()), 'line')}, {counted(len(genes), 'gene')}; {mutated} of "
        f"{counted(len(patients), 'patient')} with at least one, the others are 0 throughout"
    )
    if strangers := int((~patient.isin(patients)).sum()):
        facts.append(f"{what}: {counted(strangers, 'line')} of other patients left out")
    return pd.DataFrame(table, index=patients, columns=genes)
