"""Reader for the acute myeloid leukaemia cohort of the AMLSG trials: mutations, cytogenetics and clinical variables.

Papaemmanuil et al. 2016, doi:10.1056/NEJMoa1516192; Gerstung et al. 2017, doi:10.1038/ng.3756.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from survcore.data.messages import counted
from survcore.data.panel_tables import categories, find_table, flags, gene_panel, numbers, read_patients
from survcore.data.prepare_shared import PublishedCohort, published_cohort, read_published, require_columns

# Measured at diagnosis. What is not read, and why:
# - outcomes: OS, Status, Date_LF, efs, EFSSTAT, ereignart, rfs*, rfsstat*, cuminc*;
# - what follows diagnosis: remission (CR_date, Post_Induction_Therapy_Remission), relapse (Recurrence_date), transplant
#   (TPL_*, Time_Diag_TPL, Time_1CR_TPL, Family_donnor: donors are sought for those who need one), treatment (VPA,
#   ATRA_arm);
# - how the study was run: Study, Study1, Center, Intergroup, ERDate, BaselineTherapy_;
# - what repeats the panels: C_Risk, M_Risk, NK, the counts NONC_CYTO and NALL_CYTO, one flag per chromosome (X1 to Y),
#   CEBPA, NPM1, FLT3_*, MLL_PTD, and Type2, WHOcat (TypeAML once more, and unused by the authors).
NUMBERS = (
    "AOD",
    "gender",
    "Performance_ECOG",
    "HB",
    "platelet",
    "wbc",
    "LDH",
    "BM_Blasts",
    "PB_Blasts",
    "Splenomegaly",
)
TEXTS = ("TypeAML",)
CYTOGENETICS = (
    "inv3_t3_3", "t_9_22", "minus5_5q", "minus7", "minus7q", "abn7other", "plus8_8q", "minus9q", "mono12_12p_abn12p",
    "plus13", "mono17_17p_abn17p", "minus18_18q", "minus20_20q", "plus21", "plus22", "minusY", "t_15_17", "t_8_21",
    "inv16_t16_16", "t_6_9", "abn3q_other", "plus11_11q", "mono4_4q_abn4q", "complex", "t_9_11", "t_v_11",
)  # fmt: skip
_ONCOGENIC = "ONCOGENIC"


def prepare_amlsg(folder: str | Path, *, name: str = "amlsg") -> PublishedCohort:
    """Read ``AMLSG_Clinical_Anon`` and ``AMLSG_Genetic`` (csv, plain or compressed, or parquet) from a folder.

    Panel "mutations": the genes with an oncogenic variant (FLT3 by gene: internal tandem duplications and point
    mutations together); every patient was sequenced, so none listed means none found. Panel "cytogenetics": the named
    aberrations. Vector "clinical": age, sex (``gender`` 1 male, 2 female), performance status, blood counts, blasts,
    spleen, and the type of leukaemia as one 0/1 column per value. Empty cells are missing entries. Endpoint "OS", given
    in days. Outcomes and whatever happens after diagnosis are not read.

    Raises:
        DataError: a file or column that is absent, a patient in several lines, values that are no numbers, impossible
            times or events. The message names file, column and patient.
    """
    folder = Path(folder)
    clinical_file, genetic_file = find_table(folder, "AMLSG_Clinical_Anon"), find_table(folder, "AMLSG_Genetic")
    patients = read_patients(clinical_file, "PDID", (*NUMBERS, *TEXTS, *CYTOGENETICS, "OS", "Status"))
    facts = [f"{clinical_file.name}: {counted(len(patients), 'patient')}"]
    variants = read_published(genetic_file, dtype=str)
    require_columns(variants, ("SAMPLE_NAME", "GENE", "Result"), genetic_file)
    oncogenic = variants[variants["Result"] == _ONCOGENIC]
    facts.append(
        f"{genetic_file.name}: {len(oncogenic)} of {counted(len(variants), 'variant')} are {_ONCOGENIC} and count"
    )
    clinical = pd.concat([numbers(patients, NUMBERS, clinical_file), categories(patients, TEXTS)], axis=1)
    tables = {
        "mutations": gene_panel(oncogenic["SAMPLE_NAME"], oncogenic["GENE"], patients.index, "mutations", facts),
        "cytogenetics": flags(patients, CYTOGENETICS, clinical_file),
        "clinical": clinical,
    }
    outcomes = numbers(patients, ("OS", "Status"), clinical_file)
    outcomes.columns = ["OS_time", "OS_event"]
    return published_cohort(tables, outcomes, clinical_file, facts, time_unit="days", name=name)
