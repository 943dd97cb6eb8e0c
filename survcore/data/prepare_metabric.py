"""Reader for the breast cancers of METABRIC: mutated genes, clinical variables, and two causes of death.

Curtis et al. 2012, doi:10.1038/nature10983; Pereira et al. 2016, doi:10.1038/ncomms11479.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from survcore.data.messages import counted
from survcore.data.panel_tables import categories, find_table, gene_panel, numbers, read_patients
from survcore.data.prepare_shared import PublishedCohort, read_published, require_columns
from survcore.errors import DataError

NUMBERS = ("AGE_AT_DIAGNOSIS", "LYMPH_NODES_EXAMINED_POSITIVE", "NPI")
TEXTS = (
    "CELLULARITY", "CLAUDIN_SUBTYPE", "ER_IHC", "HER2_SNP6", "HISTOLOGICAL_SUBTYPE", "INFERRED_MENOPAUSAL_STATE",
    "LATERALITY", "THREEGENE",
)  # fmt: skip
TREATMENT = ("BREAST_SURGERY", "CHEMOTHERAPY", "HORMONE_THERAPY", "RADIO_THERAPY")
# "Not classified" and "undefined".
_UNKNOWN = ("NC", "UNDEF")


def prepare_metabric(folder: str | Path, *, split: bool = False, name: str = "metabric") -> PublishedCohort:
    """Read ``metabric_survival``, ``metabric_clinical`` and ``metabric_mutations`` (csv, csv.gz or parquet).

    Panel "mutations": by gene; a patient with none listed is 0 throughout. Vector "clinical": age, positive nodes and
    the Nottingham prognostic index, the other variables as one 0/1 column per value. The primary treatment is among
    them, as in other work on this cohort: it is decided within weeks of the diagnosis, but not without regard to the
    prognosis. The columns of the outcome file (``event_str`` among them) are never features.

    Endpoints, given in days: "OS" (any death), "DSS" (death of the disease, other deaths censored), and
    "cause_of_death" with causes 1 = disease and 2 = other.

    Args:
        folder: holds the files.
        split: keep the published split ("train", "test"); by default none, so that folds apply.
        name: of the cohort.

    Raises:
        DataError: a file or column that is absent, a patient in several lines, values that are no numbers, impossible
            times or events. The message names file, column and patient.
    """
    from survcore.data.cohort import Cohort

    folder = Path(folder)
    survival_file, clinical_file, mutation_file = (
        find_table(folder, f"metabric_{part}") for part in ("survival", "clinical", "mutations")
    )
    survival = read_patients(survival_file, "patientId", ("time", "event", *(["split"] if split else [])))
    clinical = read_patients(clinical_file, "patientId", (*NUMBERS, *TEXTS, *TREATMENT))
    facts = [f"{survival_file.name}: {counted(len(survival), 'patient')}"]
    if strangers := int((~clinical.index.isin(survival.index)).sum()):
        facts.append(f"{clinical_file.name}: {counted(strangers, 'patient')} without an outcome left out")
    clinical = clinical[clinical.index.isin(survival.index)]
    facts.append(f"clinical: text as one 0/1 column per value; {' and '.join(_UNKNOWN)} are missing entries")
    variants = read_published(mutation_file, dtype=str)
    require_columns(variants, ("patientId", "hugoGeneSymbol"), mutation_file)
    tables = {
        "mutations": gene_panel(
            variants["patientId"], variants["hugoGeneSymbol"], survival.index, "mutations", facts
        ),
        "clinical": pd.concat(
            [numbers(clinical, NUMBERS, clinical_file), categories(clinical, (*TEXTS, *TREATMENT), unknown=_UNKNOWN)],
            axis=1,
        ),
    }  # fmt: skip
    event = numbers(survival, ("event",), survival_file)["event"]
    # The endpoint with both causes refuses an event that is missing, which the comparisons take for censored.
    codes = {"OS": (event > 0).astype(int), "DSS": (event == 1).astype(int), "cause_of_death": event}
    outcomes = pd.DataFrame(index=survival.index)
    for endpoint, values in codes.items():
        outcomes[f"{endpoint}_time"], outcomes[f"{endpoint}_event"] = survival["time"], values
    try:
        cohort = Cohort.from_frames(
            tables,
            outcomes,
            kinds={"mutations": "panel", "clinical": "vector"},
            time_unit="days",
            causes={"cause_of_death": 2},
            split=survival["split"] if split else None,
            name=name,
        )
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error
    deaths, of_disease = (int((cohort.endpoint(endpoint).event > 0).sum()) for endpoint in ("OS", "DSS"))
    facts.append(
        f"cohort {name}: {counted(len(cohort), 'patient')}, {counted(deaths, 'death')}, {of_disease} of the disease"
    )
    return PublishedCohort(cohort, facts)
