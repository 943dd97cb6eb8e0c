"""Patients and samples of a cBioPortal study, and which samples stand for a patient."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.cbioportal_files import StudyFile, find_file, read_header, read_study_file, require_file
from survcore.data.messages import counted, listed
from survcore.errors import DataError

RULES = ("primary", "merge", "drop")
_PRIMARY = {"primary", "primary tumor", "primary solid tumor"}


@dataclass(frozen=True, eq=False)
class Clinical:
    """The clinical cells of the patients and of the sample that stands for each.

    Attributes:
        patients: ids, in the order of the files.
        sources: files with the line of each patient (NaN where it has none), the patients' own file first.
    """

    patients: pd.Index
    sources: tuple[tuple[StudyFile, pd.Series], ...]

    @property
    def columns(self) -> list[str]:
        """Names of all columns beside the ids."""
        names = dict.fromkeys(name for source, _ in self.sources for name in source.table)
        return [name for name in names if name not in ("PATIENT_ID", "SAMPLE_ID")]

    def only(self, patients: pd.Index) -> Clinical:
        """The cells of these patients."""
        return Clinical(patients, tuple((source, lines.reindex(patients)) for source, lines in self.sources))

    def first(self, names: Collection[str]) -> str | None:
        """The first of the columns that is there and holds something."""
        return next((name for name in names if name in self.columns and self.text(name).notna().any()), None)

    def files(self, column: str) -> str:
        """Paths of the files that hold the column, as errors name them."""
        return " and ".join(str(source.path) for source, _ in self.sources if column in source.table)

    def declared(self, column: str) -> str | None:
        """The type that the comment lines give the column."""
        return next((source.types[column] for source, _ in self.sources if column in source.types), None)

    def text(self, column: str) -> pd.Series:
        """Cells by patient, None where missing; the sample's where the patient's own file has none."""
        return self._by_patient(column, {source.path: source.table.get(column) for source, _ in self.sources})

    def numbers(self, column: str, *, bounds: bool = False) -> pd.Series:
        """Numbers by patient, NaN where missing.

        Args:
            column: its name.
            bounds: whether ">89" and "<=18" are taken as 89 and 18.

        Raises:
            DataError: a cell that is no number; the message names file, line and column.
        """
        parsed = {
            source.path: line_numbers(source, column, bounds=bounds)
            for source, _ in self.sources
            if column in source.table
        }
        return self._by_patient(column, parsed).astype(np.float64)

    def _by_patient(self, column: str, cells: dict[Path, pd.Series | None]) -> pd.Series:
        found = pd.Series(None, index=self.patients, dtype=object, name=column)
        for source, lines in self.sources:
            if cells.get(source.path) is not None:
                there = cells[source.path].reindex(lines.to_numpy()).set_axis(self.patients)
                found = found.where(found.notna(), there)
        return found


def line_numbers(source: StudyFile, column: str, *, bounds: bool = False) -> pd.Series:
    """Numbers of a column by line, NaN where missing; DataError naming file, line and column of what is no number."""
    cells = source.table[column]
    texts = cells.str.replace(r"^[<>]=?\s*", "", regex=True) if bounds and cells.notna().any() else cells
    numbers = pd.to_numeric(texts, errors="coerce").astype(np.float64)
    wrong = (cells.notna() & ~np.isfinite(numbers)).to_numpy()
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(f"{source.cell(cells.index[place], column)}: expected a number, got {cells.iloc[place]!r}")
    return numbers


def read_patients(folder: Path, facts: list[str]) -> StudyFile | None:
    """The patients' file, one line each; None where the study has none."""
    path = find_file(folder, "data_clinical_patient.txt", "data_clinical_patients.txt")
    return None if path is None else _one_line_each(read_study_file(path, ["PATIENT_ID"]), "PATIENT_ID", facts)


def read_samples(folder: Path, facts: list[str]) -> StudyFile:
    """The samples' file, one line each."""
    path = require_file(folder, "data_clinical_sample.txt", "data_clinical_samples.txt")
    return _one_line_each(read_study_file(path, ["PATIENT_ID", "SAMPLE_ID"]), "SAMPLE_ID", facts)


