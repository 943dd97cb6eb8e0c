"""Arguments and options that several commands of ``survcore`` share."""

from __future__ import annotations

from pathlib import Path

import click

out_folder = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the results."
)
cohort_folder = click.argument("cohort", type=click.Path(exists=True, file_okay=False, path_type=Path))
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of everything random.")


def known_device(name: str) -> str:
    """The device of that name as an option's value; told as the option's error where there is none."""
    from survcore.devices import known_device as found

    try:
        return str(found(name))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
