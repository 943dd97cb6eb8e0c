"""What the commands ``survcore data prepare ...`` share: the cohort folder they write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from survcore.data.prepare_shared import PublishedCohort

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing cohort folder.")


def write_prepared(made: PublishedCohort, out: Path, overwrite: bool) -> None:
    """Write the cohort folder, and print how the cohort came about and what it holds."""
    made.cohort.to_folder(out, overwrite=overwrite)
    for fact in made.facts:
        click.echo(f"- {fact}")
    click.echo(made.cohort.summary())
    click.echo(f"written to {out}")
