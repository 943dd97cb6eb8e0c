"""Reader for the omics tables of MCAT and PORPOISE, joined with a table of slide features by patient.

The tables have one row per slide, columns ``<GENE>_rnaseq``, ``<GENE>_cnv`` and ``<GENE>_mut`` that repeat over a
patient's slides, ``survival_months``, and ``censorship``, in which 1 means censored (the reverse of an event flag).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.messages import counted, listed
from survcore.data.prepare_shared import PublishedCohort, read_published, refuse_outcomes
from survcore.data.slide_features import SlideFeatures, read_slide_features
from survcore.errors import DataError

ASSAYS = {"rna": "rnaseq", "cnv": "cnv", "snv": "mut"}
OMICS_SUFFIXES = tuple(ASSAYS.values())
REST = ("token", "drop")
_REST_TOKEN = "Other columns"
_REQUIRED = ("case_id", "survival_months", "censorship")
_CLINICAL = {"slide_id", "age", "site", "is_female", "oncotree_code", "train", *_REQUIRED}


def prepare_mcat(
    omics_table: str | Path,
    *,
    signatures: str | Path,
    folds: str | Path | None = None,
    slide_features: str | Path | None = None,
    name: str | None = None,
    rest: str = "token",
    assays: bool = False,
    keep_incomplete: bool = False,
    slide_columns: str | None = None,
    slide_names: str | Path | None = None,
) -> PublishedCohort:
    """Read an MCAT or PORPOISE omics table, its gene families and folds, and slide features of the same patients.

    Modality "omics": one token per gene family of ``signatures`` (families overlap) and one for the columns outside
    all families; or by assay the modalities "rna", "cnv" and "snv", each with such tokens of its own columns, as far as
    the table has them. Modality "slide": see :func:`survcore.data.slide_features.read_slide_features`. Endpoint "OS" in
    months; a patient's fold is the published ``val_fold``, its test fold. Clinical columns are not read.

    Args:
        omics_table: csv, plain or compressed, one row per slide.
        signatures: csv with one column per gene family, gene symbols in the cells.
        folds: csv with columns ``cohort``, ``case_id``, ``val_fold``.
        slide_features: csv or parquet with one row per slide or patient.
        name: name of the cohort, which picks its lines of ``folds``; by default how ``omics_table``'s file name starts.
        rest: the columns outside all families become a "token", or "drop".
        assays: the modalities "rna", "cnv", "snv" in place of "omics".
        keep_incomplete: keep patients that lack slide features. Those without omics have no outcome here and are never
            kept.
        slide_columns: regular expression that picks the slide features; by default names that end in _HE or _FFPE.
        slide_names: csv whose first column holds the names in ``slide_features`` and whose second the names to give
            them; only these columns are features then.

    Raises:
        DataError: a file without the columns named above, columns that differ between a patient's slides, a patient
            without fold, features that carry the outcome, no patient in both tables.
    """
    if rest not in REST:
        raise ValueError(f"rest: expected one of {', '.join(REST)}, got {rest!r}")
    from survcore.data.cohort import Cohort

    omics_table = Path(omics_table)
    patients, columns, facts = _read_omics(omics_table)
    parts = _by_assay(columns, facts) if assays else {"omics": columns}
    families = _families(Path(signatures), columns)
    tokens = {part: _family_tokens(part, members, families, rest, facts) for part, members in parts.items()}
    groups = {part: named for part, named in tokens.items() if named}
    kinds, transforms, frames = dict.fromkeys(groups, "tokens"), {}, {}
    if slide_features is not None:
        slides = read_slide_features(slide_features, columns=slide_columns, names=slide_names)
        facts += slides.facts
        patients = _joined(patients, slides, keep_incomplete, facts)
        frames["slide"] = slides.table[slides.table.index.isin(patients.index)]
        kinds["slide"] = "tokens" if slides.groups else "vector"
        transforms["slide"] = slides.transform
        if slides.groups:
            groups["slide"] = slides.groups
    for part, named in tokens.items():
        grouped = {column for members in named.values() for column in members}
        if grouped:
            frames[part] = patients[[column for column in columns if column in grouped]]
    outcomes = pd.DataFrame({"OS_time": patients["survival_months"], "OS_event": 1 - patients["censorship"]})
    name = name or omics_table.name.split(".")[0]
    if folds is not None:
        name, outcomes["fold"] = _read_folds(Path(folds), name, patients.index)
        sizes = ", ".join(str(size) for size in outcomes["fold"].value_counts().sort_index())
        facts.append(f"folds: {outcomes['fold'].nunique()} published, of {sizes} patients")
    facts.append(
        f"cohort {name}: {counted(len(outcomes), 'patient')}, {counted(int(outcomes['OS_event'].sum()), 'death')}"
    )
    cohort = Cohort.from_frames(
        frames, outcomes, time_unit="months", kinds=kinds, groups=groups, transforms=transforms, name=name
    )
    return PublishedCohort(cohort, facts)


def _read_omics(path: Path) -> tuple[pd.DataFrame, list[str], list[str]]:
    """One row per patient (index case_id), the omics columns in file order, and facts."""
    slides = read_published(path)
    absent = [column for column in _REQUIRED if column not in slides]
    if absent:
        raise DataError(f"{path}: expected columns {', '.join(_REQUIRED)}; {listed(absent)} absent")
    columns = [column for column in slides if column.rpartition("_")[2] in OMICS_SUFFIXES and column.rpartition("_")[0]]
    if not columns:
        raise DataError(f"{path}: no column ends in {', '.join('_' + suffix for suffix in OMICS_SUFFIXES)}")
    refuse_outcomes(columns, path)
    _check_omics_values(slides, columns, path)
    slides["case_id"] = slides["case_id"].astype(str)
    patients = slides.drop_duplicates("case_id").set_index("case_id")
    _check_repeats(slides, [*columns, "survival_months", "censorship"], path)
    kinds = [column.rpartition("_")[2] for column in columns]
    counts = ", ".join(f"{kinds.count(suffix)} {suffix}" for suffix in OMICS_SUFFIXES)
    facts = [f"omics: {counted(len(slides), 'row')} of slides, {counted(len(patients), 'patient')}, columns: {counts}"]
    ignored = [
        column
        for column in slides
        if column not in columns and column not in _CLINICAL and not column.startswith("Unnamed")
    ]
    if ignored:
        facts.append(
            f"omics: {counted(len(ignored), 'column')} without one of the suffixes not read: {listed(ignored, 3)}"
        )
    return patients[[*columns, "survival_months", "censorship"]], columns, facts


def _check_omics_values(slides: pd.DataFrame, columns: list[str], path: Path) -> None:
    text = [column for column in columns if not pd.api.types.is_numeric_dtype(slides[column])]
    if text:
        raise DataError(f"{path}: omics columns must hold numbers; {listed(text)} do not")
    wrong = ~slides["censorship"].isin((0, 1))
    if wrong.any():
        row = slides[wrong].iloc[0]
        raise DataError(
            f"{path}: censorship must be 0 (death) or 1 (censored), got {row['censorship']} for {row['case_id']!r}"
        )


def _check_repeats(slides: pd.DataFrame, columns: list[str], path: Path) -> None:
    """All rows of a patient must say the same."""
    values = slides[columns].to_numpy(dtype=np.float64)
    first = slides.groupby("case_id", sort=False).ngroup().to_numpy()
    start = np.flatnonzero(~slides["case_id"].duplicated().to_numpy())
    other = values[start[first]]
    differs = (values != other) & ~(np.isnan(values) & np.isnan(other))
    if differs.any():
        row, column = (int(index[0]) for index in np.nonzero(differs))
        raise DataError(
            f"{path}: patient {slides['case_id'].iloc[row]!r} has different values of {columns[column]!r} in its rows "
            f"({other[row, column]:g} and {values[row, column]:g})"
        )


def _by_assay(columns: list[str], facts: list[str]) -> dict[str, list[str]]:
    """The columns of each assay that the table has."""
    parts = {assay: [column for column in columns if column.endswith(f"_{ASSAYS[assay]}")] for assay in ASSAYS}
    for assay, members in parts.items():
        if not members:
            facts.append(f"{assay}: no column ends in _{ASSAYS[assay]}; the cohort is without this modality")
    return {assay: members for assay, members in parts.items() if members}


def _families(signatures: Path, columns: list[str]) -> dict[str, set[str]]:
    """The genes of each family; DataError where no family has a gene of the table."""
    table = read_published(signatures, dtype=str)
    families = {family: set(table[family].dropna().str.strip()) for family in table}
    if not set().union(*families.values()) & {column.rpartition("_")[0] for column in columns}:
        raise DataError(f"{signatures}: none of the families {listed(families)} names a gene of the table")
    return families


def _family_tokens(
    part: str, columns: list[str], families: dict[str, set[str]], rest: str, facts: list[str]
) -> dict[str, list[str]]:
    """Token name to columns: the gene families that have any, then the columns outside all of them."""
    tokens: dict[str, list[str]] = {}
    for family, genes in families.items():
        members = [column for column in columns if column.rpartition("_")[0] in genes]
        if members:
            tokens[family] = members
        else:
            facts.append(f"{part}: family {family!r} has no column in the table and is left out")
    covered = {column for members in tokens.values() for column in members}
    outside = [column for column in columns if column not in covered]
    if outside and rest == "token":
        tokens[_REST_TOKEN] = outside
    sizes = ", ".join(f"{token} {len(members)}" for token, members in tokens.items()) or "none, so it is left out"
    facts.append(f"{part} tokens: {sizes}; families overlap and cover {len(covered)} of {len(columns)} columns")
    if outside and rest == "drop":
        facts.append(f"{part}: {counted(len(outside), 'column')} outside all families dropped")
    return tokens


def _joined(patients: pd.DataFrame, slides: SlideFeatures, keep_incomplete: bool, facts: list[str]) -> pd.DataFrame:
    both = patients.index.isin(slides.table.index)
    if not both.any():
        raise DataError(
            f"no patient is in both tables: omics has {listed(patients.index, 2)}, "
            f"slide features have {listed(slides.table.index, 2)}"
        )
    facts.append(
        f"join: {int(both.sum())} patients in both tables; {int((~both).sum())} with omics only "
        f"{'kept' if keep_incomplete else 'left out'}; {int((~slides.table.index.isin(patients.index)).sum())} "
        "with slide features only left out (the omics table holds the outcomes)"
    )
    return patients if keep_incomplete else patients[both]


def _read_folds(path: Path, name: str, patients: pd.Index) -> tuple[str, pd.Series]:
    """The cohort of the folds file that ``name`` starts with, and the test fold of each patient."""
    table = read_published(path, dtype={"cohort": str, "case_id": str})
    absent = [column for column in ("cohort", "case_id", "val_fold") if column not in table]
    if absent:
        raise DataError(f"{path}: expected columns cohort, case_id, val_fold; {listed(absent)} absent")
    cohorts = sorted(table["cohort"].unique())
    # The longest match, so that "tcga_luad" is not taken for "tcga_lu".
    cohort = max((cohort for cohort in cohorts if name.startswith(cohort)), key=len, default=None)
    if cohort is None:
        raise DataError(f"{path}: no cohort {name!r} among {', '.join(cohorts)}; give its name")
    fold = table[table["cohort"] == cohort].set_index("case_id")["val_fold"]
    if fold.index.has_duplicates:
        raise DataError(f"{path}: {listed(fold.index[fold.index.duplicated()])} in several lines of cohort {cohort!r}")
    without = patients.difference(fold.index)
    if len(without):
        raise DataError(
            f"{path}: {counted(len(without), 'patient')} of cohort {cohort!r} without fold: {listed(without)}"
        )
    return cohort, fold.reindex(patients)
