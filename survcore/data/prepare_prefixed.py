"""Reader for one wide table in which the start of a column's name says its modality, as in ``mRNA.TP53``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.frames import identifiers, numeric_table, refuse_duplicates
from survcore.data.messages import counted, listed
from survcore.data.prepare_shared import (
    PublishedCohort,
    published_cohort,
    read_published,
    refuse_outcomes,
    require_columns,
)
from survcore.errors import DataError

# More different texts are names, dates or notes rather than categories.
MOST_CATEGORIES = 20


def prepare_prefixed(
    table: str | Path,
    *,
    time: str,
    event: str,
    time_unit: str,
    id: str | None = None,
    separator: str = ".",
    modalities: Sequence[str] | None = None,
    others: str | None = None,
    censored_value: Any = None,
    log: Sequence[str] = (),
    name: str | None = None,
) -> PublishedCohort:
    """Read a table of one row per patient whose columns ``PREFIX<separator>FEATURE`` belong to the modality PREFIX.

    A modality whose entries are all 0, 1 or missing is a "panel", any other a "vector". A row whose entries of a
    modality are all missing lacks it. A column of text becomes one 0/1 column per value, ``COLUMN=VALUE``, missing
    where the text is. Rows without outcome or without any modality are left out. Endpoint "primary".

    Args:
        table: csv (plain or compressed) or parquet.
        time, event: columns of the follow-up time, in ``time_unit``, and of the event (1 = event, 0 = censored).
        id: column of the row id; without one, rows are numbered from 1 in the order of the file.
        separator: what ends the prefix; the first one in a name counts.
        modalities: the prefixes to read, in this order; by default every prefix, in the order of the file.
        others: name of a modality of the columns that have none of these prefixes (clinical ones as a rule); by default
            they are not read.
        censored_value: value of ``event`` that means censored, for columns that mark censoring or hold words.
        log: modalities whose values are to become sign(x) log(1 + |x|).
        name: of the cohort; by default how the file's name starts.

    Raises:
        DataError: a column that is absent or occurs twice, a prefix without columns, features that carry the outcome,
            text of more than 20 different values or mixed with numbers, infinite values, duplicate ids, impossible
            times and events. The message names file, column and row.
    """
    path = Path(table)
    frame = read_published(path, dtype=None if id is None else {id: str})
    require_columns(frame, [time, event] if id is None else [id, time, event], path)
    facts = [f"{path.name}: {counted(len(frame), 'row')}, {counted(frame.shape[1], 'column')}"]
    frame.index = _row_ids(frame, id, path, facts)
    columns = [column for column in frame if column not in (id, time, event)]
    features = _by_prefix(columns, separator, modalities, others, path, facts)
    tables = {}
    for modality, members in features.items():
        refuse_outcomes(members, path, prefix=f"{modality}{separator}")
        tables[modality] = _numbers(modality, frame[members], path, facts)
    return published_cohort(
        tables, frame[[time, event]], path, facts, log=log, time_unit=time_unit, time_column=time, event_column=event,
        censored_value=censored_value, name=name or path.name.split(".")[0],
    )  # fmt: skip


def _row_ids(frame: pd.DataFrame, id: str | None, path: Path, facts: list[str]) -> np.ndarray:
    if id is None:
        facts.append(f"no id column: the rows are numbered 1 to {len(frame)} as they stand in the file")
        return np.arange(1, len(frame) + 1).astype(str)
    row_ids = identifiers(frame[id], f"{path}: column {id!r}")
    refuse_duplicates(row_ids, f"{path}: column {id!r}")
    return row_ids


def _by_prefix(
    columns: list[str],
    separator: str,
    modalities: Sequence[str] | None,
    others: str | None,
    path: Path,
    facts: list[str],
) -> dict[str, list[str]]:
    """Columns by modality, those of ``others`` last."""
    if not separator:
        raise ValueError("separator: expected at least one character")
    found: dict[str, list[str]] = {}
    for column in columns:
        prefix, ends, _ = column.partition(separator)
        if ends and prefix:
            found.setdefault(prefix, []).append(column)
    chosen = list(found) if modalities is None else list(modalities)
    if unknown := [prefix for prefix in chosen if prefix not in found]:
        raise DataError(
            f"{path}: no column starts with {listed(prefix + separator for prefix in unknown)}; "
            f"the prefixes are {listed(found, 20)}"
        )
    features = {prefix: found[prefix] for prefix in chosen}
    taken = {column for members in features.values() for column in members}
    rest = [column for column in columns if column not in taken]
    if others is not None:
        if others in features:
            raise ValueError(f"others: {others!r} is also a prefix; give another name")
        if not rest:
            raise DataError(f"{path}: every column has one of the prefixes, none is left for {others!r}")
        features[others] = rest
    elif rest:
        facts.append(f"{counted(len(rest), 'column')} of no modality not read: {listed(rest)}")
    if not features:
        raise DataError(
            f"{path}: no column name has a prefix that ends in {separator!r}; the columns are {listed(columns)}"
        )
    facts.append("columns: " + ", ".join(f"{modality} {len(members)}" for modality, members in features.items()))
    return features


def _numbers(modality: str, frame: pd.DataFrame, path: Path, facts: list[str]) -> pd.DataFrame:
    """The columns as float32, texts as one 0/1 column per value."""
    parts, spread = [], []
    for column in frame:
        values = frame[column].astype(object) if frame[column].dtype == "category" else frame[column]
        numbers = pd.to_numeric(values, errors="coerce")
        # One number among texts is a damaged number or a code, which numeric_table tells with its row.
        if numbers.notna().any() or values.isna().all():
            parts.append(values)
            continue
        levels = sorted(values.dropna().unique())
        if len(levels) > MOST_CATEGORIES:
            raise DataError(
                f"{path}: column {column!r} of modality {modality!r} holds {len(levels)} different texts "
                f"({listed(levels, 3)}), too many for categories (at most {MOST_CATEGORIES})"
            )
        spread.append(f"{column} ({', '.join(map(str, levels))})")
        parts += [
            (values == level).astype(np.float64).where(values.notna()).rename(f"{column}={level}") for level in levels
        ]
    if spread:
        facts.append(f"{modality}: text as one 0/1 column per value: {'; '.join(spread)}")
    wide = pd.concat(parts, axis=1)
    table = numeric_table(wide, wide.index.to_numpy(), f"{path}: modality {modality!r}")
    return pd.DataFrame(table, index=wide.index, columns=wide.columns)
