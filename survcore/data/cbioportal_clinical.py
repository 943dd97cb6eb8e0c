"""The fourteen clinical features of Surv-M2AC, as far as a study has them, and further columns on request."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.cbioportal_files import find_file, read_study_file
from survcore.data.cbioportal_outcomes import outcome_columns_of
from survcore.data.cbioportal_samples import Clinical
from survcore.data.messages import counted, listed
from survcore.data.prepare_shared import refuse_outcomes
from survcore.errors import DataError

MOST_CATEGORIES = 20
_STAGES = ("STAGE_HIGHEST_RECORDED", "HIGHEST_STAGE_RECORDED", "AJCC_PATHOLOGIC_TUMOR_STAGE", "STAGE")
_SITES = {site: (site, f"DMETS_DX_{site}") for site in ("CNS_BRAIN", "LIVER", "LUNG")}
_SITE_NAMES = {"CNS_BRAIN": ("cns/brain", "cns_brain", "brain"), "LIVER": ("liver",), "LUNG": ("lung",)}
_CANCERS = {
    "CANCER_TYPE_BREAST": "breast cancer",
    "CANCER_TYPE_COLON": "colorectal cancer",
    "CANCER_TYPE_LUNG": "non-small cell lung cancer",
    "CANCER_TYPE_PANCREAS": "pancreatic cancer",
    "CANCER_TYPE_PROSTATE": "prostate cancer",
}
_THRESHOLDS = {
    "AGE_GE_65": (("AGE_AT_DIAGNOSIS", "AGE_AT_SEQUENCING", "AGE_AT_SEQ_REPORT", "AGE", "CURRENT_AGE_DEID"), 65.0),
    "TMB_GE_10": (("TMB_NONSYNONYMOUS",), 10.0),
    "FRACTION_GENOME_ALTERED_GE_0.2": (("FRACTION_GENOME_ALTERED",), 0.2),
}
FEATURES = ("HIGHEST_STAGE_4", *_SITES, "REGIONAL", "DISTANT", *_CANCERS, *_THRESHOLDS)
# Recorded over the whole follow-up: longer follow-up makes them higher.
_OVER_FOLLOW_UP = {"STAGE_HIGHEST_RECORDED", "HIGHEST_STAGE_RECORDED", *_SITES, "CURRENT_AGE_DEID"}
# A segment whose mean log2 ratio is at least this far from 0 counts as altered, as in cBioPortal.
_ALTERED = 0.2

_YES = {"yes": 1.0, "y": 1.0, "true": 1.0, "1": 1.0, "no": 0.0, "n": 0.0, "false": 0.0, "0": 0.0}
_FOUR = re.compile(r"(iv|4)[a-d]?\d?")
_BELOW_FOUR = re.compile(r"(0|i{1,3}|[1-3](-[1-3])?)(a|b|c|d|is)?\d?")


def clinical_features(
    clinical: Clinical,
    folder: Path,
    *,
    further: Sequence[str],
    leave_out: Sequence[str],
    facts: list[str],
) -> pd.DataFrame:
    """The features by patient, float64, NaN where a cell is missing or says it is unknown.

    A feature that the study lacks, or that is the same for all patients, is left out, which a fact tells.

    Args:
        clinical: the cells.
        folder: of the study, for timelines and segments where the clinical files lack a column.
        further: columns to read besides: numbers as they are (">89" as 89), texts as one 0/1 column per value.
        leave_out: names among :data:`FEATURES` that are not wanted.
        facts: sources, texts that were not understood and what is lacking are appended.

    Raises:
        DataError: a further column that is absent, carries the outcome or holds too many texts; a cell that should be a
            number and is not.
        ValueError: ``leave_out`` names no feature.
    """
    if unknown := [name for name in leave_out if name not in FEATURES]:
        raise ValueError(f"leave_out: no clinical feature {listed(unknown)}; the features are {', '.join(FEATURES)}")
    found = {**_stage(clinical, facts), **_sites(clinical, folder, facts), **_extent(clinical, folder, facts)}
    found |= {**_cancers(clinical), **_over_thresholds(clinical, folder, facts)}
    chosen: dict[str, pd.Series] = {}
    sources: list[str] = []
    constant = []
    for name in FEATURES:
        if name in found and name not in leave_out:
            source, values = found[name]
            if values.nunique() < 2:
                constant.append(name)
                continue
            chosen[name] = values
            sources.append(source)
            facts.append(f"clinical: {name} from {source}, missing in {counted(int(values.isna().sum()), 'patient')}")
    if lacking := [name for name in FEATURES if name not in found]:
        facts.append(f"clinical: the study has no {', '.join(lacking)}")
    if constant:
        facts.append(f"clinical: {', '.join(constant)} left out, the same for all patients")
    if late := sorted({source for source in sources if source in _OVER_FOLLOW_UP or "timeline" in source}):
        facts.append(
            f"clinical: {', '.join(late)} are recorded over the whole follow-up, so they may tell of the time after "
            "baseline; leave_out drops the features made of them"
        )
    for column in _further(clinical, further):
        chosen |= _any_column(clinical, column, facts)
    return pd.DataFrame(chosen, index=clinical.patients, dtype=np.float64)


def _understood(values: pd.Series, read: Callable[[str], float | None], source: str, facts: list[str]) -> pd.Series:
    """What ``read`` makes of each text; texts that it gives None for are missing, which a fact tells."""
    answers = {text: read(text.strip().lower()) for text in values.dropna().unique()}
    if strange := sorted(text for text, answer in answers.items() if answer is None):
        count = int(values.isin(strange).sum())
        facts.append(f"clinical: {source} says nothing definite in {counted(count, 'patient')}: {listed(strange)}")
    return values.map({text: np.nan if answer is None else answer for text, answer in answers.items()}).astype(float)


def _stage(clinical: Clinical, facts: list[str]) -> dict[str, tuple[str, pd.Series]]:
    column = clinical.first(_STAGES)
    if column is None:
        return {}
    return {"HIGHEST_STAGE_4": (column, _understood(clinical.text(column), _is_stage_four, column, facts))}


def _is_stage_four(text: str) -> float | None:
    bare = text.removeprefix("stage").strip()
    return 1.0 if _FOUR.fullmatch(bare) else 0.0 if _BELOW_FOUR.fullmatch(bare) else None


def _sites(clinical: Clinical, folder: Path, facts: list[str]) -> dict[str, tuple[str, pd.Series]]:
    found = {}
    for site, names in _SITES.items():
        if column := clinical.first(names):
            found[site] = (column, _understood(clinical.text(column), _YES.get, column, facts))
    path = None if len(found) == len(_SITES) else find_file(folder, "data_timeline_tumor_sites.txt")
    if path is None:
        return found
    timeline = read_study_file(path, ["PATIENT_ID", "TUMOR_SITE"], []).table.dropna()
    listed_ones = clinical.patients.isin(timeline["PATIENT_ID"])
    for site in _SITES.keys() - found.keys():
        there = timeline["PATIENT_ID"][timeline["TUMOR_SITE"].str.lower().isin(_SITE_NAMES[site])]
        values = np.where(listed_ones, clinical.patients.isin(there).astype(float), np.nan)
        found[site] = (path.name, pd.Series(values, index=clinical.patients))
    return found


def _extent(clinical: Clinical, folder: Path, facts: list[str]) -> dict[str, tuple[str, pd.Series]]:
    """Regional and distant spread, from the summary stage in the clinical files or of the earliest diagnosis."""
    source = clinical.first(("CLINICAL_SUMMARY",))
    if source is not None:
        texts = clinical.text(source)
    elif (path := find_file(folder, "data_timeline_diagnosis.txt")) is not None:
        timeline = read_study_file(path, ["PATIENT_ID", "START_DATE"], ["SUMMARY"]).table
        if "SUMMARY" not in timeline:
            return {}
        timeline = timeline.assign(day=pd.to_numeric(timeline["START_DATE"], errors="coerce")).dropna(subset="SUMMARY")
        earliest = timeline.sort_values("day", kind="stable").drop_duplicates("PATIENT_ID").set_index("PATIENT_ID")
        source, texts = path.name, earliest["SUMMARY"].reindex(clinical.patients)
    else:
        return {}
    extent = _understood(texts, _extent_of, source, facts)
    return {
        name: (source, (extent == code).astype(float).where(extent.notna()))
        for name, code in (("REGIONAL", 1), ("DISTANT", 2))
    }


def _extent_of(text: str) -> float | None:
    """0 local, 1 regional, 2 distant."""
    starts = (("in situ", 0.0), ("local", 0.0), ("regional", 1.0), ("distant", 2.0))
    return next((code for start, code in starts if text.startswith(start)), None)


def _cancers(clinical: Clinical) -> dict[str, tuple[str, pd.Series]]:
    column = clinical.first(("CANCER_TYPE",))
    if column is None:
        return {}
    texts = clinical.text(column)
    words = texts.str.strip().str.lower()
    return {name: (column, (words == cancer).astype(float).where(texts.notna())) for name, cancer in _CANCERS.items()}


def _over_thresholds(clinical: Clinical, folder: Path, facts: list[str]) -> dict[str, tuple[str, pd.Series]]:
    found = {}
    for name, (columns, threshold) in _THRESHOLDS.items():
        if column := clinical.first(columns):
            source, values = column, clinical.numbers(column, bounds=True)
        elif name.startswith("FRACTION") and (segments := sorted(folder.glob("data_cna*.seg*"))):
            source, values = segments[0].name, _fraction_altered(segments[0], clinical)
        else:
            continue
        found[name] = (source, (values >= threshold).astype(float).where(values.notna()))
    return found


def _fraction_altered(path: Path, clinical: Clinical) -> pd.Series:
    """Share of the segments' length that is altered, by patient."""
    wanted = {"ID", "LOC.START", "LOC.END", "SEG.MEAN"}
    try:
        segments = pd.read_csv(
            path, sep="\t", comment="#", usecols=lambda name: name.strip().upper() in wanted, dtype={"ID": str}
        )
        segments.columns = segments.columns.str.strip().str.upper()
        length = segments["LOC.END"].astype(float) - segments["LOC.START"].astype(float)
        altered = length.where(segments["SEG.MEAN"].astype(float).abs() >= _ALTERED, 0.0)
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: expected columns ID, loc.start, loc.end and seg.mean with numbers: {str(error)[:200]}"
        ) from error
    sums = pd.DataFrame({"length": length, "altered": altered}).groupby(segments["ID"].str.strip()).sum()
    sums = sums[sums["length"] > 0]
    return clinical.text("SAMPLE_ID").map(sums["altered"] / sums["length"]).astype(float)


