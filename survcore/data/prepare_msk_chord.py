"""Reader for the five cancers of MSK-CHORD: 23 genes and clinical variables, followed from diagnosis, seen from
sequencing on.

Jee et al. 2024, doi:10.1038/s41586-024-08167-5; the tables behind its figures.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from survcore.data.messages import counted, listed
from survcore.data.panel_tables import find_table, flags, numbers
from survcore.data.prepare_shared import PublishedCohort, published_cohort, read_published, require_columns
from survcore.errors import DataError

CANCERS = ("nsclc", "crc", "brca", "prostate", "panc")
GENES = (
    "AKT1", "ALK", "BRAF", "CTNNB1", "EGFR", "ERBB2", "FGFR1", "FGFR2", "FGFR3", "GNA11", "GNAQ", "HRAS", "IDH1",
    "KIT", "KRAS", "MET", "NOTCH1", "NRAS", "PDGFRA", "PIK3CA", "PTEN", "RET", "TP53",
)  # fmt: skip
# Known at sequencing and in all five files. What is not read, and why:
# - outcomes: stop, dead, stop_DMETS_DX_* and dead_DMETS_DX_* (metastasis after sequencing);
# - what follow-up may tell: progressed, STAGE_I-III_PROG and STAGE_I-III_NOPROG (made of it), ANY_CURRENT_* (treatment
#   at or after sequencing), MAX_* (highest marker ever), PDL1 and HAS_PDL1 (undated, and absent in most);
# - the year of sequencing, which says how long a patient can have been followed;
# - what only some files have: markers, histology, smoking, and the other classes of prior treatment.
# A metastasis counts as known (DMETS_DX_*) up to 30 days after sequencing.
_STAGES = ("STAGE 1", "STAGE 2", "STAGE 3", "STAGE 4")
CLINICAL = (
    "AGE", "MALE", "WHITE", "ASIAN", "BLACK", *_STAGES, "DMETS_DX_ADRENAL", "DMETS_DX_BONE", "DMETS_DX_BRAIN",
    "DMETS_DX_LIVER", "DMETS_DX_LUNG", "DMETS_DX_LYMPH", "DMETS_DX_PLEURA", "DMETS_DX_OTHER", "ANY_PRIOR_TX",
    "ANY_PREV_cytotoxic", "ANY_PREV_immunotherapy", "ANY_PREV_other",
)  # fmt: skip
_NUMBERS = ("SEQUENCING_YEAR", "entry", "stop", "dead", *CLINICAL)
# Tumours have been sequenced for less long than this; an earlier year stands for an unknown date.
_FIRST_YEAR = 2000


def prepare_msk_chord(folder: str | Path, *, cancer_type: bool = False, name: str = "msk_chord") -> PublishedCohort:
    """Read the five tables ``nsclc``, ``crc``, ``brca``, ``prostate`` and ``panc`` (also as ``NAME_dx_1st_seq_OS``).

    One row per patient and cancer, ``PATIENT-CANCER``; the two cancers of one patient share the patient id. Panel
    "mutations": 23 genes. Vector "clinical": age at sequencing, sex, race, stage at diagnosis, metastatic sites and
    treatment up to sequencing. Endpoint "OS" in days from diagnosis with entry at sequencing (left truncation); strata
    are the five cancers.

    Lines that repeat another one of their file, whose date of sequencing is a placeholder (so that age and entry are
    unknown), or whose follow-up ends at entry or before it, are left out and counted. A patient with none of the four
    stages has missing entries there.

    Args:
        folder: holds the files (csv, plain or compressed, or parquet).
        cancer_type: add one 0/1 column per cancer to "clinical", as the paper of Surv-M2AC does, which has no strata.
            By default they are left to the strata: a stratified likelihood cannot learn a cancer's own risk, and the
            concordance within strata does not ask for it. Add them where a cancer may change what a gene means, or for
            a head that is not stratified.
        name: of the cohort.

    Raises:
        DataError: a file or column that is absent, different lines of one patient in one file, values that are no
            numbers, impossible times or events. The message names file, column and patient.
    """
    folder = Path(folder)
    facts: list[str] = []
    rows = pd.concat([_read_cancer(folder, cancer, facts) for cancer in CANCERS])
    unseen = rows["stop"] <= rows["entry"]
    facts.append(f"{counted(int(unseen.sum()), 'row')} whose follow-up ends at entry or before left out")
    rows = rows[~unseen]
    clinical = rows[list(CLINICAL)].copy()
    unstaged = ~(clinical[list(_STAGES)] == 1).any(axis=1)
    clinical.loc[unstaged, list(_STAGES)] = float("nan")
    facts.append(f"clinical: stage missing in {counted(int(unstaged.sum()), 'row')}")
    if cancer_type:
        clinical = clinical.assign(**{f"CANCER={cancer}": rows["strata"] == cancer for cancer in CANCERS})
    outcomes = pd.DataFrame(
        {
            "OS_time": rows["stop"],
            "OS_event": rows["dead"],
            "OS_entry": rows["entry"],
            "patient_id": rows["PATIENT_ID"],
            "strata": rows["strata"],
        }
    )
    several = int((outcomes["patient_id"].value_counts() > 1).sum())
    facts.append(f"{counted(several, 'patient')} in several rows, which stay together in folds")
    tables = {"mutations": rows[list(GENES)], "clinical": clinical}
    return published_cohort(tables, outcomes, folder, facts, time_unit="days", name=name)


def _read_cancer(folder: Path, cancer: str, facts: list[str]) -> pd.DataFrame:
    """The usable lines of one file, indexed by row id."""
    stems = (cancer, f"{cancer}_dx_1st_seq_OS")
    path = find_table(folder, next((stem for stem in stems if any(folder.glob(f"{stem}.*"))), cancer))
    table = read_published(path, dtype={"PATIENT_ID": str})
    require_columns(table, ("PATIENT_ID", *_NUMBERS, *GENES), path)
    if table["PATIENT_ID"].isna().any():
        raise DataError(f"{path}: column 'PATIENT_ID' is empty in line {int(table['PATIENT_ID'].isna().argmax()) + 2}")
    repeats = table.duplicated()
    table = table[~repeats]
    if (several := table["PATIENT_ID"].duplicated()).any():
        raise DataError(f"{path}: different lines of patient {listed(table.loc[several, 'PATIENT_ID'].unique())}")
    table.index = pd.Index(table["PATIENT_ID"] + f"-{cancer}")
    values = pd.concat([numbers(table, _NUMBERS, path), flags(table, GENES, path)], axis=1)
    undated = values["SEQUENCING_YEAR"] < _FIRST_YEAR
    facts.append(
        f"{path.name}: {counted(len(repeats), 'line')}; left out {int(repeats.sum())} that repeat another, "
        f"{int(undated.sum())} with a placeholder for the date of sequencing"
    )
    return values.assign(PATIENT_ID=table["PATIENT_ID"], strata=cancer)[~undated]
