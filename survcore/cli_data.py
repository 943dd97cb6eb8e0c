"""``survcore data``: cohort folders out of published tables, and what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from survcore.cli_data_published import PUBLISHED
from survcore.cli_options import cohort_folder, out_folder
from survcore.cli_prepared import overwrite_option as _overwrite
from survcore.cli_prepared import write_prepared as _write

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Names(click.ParamType):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> list[str]:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class _NumberOrText(click.ParamType):
    """A number where it reads as one, so that it equals what a column of numbers holds."""

    name = "value"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            return float(value)
        except ValueError:
            return value


_censored = click.option(
    "--censored-value", type=_NumberOrText(), help="Value of --event that means censored; by default 0."
)
_log = click.option(
    "--log", type=_Names(), default="", help="Modalities whose logarithm is wanted (counts), separated by commas."
)
_unit = click.Choice(["days", "weeks", "months", "years"])


@click.group()
def data() -> None:
    """Cohort folders: prepare one from published tables, or look at one."""


@data.group()
def prepare() -> None:
    """Make a cohort folder from tables as others publish them."""


for _command in PUBLISHED:
    prepare.add_command(_command)


@prepare.command()
@click.argument("omics", type=_file)
@click.option("--signatures", type=_file, required=True, help="CSV of gene families, one column each (signatures.csv).")
@click.option("--folds", type=_file, help="CSV with columns cohort, case_id, val_fold: the published test folds.")
@click.option("--slides", type=_file, help="CSV or parquet of slide features, joined by patient barcode.")
@click.option(
    "--slide-columns", help="Regular expression of the slide features; by default names ending in _HE or _FFPE."
)
@click.option(
    "--slide-names", type=_file, help="CSV that maps column names of --slides to feature names (BRCA's name map)."
)
@click.option("--name", help="Name of the cohort in --folds; by default the start of the file name of OMICS.")
@click.option(
    "--rest", type=click.Choice(["token", "drop"]), default="token", show_default=True,
    help="Columns outside all gene families: one more token, or dropped.",
)  # fmt: skip
@click.option("--assays", is_flag=True, help="Modalities rna, cnv and snv in place of omics.")
@click.option("--keep-incomplete", is_flag=True, help="Keep patients without slide features.")
@_overwrite
@out_folder
def mcat(
    omics: Path, signatures: Path, folds: Path | None, slides: Path | None, slide_columns: str | None,
    slide_names: Path | None, name: str | None, rest: str, assays: bool, keep_incomplete: bool, overwrite: bool,
    out: Path,
) -> None:  # fmt: skip
    """MCAT/PORPOISE tables: OMICS has one row per slide and columns <GENE>_rnaseq, _cnv, _mut, survival_months,
    censorship.

    Writes a cohort folder with the modality "omics", or "rna", "cnv" and "snv" (one token per gene family), with
    --slides the modality "slide" (one token per tissue region), the endpoint OS in months, and the published folds.
    """
    from survcore.data.prepare_mcat import prepare_mcat

    made = prepare_mcat(
        omics, signatures=signatures, folds=folds, slide_features=slides, name=name, rest=rest, assays=assays,
        keep_incomplete=keep_incomplete, slide_columns=slide_columns, slide_names=slide_names,
    )  # fmt: skip
    _write(made, out, overwrite)


@prepare.command()
@click.argument("table", type=_file)
@click.option("--time", required=True, help="Column of the follow-up time.")
@click.option("--event", required=True, help="Column of the event: 1 = event, 0 = censored.")
@click.option("--time-unit", type=_unit, required=True, help="Unit of the times.")
@click.option("--id", help="Column of the row id; without one, rows are numbered.")
@click.option("--separator", default=".", show_default=True, help="What ends the prefix.")
@click.option("--modalities", type=_Names(), help="Prefixes to read, separated by commas; by default all of them.")
@click.option("--others", help="Name of a modality of the columns that have none of these prefixes (e.g. clinical).")
@_censored
@_log
@click.option("--name", help="Name of the cohort; by default the start of the file name of TABLE.")
@_overwrite
@out_folder
def prefixed(
    table: Path, time: str, event: str, time_unit: str, id: str | None, separator: str, modalities: list[str] | None,
    others: str | None, censored_value: Any, log: list[str], name: str | None, overwrite: bool, out: Path,
) -> None:  # fmt: skip
    """One wide table: TABLE has one row per patient and columns such as mRNA.TP53, whose prefix is the modality.

    Writes a cohort folder with one modality per prefix: a panel where every entry is 0, 1 or missing, else a vector.
    Text becomes one 0/1 column per value.
    """
    from survcore.data.prepare_prefixed import prepare_prefixed

    made = prepare_prefixed(
        table, time=time, event=event, time_unit=time_unit, id=id, separator=separator, modalities=modalities,
        others=others, censored_value=censored_value, log=log, name=name,
    )  # fmt: skip
    _write(made, out, overwrite)


@prepare.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--time", help="Column of colData with the follow-up time; default: from the days_to_ columns.")
@click.option("--event", help="Column of colData with the event, 1 = event, 0 = censored; default: from vital_status.")
@click.option("--time-unit", type=_unit, default="days", show_default=True, help="Unit of the times.")
@click.option("--id", help="Column of colData with the patient that the map calls primary; default: the first one.")
@click.option("--sample-map", default="sampleMap", show_default=True, help="File with assay, primary, colname.")
@click.option("--col-data", default="colData", show_default=True, help="File with one line per patient.")
@click.option("--assays", type=_Names(), help="Assays to read, separated by commas; by default all of the map.")
@_censored
@_log
@click.option("--name", help="Name of the cohort; by default the folder's name.")
@_overwrite
@out_folder
def assays(
    folder: Path, time: str | None, event: str | None, time_unit: str, id: str | None, sample_map: str, col_data: str,
    assays: list[str] | None, censored_value: Any, log: list[str], name: str | None, overwrite: bool, out: Path,
) -> None:  # fmt: skip
    """MultiAssayExperiment as files: FOLDER holds sampleMap, colData and one matrix (features x aliquots) per assay.

    Writes a cohort folder with one modality per assay; a patient lacks those of which there is no aliquot, and several
    aliquots of a patient are averaged. Without --time and --event the endpoint is OS, from vital_status, days_to_death
    and days_to_last_followup.
    """
    from survcore.data.prepare_assays import prepare_assays

    made = prepare_assays(
        folder, time=time, event=event, time_unit=time_unit, id=id, sample_map=sample_map, col_data=col_data,
        assays=assays, censored_value=censored_value, log=log, name=name,
    )  # fmt: skip
    _write(made, out, overwrite)


@prepare.command()
@click.argument("study", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--modalities", type=_Names(), help="Some of mutations,cna,sv,clinical; default: all that are there.")
@click.option(
    "--endpoints", type=_Names(), help="Pairs NAME_MONTHS, NAME_STATUS to read; default: OS and those all have."
)
@click.option(
    "--samples", type=click.Choice(["primary", "merge", "drop"]), default="primary", show_default=True,
    help="Patients with several samples: keep the primary tumour's (then the earliest), take all, or leave them out.",
)  # fmt: skip
@click.option(
    "--least-patients", type=click.IntRange(1), default=2, show_default=True,
    help="Columns of mutations, cna and sv need so many patients; least_active in the recipe counts on training rows.",
)  # fmt: skip
@click.option(
    "--least-gene-share", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
    help="Genes need this share of all mutations (the paper: 0.001).",
)  # fmt: skip
@click.option("--drop-silent", is_flag=True, help="Leave out silent and non-coding mutations.")
@click.option("--somatic-only", is_flag=True, help="Leave out germline mutations and variants.")
@click.option(
    "--gene-panels", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with data_gene_panel_*.txt; default: STUDY and STUDY/gene_panels.",
)  # fmt: skip
@click.option("--clinical", type=_Names(), default="", help="Further clinical columns as features.")
@click.option("--leave-out", type=_Names(), default="", help="Clinical features that are not wanted.")
@click.option("--strata", help="Clinical column that becomes the strata (e.g. CANCER_TYPE).")
@click.option("--name", help="Name of the cohort; by default the folder's name.")
@_overwrite
@out_folder
def cbioportal(study: Path, out: Path, overwrite: bool, **options: Any) -> None:
    """A study folder as downloaded from cBioPortal: STUDY holds data_mutations.txt, data_clinical_patient.txt,
    data_clinical_sample.txt and optionally data_cna.txt, data_sv.txt, gene panels and timelines.

    Writes a cohort folder with one row per patient, the panels "mutations" (gene, mutation type, variant type and
    chromosome), "cna" and "sv", the modality "clinical" and the endpoint OS. Genes that a sample's panel does not hold
    are missing entries.
    """
    from survcore.data.prepare_cbioportal import prepare_cbioportal

    _write(prepare_cbioportal(study, **options), out, overwrite)


@data.command("show")
@cohort_folder
def show(cohort: Path) -> None:
    """Print what the cohort folder COHORT holds: modalities, who has what, events, follow-up."""
    from survcore.data import Cohort

    click.echo(Cohort.from_folder(cohort).summary())
