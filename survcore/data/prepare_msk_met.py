"""Reader for the clinical table and the structural variants of MSK-MET, 25,775 patients sequenced with MSK-IMPACT.

Nguyen et al. 2022, doi:10.1016/j.cell.2022.01.003.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.messages import counted, listed
from survcore.data.panel_tables import categories, find_table, gene_panel, numbers, read_patients
from survcore.data.prepare_shared import PublishedCohort, published_cohort, read_published, require_columns
from survcore.errors import DataError

# AGE_AT_EVIDENCE_OF_METS is not read: metastases found during follow-up count in it, too. AGE_AT_SURGERY repeats age.
NUMBERS = ("AGE_AT_SEQUENCING",)
TEXTS = ("SEX", "RACE")
LEAKS = ("AGE_AT_DEATH", "AGE_AT_LAST_CONTACT")
_UNKNOWN = ("Unknown", "No value entered", "Pt refused to answer")
_EVENTS = {"0:LIVING": 0.0, "1:DECEASED": 1.0}
_GENES = ("Site1_Hugo_Symbol", "Site2_Hugo_Symbol")


def prepare_msk_met(
    folder: str | Path,
    *,
    min_patients: int = 10,
    none_is_absent: bool = False,
    keep_leaks: bool = False,
    name: str = "msk_met",
) -> PublishedCohort:
    """Read ``data_clinical_patient`` and ``data_sv`` (csv, plain or compressed, or parquet).

    Vector "clinical": age at sequencing, sex and race as one 0/1 column per value (unknown ones missing). Panel
    "structural_variants": the genes at either side of a variant. Endpoint "OS", given in months from sequencing;
    patients without it are left out. There is no cancer type and no mutation: expect little signal.

    Args:
        folder: holds the files.
        min_patients: a gene is a column where at least this many patients have it. They are counted over all patients
            with an outcome, test folds included, without a look at the outcome; 1 keeps every gene.
        none_is_absent: a patient with no variant listed lacks the modality. By default its entries are 0, since
            everybody was sequenced with the panel that finds them; but as nothing in the files says so for a patient,
            and four of five have none, they can stand for a modality that is missing by nature.
        keep_leaks: keep AGE_AT_DEATH and AGE_AT_LAST_CONTACT, which give the outcome away, to see them found.
        name: of the cohort.

    Raises:
        DataError: a file or column that is absent, a patient in several lines, a sample id that names no patient,
            values that are no numbers, impossible times or events, no gene in that many patients. The message names
            file, column and patient.
        ValueError: ``min_patients`` below 1.
    """
    if min_patients < 1:
        raise ValueError(f"min_patients: expected at least 1, got {min_patients}")
    folder = Path(folder)
    clinical_file, variant_file = find_table(folder, "data_clinical_patient"), find_table(folder, "data_sv")
    columns = (*NUMBERS, *(LEAKS if keep_leaks else ()))
    patients = read_patients(clinical_file, "PATIENT_ID", (*columns, *TEXTS, "OS_MONTHS", "OS_STATUS"))
    facts = [f"{clinical_file.name}: {counted(len(patients), 'patient')}"]
    if keep_leaks:
        facts.append(f"clinical: kept although they give the outcome away: {', '.join(LEAKS)}")
    outcomes = pd.DataFrame(
        {
            "OS_time": numbers(patients, ("OS_MONTHS",), clinical_file)["OS_MONTHS"],
            "OS_event": _events(patients["OS_STATUS"], clinical_file),
        }
    )
    clinical = pd.concat(
        [numbers(patients, columns, clinical_file), categories(patients, TEXTS, unknown=_UNKNOWN)], axis=1
    )
    followed = patients.index[outcomes.notna().all(axis=1)]
    variants = _variants(variant_file)
    panel = gene_panel(variants["patient"], variants["gene"], followed, "structural_variants", facts)
    frequent = panel.columns[panel.sum() >= min_patients]
    if frequent.empty:
        raise DataError(f"{variant_file}: no gene in at least {min_patients} patients")
    panel = panel[frequent]
    facts.append(
        f"structural_variants: {counted(len(frequent), 'gene')} in at least {counted(min_patients, 'patient')} kept; "
        f"{int(panel.any(axis=1).sum())} patients have one"
    )
    if none_is_absent:
        panel = panel[panel.any(axis=1)]
        facts.append("structural_variants: patients without any lack the modality")
    return published_cohort(
        {"clinical": clinical, "structural_variants": panel}, outcomes, clinical_file, facts, time_unit="months",
        name=name,
    )  # fmt: skip


def _events(status: pd.Series, path: Path) -> pd.Series:
    unknown = status.notna() & ~status.isin(list(_EVENTS))
    if unknown.any():
        raise DataError(
            f"{path}: column 'OS_STATUS': expected {' or '.join(_EVENTS)}, got {listed(status[unknown].unique())} for "
            f"patient {listed(status.index[unknown])}"
        )
    return status.map(_EVENTS)


def _variants(path: Path) -> pd.DataFrame:
    """One line per gene of a variant: patient and gene."""
    table = read_published(path, dtype=str)
    require_columns(table, ("Sample_Id", *_GENES), path)
    # P-0000047-T01-IM3 is the first tumour of patient P-0000047.
    patient = table["Sample_Id"].str.extract(r"^(.+)-T\d", expand=False)
    if patient.isna().any():
        line = int(np.argmax(patient.isna()))
        raise DataError(
            f"{path}: expected a sample such as 'P-0000047-T01-IM3', got {table['Sample_Id'].iloc[line]!r} in line "
            f"{line + 2}"
        )
    return pd.concat([pd.DataFrame({"patient": patient, "gene": table[column]}) for column in _GENES])