def _further(clinical: Clinical, names: Sequence[str]) -> list[str]:
    capitals = [name.upper() for name in names]
    if absent := [name for name in capitals if name not in clinical.columns]:
        raise DataError(
            f"{clinical.sources[-1][0].path.parent}: no clinical column {listed(absent)}; "
            f"the columns are {listed(clinical.columns, 40)}"
        )
    outcomes = outcome_columns_of(clinical)
    for name in capitals:
        if name in outcomes:
            raise DataError(f"{clinical.files(name)}: column {name!r} is an outcome and cannot be a feature")
        refuse_outcomes([name], Path(clinical.files(name)))
    return capitals


def _any_column(clinical: Clinical, column: str, facts: list[str]) -> dict[str, pd.Series]:
    """A column of numbers as it is; texts as one 0/1 column per value."""
    texts = clinical.text(column)
    held = texts.dropna()
    declared = clinical.declared(column)
    if held.empty:
        facts.append(f"clinical: {column} left out, it holds nothing")
        return {}
    if declared == "NUMBER" or pd.to_numeric(held, errors="coerce").notna().all():
        return {column: clinical.numbers(column, bounds=True)}
    levels = sorted(held.unique())
    if len(levels) > MOST_CATEGORIES:
        raise DataError(
            f"{clinical.files(column)}: column {column!r} holds {len(levels)} different texts ({listed(levels, 3)}), "
            f"too many for categories (at most {MOST_CATEGORIES})"
        )
    facts.append(f"clinical: {column} as one 0/1 column per value: {', '.join(levels)}")
    return {f"{column}={level}": (texts == level).astype(float).where(texts.notna()) for level in levels}
