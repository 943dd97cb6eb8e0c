"""Reader for a study folder as it is downloaded from cBioPortal (https://docs.cbioportal.org/file-formats/).

::

    data_mutations.txt                                       MAF, one line per mutation
    data_clinical_patient.txt, data_clinical_sample.txt      four comment lines, then one line per patient or sample
    data_cna.txt                                             optional: discrete copy numbers, genes x samples
    data_sv.txt                                              optional: structural variants
    data_gene_panel_matrix.txt, data_gene_panel_*.txt        optional: the panel of each sample, and its genes
    data_timeline_*.txt, data_cna_*.seg, case_lists, meta_*  optional, used where they are there

Every file may be compressed (.gz).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.cbioportal_clinical import clinical_features
from survcore.data.cbioportal_copy_number import CNA_NAMES, read_copy_numbers
from survcore.data.cbioportal_coverage import GeneCoverage, matrix_columns, profiled_samples, unprofiled_samples
from survcore.data.cbioportal_files import find_file
from survcore.data.cbioportal_fusions import SV_NAMES, read_structural_variants
from survcore.data.cbioportal_mutations import MAF_NAMES, read_mutations
from survcore.data.cbioportal_outcomes import read_outcomes
from survcore.data.cbioportal_panel import alteration_panel
from survcore.data.cbioportal_samples import (
    RULES,
    Clinical,
    choose_samples,
    clinical_cells,
    read_patients,
    read_samples,
)
from survcore.data.messages import counted, listed
from survcore.data.prepare_shared import PublishedCohort, is_binary
from survcore.data.sparse_panel import Panel
from survcore.errors import DataError

MODALITIES = ("mutations", "cna", "sv", "clinical")
_FILES = {"mutations": MAF_NAMES, "cna": CNA_NAMES, "sv": SV_NAMES}
_CNA_COLUMNS = ("CNA", "GISTIC", "CNA_RAE", "CNA_CONSENSUS")
_SV_COLUMNS = ("STRUCTURAL_VARIANTS", "STRUCTURAL_VARIANT", "SV", "MUTATIONS")


def prepare_cbioportal(
    folder: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    endpoints: Sequence[str] | None = None,
    samples: str = "primary",
    least_patients: int = 2,
    least_gene_share: float = 0.0,
    drop_silent: bool = False,
    somatic_only: bool = False,
    gene_panels: str | Path | None = None,
    clinical: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    strata: str | None = None,
    name: str | None = None,
) -> PublishedCohort:
    """Read a cBioPortal study: one row per patient, endpoint "OS" in months, up to four modalities.

    - "mutations", a panel: one 0/1 column per subtype GENE_MUTATIONTYPE_VARIANTTYPE_chrN (Surv-M2AC's definition),
      every mutation of the MAF unless options leave some out; repeated lines count once.
    - "cna", a panel: GENE_AMP (level 2) and GENE_HOMDEL (level -2).
    - "sv", a panel: GENE_SV for each gene that a structural variant touches, GENE-GENE_FUSION for pairs.
    - "clinical", a panel where all columns are 0/1, else a vector: see
      :func:`survcore.data.cbioportal_clinical.clinical_features`.

    A gene that the sample's panel does not hold is a missing entry, and a patient whose sample was not profiled lacks
    the modality: see :func:`survcore.data.cbioportal_coverage.profiled_samples`. Patients without outcome or without
    any modality are left out. Columns are counted here over all patients and therefore kept from few on; the
    preprocessing setting ``least_active`` leaves out those that are rare in the training part of a fold (the paper's
    threshold is 10).

    Args:
        folder: the study.
        modalities: those to read, in this order; by default all whose files are there.
        endpoints: pairs of columns NAME_MONTHS, NAME_STATUS to read; by default OS and those known for every patient
            with OS. Patients without one of those named are left out.
        samples: which of a patient's samples count: "primary", "merge" or "drop", see
            :func:`survcore.data.cbioportal_samples.choose_samples`. Clinical cells come from the best sample.
        least_patients: columns of the first three modalities need so many patients.
        least_gene_share: genes need so large a share of all mutations (the paper: .001).
        drop_silent: leave out silent and non-coding mutations, as cBioPortal does when it loads a study.
        somatic_only: leave out germline mutations and variants.
        gene_panels: folder with definitions of gene panels; by default the study and its folder ``gene_panels``.
        clinical: further columns of the two clinical files as features.
        leave_out: clinical features that are not wanted.
        strata: a clinical column that becomes the strata; patients without it form the stratum "unknown".
        name: of the cohort; by default the folder's name.

    Raises:
        DataError: a file or column that is absent, damaged or in conflict with itself; cells that are no numbers,
            levels or states; outcomes among the features; no patient left. The message names file, line, column or
            patient, what was expected and what came.
        ValueError: an option that names nothing known.
    """
    folder = Path(folder)
    _check_options(folder, modalities, samples, least_patients, least_gene_share)
    facts: list[str] = []
    files = _files(folder, modalities, facts)
    patient_file, sample_file = read_patients(folder, facts), read_samples(folder, facts)
    panels = None if gene_panels is None else Path(gene_panels)
    known = pd.Index(sample_file.table["SAMPLE_ID"])
    found: dict[str, tuple[pd.DataFrame, GeneCoverage]] = {}
    if "mutations" in files:
        mutations = read_mutations(
            files["mutations"], drop_silent=drop_silent, somatic_only=somatic_only, least_gene_share=least_gene_share,
            facts=facts,
        )  # fmt: skip
        _count_strangers(mutations, known, files["mutations"], facts)
        found["mutations"] = mutations, profiled_samples(
            folder, "mutations", columns=("MUTATIONS",), case_list="cases_sequenced.txt", meta="meta_mutations.txt",
            panels_folder=panels, listed_samples=_listed(mutations, known), facts=facts,
        )  # fmt: skip
    if "cna" in files:
        levels, coverage = read_copy_numbers(files["cna"], known, facts)
        if set(_CNA_COLUMNS) & set(matrix_columns(folder)):
            coverage = coverage.without(unprofiled_samples(folder, _CNA_COLUMNS)).within(
                profiled_samples(
                    folder, "cna", columns=_CNA_COLUMNS, case_list="cases_cna.txt", meta="meta_cna.txt",
                    panels_folder=panels, listed_samples=list(coverage.owners), facts=facts,
                )
            )  # fmt: skip
        found["cna"] = levels, coverage
    if "sv" in files:
        variants = read_structural_variants(files["sv"], somatic_only=somatic_only, facts=facts)
        _count_strangers(variants, known, files["sv"], facts)
        found["sv"] = variants, profiled_samples(
            folder, "sv", columns=_SV_COLUMNS, case_list="cases_sv.txt", meta="meta_sv.txt",
            panels_folder=panels, listed_samples=_listed(variants, known), facts=facts,
        )  # fmt: skip
    sequenced = found["mutations"][1].owners if "mutations" in found else ()
    chosen = choose_samples(sample_file, samples, sequenced, folder, facts)
    cells = clinical_cells(patient_file, sample_file, chosen)
    outcomes = read_outcomes(cells, endpoints, facts)
    cells = cells.only(outcomes.index)
    tables: dict[str, Panel | pd.DataFrame | None] = {
        what: alteration_panel(
            alterations, chosen, cells.patients, coverage, least_patients=least_patients, what=what, facts=facts
        )
        for what, (alterations, coverage) in found.items()
    }
    if modalities is None or "clinical" in modalities:
        tables["clinical"] = clinical_features(cells, folder, further=clinical, leave_out=leave_out, facts=facts)
    if strata is not None:
        outcomes["strata"] = _strata(cells, strata, facts)
    return _cohort(tables, outcomes, modalities, folder, name, facts)


def _check_options(
    folder: Path, modalities: Sequence[str] | None, samples: str, least_patients: int, least_gene_share: float
) -> None:
    if modalities is not None and (not modalities or set(modalities) - set(MODALITIES)):
        raise ValueError(f"modalities: expected some of {', '.join(MODALITIES)}, got {listed(modalities)}")
    if samples not in RULES:
        raise ValueError(f"samples: expected one of {', '.join(RULES)}, got {samples!r}")
    if least_patients < 1:
        raise ValueError(f"least_patients: expected at least 1, got {least_patients}")
    if not 0 <= least_gene_share < 1:
        raise ValueError(f"least_gene_share: expected a share from 0 to below 1, got {least_gene_share}")
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the folder of a study; no such folder")


def _files(folder: Path, modalities: Sequence[str] | None, facts: list[str]) -> dict[str, Path]:
    """The data file of each modality that is wanted; DataError where one that was asked for is not there."""
    files = {}
    for what, names in _FILES.items():
        if modalities is not None and what not in modalities:
            continue
        path = find_file(folder, *names)
        if path is not None:
            files[what] = path
        elif modalities is not None:
            raise DataError(f"{folder}: modality {what!r} needs the file {' or '.join(map(repr, names))}; no such file")
        else:
            facts.append(f"{what}: no {names[0]} in the study")
    return files


def _count_strangers(alterations: pd.DataFrame, known: pd.Index, path: Path, facts: list[str]) -> None:
    strange = ~alterations["sample"].isin(known)
    if not strange.any():
        return
    samples = alterations["sample"][strange].unique()
    if strange.all():
        raise DataError(
            f"{path}: none of its samples ({listed(samples, 3)}) is in the clinical sample file ({listed(known, 3)})"
        )
    facts.append(f"{path.name}: {counted(len(samples), 'sample')} without clinical data left out: {listed(samples, 3)}")


def _listed(alterations: pd.DataFrame, known: pd.Index) -> list[str]:
    samples = pd.Index(alterations["sample"].unique(), dtype=object)
    return list(samples[samples.isin(known)])


def _strata(cells: Clinical, column: str, facts: list[str]) -> pd.Series:
    column = column.upper()
    if column not in cells.columns:
        raise DataError(f"strata: no clinical column {column!r}; the columns are {listed(cells.columns, 40)}")
    strata = cells.text(column)
    unknown = f", {counted(int(strata.isna().sum()), 'patient')} unknown" if strata.isna().any() else ""
    facts.append(f"strata: {column}, {counted(strata.nunique(), 'value')}{unknown}")
    return strata.fillna("unknown")


def _cohort(
    tables: dict[str, Panel | pd.DataFrame | None],
    outcomes: pd.DataFrame,
    modalities: Sequence[str] | None,
    folder: Path,
    name: str | None,
    facts: list[str],
) -> PublishedCohort:
    from survcore.data.cohort import Cohort

    held = {what: table for what in modalities or MODALITIES if (table := tables.get(what)) is not None}
    held = {what: table for what, table in held.items() if len(table.columns)}
    owned = [outcomes.index.isin(_owners(table)) for table in held.values()]
    bare = ~np.any(owned or [np.zeros(len(outcomes), dtype=bool)], axis=0)
    if bare.all():
        raise DataError(f"{folder}: no patient with an outcome has a modality")
    if bare.any():
        facts.append(f"{counted(int(bare.sum()), 'patient')} without modality left out: {listed(outcomes.index[bare])}")
    outcomes = outcomes[~bare]
    if "clinical" in held:
        held["clinical"] = held["clinical"].loc[outcomes.index]
    kinds = dict.fromkeys(held, "panel")
    if "clinical" in held and not is_binary(held["clinical"].to_numpy()):
        kinds["clinical"] = "vector"
    try:
        cohort = Cohort.from_frames(
            held, outcomes,
            time_unit="months", kinds=kinds, name=name or folder.resolve().name,
        )  # fmt: skip
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error
    events = ", ".join(f"{key} {int((endpoint.event > 0).sum())}" for key, endpoint in cohort.endpoints.items())
    facts.append(f"cohort {cohort.name}: {counted(len(cohort), 'patient')}, events: {events}")
    return PublishedCohort(cohort, facts)


def _owners(table: Panel | pd.DataFrame) -> np.ndarray | pd.Index:
    """Rows with any entry."""
    return table.row_ids if isinstance(table, Panel) else table.index[table.notna().any(axis=1)]
