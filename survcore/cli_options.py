"""Arguments and options that several commands of ``survcore`` share."""

from __future__ import annotations

from pathlib import Path

import click

out_folder = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the results."
)
cohort_folder = click.argument("cohort", type=click.Path(exists=True, file_okay=False, path_type=Path))