def choose_samples(
    samples: StudyFile, rule: str, sequenced: Collection[str], folder: Path, facts: list[str]
) -> pd.DataFrame:
    """The samples that stand for their patients, the best of each patient first.

    "primary" keeps one: of those sequenced for mutations (where any is) the primary tumour's, of these the earliest,
    of these the first in the file. "merge" keeps all in that order, "drop" leaves out patients with several.

    Args:
        samples: the samples' file.
        rule: one of :data:`RULES`.
        sequenced: ids of the samples sequenced for mutations.
        folder: of the study, where timelines tell the samples' days.
        facts: what was done is appended.

    Returns:
        Columns ``sample`` and ``patient``; the index holds the lines of the file.
    """
    table = samples.table
    kept = pd.DataFrame({"sample": table["SAMPLE_ID"], "patient": table["PATIENT_ID"]})
    counts = kept["patient"].map(kept["patient"].value_counts())
    several = int((kept["patient"][counts > 1]).nunique())
    facts.append(
        f"{samples.path.name}: {counted(len(kept), 'sample')} of {counted(kept['patient'].nunique(), 'patient')}"
    )
    if not several:
        return kept
    if rule == "drop":
        gone = kept["patient"][counts > 1].unique()
        facts.append(f"{counted(several, 'patient')} with several samples left out: {listed(gone)}")
        return kept[counts == 1]
    kind = table["SAMPLE_TYPE"].str.lower() if "SAMPLE_TYPE" in table else pd.Series("", index=table.index)
    days, told = _sample_days(folder)
    order = pd.DataFrame(
        {
            "unsequenced": ~kept["sample"].isin(sequenced),
            "other": ~kind.isin(_PRIMARY),
            "day": kept["sample"].map(days),
            "line": kept.index,
        }
    ).sort_values(["unsequenced", "other", "day", "line"], na_position="last")
    kept = kept.loc[order.index]
    if rule == "merge":
        facts.append(f"{counted(several, 'patient')} with several samples: an alteration in any of them counts")
        return kept
    earliest = f"the earliest ({told})" if told else "the first in the file (no timeline tells the samples' days)"
    facts.append(
        f"{counted(several, 'patient')} with several samples: kept the one sequenced, then the primary tumour's, then "
        f"{earliest}; {counted(len(kept) - kept['patient'].nunique(), 'sample')} left out"
    )
    return kept.drop_duplicates("patient")


def clinical_cells(patients: StudyFile | None, samples: StudyFile, chosen: pd.DataFrame) -> Clinical:
    """Clinical cells of the patients that have a line of their own or a chosen sample.

    A patient whose samples were all left out is left out too.
    """
    best = chosen.drop_duplicates("patient")
    by_sample = pd.Series(best.index, index=best["patient"])
    left_out = set(samples.table["PATIENT_ID"]) - set(by_sample.index)
    sources = []
    ids = pd.Index(samples.table["PATIENT_ID"].unique())
    if patients is not None:
        by_line = pd.Series(patients.table.index, index=patients.table["PATIENT_ID"])
        ids = by_line.index.append(ids.difference(by_line.index, sort=False))
    ids = ids[~ids.isin(left_out)].rename(None)
    if patients is not None:
        sources.append((patients, by_line.reindex(ids)))
    sources.append((samples, by_sample.reindex(ids)))
    return Clinical(ids, tuple(sources))


def _one_line_each(source: StudyFile, id: str, facts: list[str]) -> StudyFile:
    """The file without repeated lines; DataError for a line without id, and for two lines of one id that differ."""
    table = source.table
    for column in ("PATIENT_ID", id):
        if (gaps := table[column].isna()).any():
            raise DataError(f"{source.cell(gaps.idxmax(), column)}: expected an id, got an empty cell")
    single = table.drop_duplicates()
    if (twice := single[id].duplicated()).any():
        line = twice.idxmax()
        first = single.index[(single[id] == single[id][line]).to_numpy().argmax()]
        one, other = single.loc[first], single.loc[line]
        column = next(
            name for name in single if one[name] != other[name] and not (pd.isna(one[name]) and pd.isna(other[name]))
        )
        raise DataError(
            f"{source.cell(line, column)}: {single[id][line]!r} stands in line {first} already, with {one[column]!r} "
            f"and not {other[column]!r}; expected one line each"
        )
    if len(single) < len(table):
        facts.append(f"{source.path.name}: {counted(len(table) - len(single), 'repeated line')} left out")
    if single.empty:
        raise DataError(f"{source.path}: the file has no lines below its header")
    return StudyFile(source.path, single, source.types)


def _sample_days(folder: Path) -> tuple[dict[str, float], str]:
    """Earliest START_DATE of each sample in the timelines that name samples, and the names of these files."""
    earliest: dict[str, float] = {}
    used = []
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if not name.startswith("data_timeline_") or not name.removesuffix(".gz").endswith(".txt"):
            continue
        if not {"SAMPLE_ID", "START_DATE"} <= {column.upper() for column in read_header(path)}:
            continue
        timeline = read_study_file(path, ["SAMPLE_ID", "START_DATE"], [])
        days = line_numbers(timeline, "START_DATE").groupby(timeline.table["SAMPLE_ID"]).min().dropna()
        for sample, day in days.items():
            earliest[sample] = min(day, earliest.get(sample, day))
        used.append(path.name)
    return earliest, ", ".join(used)
