"""``survcore data prepare amlsg|metabric|msk-chord|msk-met``: mutation cohorts as their authors published them."""

from __future__ import annotations

from pathlib import Path

import click

from survcore.cli_options import out_folder
from survcore.cli_prepared import overwrite_option, write_prepared

_folder = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@_folder
@overwrite_option
@out_folder
def amlsg(folder: Path, overwrite: bool, out: Path) -> None:
    """Acute myeloid leukaemia, AMLSG trials: FOLDER holds AMLSG_Clinical_Anon.csv.gz and AMLSG_Genetic.csv.gz.

    Writes a cohort folder with the panels "mutations" and "cytogenetics", the vector "clinical" (what is known at
    diagnosis) and the endpoint OS.
    """
    from survcore.data.prepare_amlsg import prepare_amlsg

    write_prepared(prepare_amlsg(folder), out, overwrite)


@click.command()
@_folder
@click.option("--split", is_flag=True, help="Keep the published split; by default none, so that folds apply.")
@overwrite_option
@out_folder
def metabric(folder: Path, split: bool, overwrite: bool, out: Path) -> None:
    """METABRIC breast cancers: FOLDER holds metabric_survival, metabric_clinical and metabric_mutations (.csv.gz).

    Writes a cohort folder with the panel "mutations", the vector "clinical", and the endpoints OS, DSS (death of the
    disease) and cause_of_death (1 = disease, 2 = other).
    """
    from survcore.data.prepare_metabric import prepare_metabric

    write_prepared(prepare_metabric(folder, split=split), out, overwrite)


@click.command("msk-chord")
@_folder
@click.option("--cancer-type", is_flag=True, help="Add the cancer to clinical; by default it is the stratum alone.")
@overwrite_option
@out_folder
def msk_chord(folder: Path, cancer_type: bool, overwrite: bool, out: Path) -> None:
    """MSK-CHORD: FOLDER holds nsclc, crc, brca, prostate and panc (.csv.gz, also as NAME_dx_1st_seq_OS.csv).

    Writes a cohort folder with one row per patient and cancer, the panel "mutations" (23 genes), the vector "clinical",
    strata by cancer, and the endpoint OS from diagnosis with entry at sequencing.
    """
    from survcore.data.prepare_msk_chord import prepare_msk_chord

    write_prepared(prepare_msk_chord(folder, cancer_type=cancer_type), out, overwrite)


@click.command("msk-met")
@_folder
@click.option(
    "--min-patients", type=click.IntRange(min=1), default=10, show_default=True,
    help="Keep genes with a structural variant in at least this many patients.",
)  # fmt: skip
@click.option("--none-is-absent", is_flag=True, help="Patients without any variant lack the modality, not all 0.")
@click.option("--keep-leaks", is_flag=True, help="Keep two columns that give the outcome away, to see them found.")
@overwrite_option
@out_folder
def msk_met(
    folder: Path, min_patients: int, none_is_absent: bool, keep_leaks: bool, overwrite: bool, out: Path
) -> None:
    """MSK-MET: FOLDER holds data_clinical_patient and data_sv (.csv.gz).

    Writes a cohort folder with the panel "structural_variants", the vector "clinical" and the endpoint OS.
    """
    from survcore.data.prepare_msk_met import prepare_msk_met

    made = prepare_msk_met(folder, min_patients=min_patients, none_is_absent=none_is_absent, keep_leaks=keep_leaks)
    write_prepared(made, out, overwrite)


PUBLISHED = (amlsg, metabric, msk_chord, msk_met)
