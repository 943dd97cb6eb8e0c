"""What the readers of published tables share: reading files, refusing outcomes as features, leaving out rows."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from survcore.data.leaks import outcome_columns
from survcore.data.messages import counted, listed
from survcore.errors import DataError

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort

# Of values that are never negative: expression on a log scale and beta values stay far below, counts go far beyond.
_COUNT_LIKE = 1000.0


class PublishedCohort(NamedTuple):
    """The cohort, and what a reader should know about how it came about, one line each."""

    cohort: Cohort
    facts: list[str]


def read_published(path: Path, *, dtype: Any = None) -> pd.DataFrame:
    """A csv (plain or compressed) or parquet file as pandas reads it; ``dtype`` is for csv.

    Raises:
        DataError: the file is damaged, empty or has the same column twice; the message names it.
    """
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            header = table.columns.to_series()
        else:
            header = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].dropna()
            table = pd.read_csv(path, dtype=dtype, low_memory=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a table (damaged or cut short?): {str(error)[:300]}") from error
    # pandas renames the second one of a csv.
    if header.duplicated().any():
        raise DataError(f"{path}: duplicate column {listed(header[header.duplicated()].unique())}")
    # R's write.table gives row names no header, which pandas takes for an index.
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()


def refuse_outcomes(columns: Iterable[str], path: Path, *, prefix: str = "") -> None:
    """Raises DataError naming the columns that sound like an outcome, with the prefix or without it."""
    if leaks := [column for column in columns if outcome_columns((column, column.removeprefix(prefix)))]:
        raise DataError(f"{path}: columns that carry the outcome cannot be features: {listed(leaks)}")


def require_columns(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raises DataError naming those of ``columns`` that the table of the file ``path`` lacks."""
    if absent := [column for column in columns if column not in table]:
        raise DataError(f"{path}: no column {listed(absent)}; the columns are {listed(table, 12)}")


def is_binary(table: np.ndarray) -> bool:
    """Whether every entry is 0, 1 or missing, as in a panel of mutations."""
    return bool((np.isnan(table) | (table == 0) | (table == 1)).all())


def published_cohort(
    tables: Mapping[str, pd.DataFrame],
    outcomes: pd.DataFrame,
    path: Path,
    facts: list[str],
    *,
    log: Sequence[str] = (),
    **declared: Any,
) -> PublishedCohort:
    """The rows that have an outcome and some modality; the kind of a modality is "panel" where it is binary.

    Args:
        tables: by modality numbers (NaN = missing entry), indexed by row id; rows may be absent.
        outcomes: two columns, time and event, indexed by row id.
        path: what errors of the cohort name.
        facts: what is known so far; what happens here is appended.
        log: modalities whose values are to become sign(x) log(1 + |x|).
        declared: arguments of :meth:`survcore.data.cohort.Cohort.from_frames`.

    Raises:
        DataError: a modality without any value, no row left, and what ``from_frames`` raises.
        ValueError: ``log`` names no modality.
    """
    from survcore.data.cohort import Cohort

    if unknown := [name for name in log if name not in tables]:
        raise ValueError(f"log: no modality {listed(unknown)}; the modalities are {listed(tables, 20)}")
    values = {name: table.to_numpy(dtype=np.float64) for name, table in tables.items()}
    for name, table in values.items():
        if np.isnan(table).all():
            raise DataError(f"{path}: modality {name!r} has no value in any row")
        if name not in log and np.nanmin(table) >= 0 and np.nanmax(table) > _COUNT_LIKE:
            facts.append(
                f"{name}: values from {np.nanmin(table):g} to {np.nanmax(table):g} as they stand; "
                "counts and intensities want log"
            )
    known = outcomes.notna().all(axis=1)
    has_some = pd.Series(False, index=outcomes.index)
    for name, table in tables.items():
        has_some |= outcomes.index.isin(table.index[~np.isnan(values[name]).all(axis=1)])
    for missing, what in ((~known, "outcome"), (known & ~has_some, "modality")):
        if missing.any():
            facts.append(
                f"{counted(int(missing.sum()), 'row')} without {what} left out: {listed(outcomes.index[missing])}"
            )
    outcomes = outcomes[known & has_some]
    if outcomes.empty:
        raise DataError(f"{path}: no row has both an outcome and a modality")
    try:
        cohort = Cohort.from_frames(
            {name: table[table.index.isin(outcomes.index)] for name, table in tables.items()},
            outcomes,
            kinds={name: "panel" if is_binary(table) else "vector" for name, table in values.items()},
            transforms=dict.fromkeys(log, "signed_log"),
            **declared,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    events = int((cohort.endpoint().event > 0).sum())
    facts.append(f"cohort {cohort.name}: {counted(len(cohort), 'row')}, {counted(events, 'event')}")
    return PublishedCohort(cohort, facts)
