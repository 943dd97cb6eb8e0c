"""Reader for an exported MultiAssayExperiment: one matrix per assay, a map of its samples, and the patients' data.

::

    sampleMap.csv       assay, primary (patient), colname (aliquot)
    colData.csv         one line per patient: its id and the outcome, clinical columns
    ASSAY.csv           features x aliquots, the first column names the features

Every file may be csv, csv.gz or parquet. Ramos et al. 2017, doi:10.1158/0008-5472.CAN-17-0344.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.frames import identifiers, numeric_table
from survcore.data.messages import counted, listed
from survcore.data.prepare_shared import (
    PublishedCohort,
    is_binary,
    published_cohort,
    read_published,
    refuse_outcomes,
    require_columns,
)
from survcore.errors import DataError

_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_MAP = ("assay", "primary", "colname")
_STATUS, _DEATH, _LAST = "vital_status", "days_to_death", "days_to_last_followup"
_VITAL = {"0": 0, "0.0": 0, "alive": 0, "living": 0, "1": 1, "1.0": 1, "dead": 1, "deceased": 1}


def prepare_assays(
    folder: str | Path,
    *,
    time: str | None = None,
    event: str | None = None,
    time_unit: str = "days",
    id: str | None = None,
    sample_map: str = "sampleMap",
    col_data: str = "colData",
    assays: Sequence[str] | None = None,
    censored_value: Any = None,
    log: Sequence[str] = (),
    name: str | None = None,
) -> PublishedCohort:
    """Read the assays of a MultiAssayExperiment as modalities; a patient lacks those of which it has no aliquot.

    Several aliquots of a patient (normal tissue too, if the map lists it) are averaged, missing entries ignored; of an
    assay that is 0/1 throughout, a "panel", the maximum is taken. Other assays are "vector". Clinical columns are not
    read. Patients without outcome or without any assay are left out.

    Args:
        folder: holds the files.
        time, event: columns of ``col_data`` (1 = event, 0 = censored) for endpoint "primary"; by default endpoint "OS"
            from ``vital_status`` (0/1, alive/dead, living/deceased), ``days_to_death`` and ``days_to_last_followup``.
        time_unit: of the times.
        id: column of ``col_data`` that the map calls primary; by default the first one.
        sample_map, col_data: names of the two files, with or without their ending.
        assays: the assays to read, in this order; by default all of the map, in its order.
        censored_value: value of ``event`` that means censored, for columns that mark censoring or hold words.
        log: assays whose values are to become sign(x) log(1 + |x|), as counts want it.
        name: of the cohort; by default the folder's name.

    Raises:
        DataError: a file or column that is absent, a patient of the map that ``col_data`` lacks, an aliquot that the
            matrix lacks or that the map lists twice, values that are no finite numbers, a patient alive with a day of
            death, impossible times. The message names file, column and patient.
        ValueError: one of ``time`` and ``event`` without the other; ``censored_value`` without both; ``log`` that
            names no assay.
    """
    folder = Path(folder)
    patients_file = _find(folder, col_data)
    patients = read_published(patients_file)
    patients = _by_patient(patients, patients.columns[0] if id is None else id, patients_file)
    samples = _read_map(_find(folder, sample_map), patients.index, patients_file, assays)
    facts = [f"{patients_file.name}: {counted(len(patients), 'patient')}"]
    tables = {
        assay: _read_assay(assay, _find(folder, assay), lines, facts)
        for assay, lines in samples.groupby("assay", sort=False)
    }
    if assays is not None:
        tables = {assay: tables[assay] for assay in assays}
    if time is None and event is None:
        if censored_value is not None:
            raise ValueError("censored_value: it belongs to a column of events; give time and event")
        outcomes, columns = _overall_survival(patients, patients_file), {}
    elif time is None or event is None:
        raise ValueError("time and event: give both columns or neither")
    else:
        require_columns(patients, (time, event), patients_file)
        outcomes, columns = patients[[time, event]], {"time_column": time, "event_column": event}
    return published_cohort(
        tables, outcomes, patients_file, facts, log=log, time_unit=time_unit, censored_value=censored_value,
        name=name or folder.resolve().name, **columns,
    )  # fmt: skip


def _find(folder: Path, stem: str) -> Path:
    candidates = [folder / f"{stem}{suffix}" for suffix in ("", *_SUFFIXES)]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        names = listed(path.name for path in found or candidates[1:])
        raise DataError(f"{folder}: expected one of {names}; {'keep one' if found else 'none is there'}")
    return found[0]


def _by_patient(patients: pd.DataFrame, id: str, path: Path) -> pd.DataFrame:
    require_columns(patients, (id,), path)
    ids = pd.Index(identifiers(patients[id], f"{path}: column {id!r}"))
    if ids.has_duplicates:
        raise DataError(f"{path}: patient {listed(ids[ids.duplicated()].unique())} in several lines")
    return patients.set_index(ids)


def _read_map(path: Path, patients: pd.Index, patients_file: Path, assays: Sequence[str] | None) -> pd.DataFrame:
    """Lines of the chosen assays, each an aliquot of a known patient."""
    samples = read_published(path, dtype=str)
    require_columns(samples, _MAP, path)
    if (gaps := samples[list(_MAP)].isna()).to_numpy().any():
        line, column = (int(index[0]) for index in np.nonzero(gaps.to_numpy()))
        raise DataError(f"{path}: column {_MAP[column]!r} is empty in line {line + 2}")
    if assays is not None:
        if unknown := [assay for assay in assays if assay not in set(samples["assay"])]:
            raise DataError(
                f"{path}: no assay {listed(unknown)}; the assays are {listed(samples['assay'].unique(), 20)}"
            )
        samples = samples[samples["assay"].isin(assays)]
    twice = samples.duplicated(["assay", "colname"])
    if twice.any():
        line = samples[twice].iloc[0]
        raise DataError(f"{path}: aliquot {line['colname']!r} of assay {line['assay']!r} in several lines")
    strangers = ~samples["primary"].isin(patients)
    if strangers.any():
        line = samples[strangers].iloc[0]
        raise DataError(
            f"{path}: patient {line['primary']!r} of assay {line['assay']!r} has no line in {patients_file.name}"
        )
    return samples


def _read_assay(assay: str, path: Path, lines: pd.DataFrame, facts: list[str]) -> pd.DataFrame:
    """One row per patient (index) and one column per feature, float64."""
    matrix = read_published(path)
    features = pd.Index(identifiers(matrix.iloc[:, 0], f"{path}: column {matrix.columns[0]!r}"))
    if features.has_duplicates:
        raise DataError(f"{path}: feature {listed(features[features.duplicated()].unique())} in several lines")
    refuse_outcomes(features, path)
    aliquots = dict(zip(lines["colname"], lines["primary"], strict=True))
    if absent := [aliquot for aliquot in aliquots if aliquot not in matrix.columns[1:]]:
        raise DataError(f"{path}: no column {absent[0]!r}, an aliquot of patient {aliquots[absent[0]]!r} in the map")
    values = numeric_table(matrix[list(aliquots)], features.to_numpy(), f"{path}: feature", dtype=np.float64).T
    table = pd.DataFrame(values, index=list(aliquots.values()), columns=features)
    counts = table.index.value_counts()
    panel = is_binary(values)
    fact = f"{assay}: {counted(len(counts), 'patient')}, {counted(len(aliquots), 'aliquot')}, "
    fact += counted(len(features), "feature")
    if several := int((counts > 1).sum()):
        fact += f"; {'maximum' if panel else 'mean'} over the aliquots of {counted(several, 'patient')}"
    if unlisted := matrix.shape[1] - 1 - len(aliquots):
        fact += f"; {counted(unlisted, 'column')} that the map does not list left out"
    facts.append(fact)
    by_patient = table.groupby(level=0, sort=False)
    return by_patient.max() if panel else by_patient.mean()


def _overall_survival(patients: pd.DataFrame, path: Path) -> pd.DataFrame:
    """OS_time and OS_event by patient, missing where the file does not tell."""
    if absent := [column for column in (_STATUS, _DEATH, _LAST) if column not in patients]:
        raise DataError(
            f"{path}: no column {listed(absent)}; give the columns of time and event, "
            f"among {listed(patients.columns, 12)}"
        )
    row_ids = patients.index.to_numpy()
    days = numeric_table(patients[[_DEATH, _LAST]], row_ids, str(path), dtype=np.float64)
    words = patients[_STATUS].astype(str).str.strip().str.lower()
    unknown = (patients[_STATUS].notna() & ~words.isin(_VITAL.keys())).to_numpy()
    if unknown.any():
        raise DataError(
            f"{path}: column {_STATUS!r}: expected 0 or alive, 1 or dead, got "
            f"{patients[_STATUS].iloc[unknown.argmax()]!r} for patient {row_ids[unknown.argmax()]!r}"
        )
    dead = words.map(_VITAL)
    odd = (dead == 0).to_numpy() & ~np.isnan(days[:, 0])
    if odd.any():
        raise DataError(
            f"{path}: patient {row_ids[odd.argmax()]!r} is alive in {_STATUS!r}, but {_DEATH!r} is "
            f"{days[odd.argmax(), 0]:g}"
        )
    return pd.DataFrame({"OS_time": np.where(dead == 1, days[:, 0], days[:, 1]), "OS_event": dead})
