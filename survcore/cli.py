"""The ``survcore`` command."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from survcore.cli_data import data
from survcore.cli_options import cohort_folder, known_device, out_folder, seed_option
from survcore.cli_predict import predict
from survcore.errors import CheckpointError, DataError

# What a user can cause; anything else is a defect and keeps its traceback.
_TOLD = (DataError, CheckpointError, ValueError, OSError, FloatingPointError)


class _Commands(click.Group):
    """Commands whose modules load when they are asked for, and errors told in one line instead of a traceback."""

    lazy = {"bench": "survcore.benchmarks.cli:bench"}

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self.lazy])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.lazy:
            module, attribute = self.lazy[name].split(":")
            return getattr(import_module(module), attribute)
        return super().get_command(context, name)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:  # who read the output wants no more, and click ends in silence
            raise
        except _TOLD as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="survcore")
def main() -> None:
    """Multimodal cancer-survival models that work when modalities are missing."""


_endpoint = click.option("--endpoint", help="Endpoint of the cohort, where it has several (e.g. OS).")
_quick = click.option("--quick", is_flag=True, help="The recipe's quick variant: fewer epochs, for a first look.")
_recipe = click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML recipe instead of the packaged one.",
)
_settings = click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True,
    help="Change a value of the recipe, e.g. model.rank=16 or stages.joint.epochs=10 (repeatable; VALUE as in TOML).",
)  # fmt: skip
_resume_folds = click.option(
    "--resume", is_flag=True, help="Keep the folds that a broken-off run in --out has finished."
)
_device = click.option(
    "--device",
    default="cpu",
    show_default=True,
    callback=lambda *given: known_device(given[-1]),
    help="cpu, cuda:N, or auto: a GPU where there is one.",
)


@main.command()
@click.option("--quick", is_flag=True, help="A smaller cohort and shorter training: under a minute on two cores.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="survcore_demo",
    show_default=True,
    help="Folder for what the demo writes.",
)
@seed_option
def demo(quick: bool, out: Path, seed: int) -> None:
    """Train MUST on a simulated cohort and predict with every modality, and with each one missing.

    Writes predictions.csv, results.csv, kaplan_meier.png and the model into the --out folder.
    """
    from survcore.demo import run_demo

    run_demo(out, quick=quick, seed=seed, say=click.echo)


@main.command()
@click.argument("system")
@cohort_folder
@out_folder
@click.option("--fold", type=int, help="Leave this fold out (the fold column of the cohort).")
@click.option(
    "--unlabeled", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Cohort folder of further patients, for stages that learn without outcomes.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the last epoch of a run that was broken off in --out.")
@_endpoint
@_recipe
@_quick
@_settings
@seed_option
@_device
def train(
    system: str, cohort: Path, out: Path, fold: int | None, resume: bool, endpoint: str | None, recipe: Path | None,
    quick: bool, settings: tuple[str, ...], seed: int, device: str, unlabeled: Path | None,
) -> None:  # fmt: skip
    """Train SYSTEM (e.g. must) on the cohort folder COHORT and write the model to --out/model.

    A checkpoint is kept in --out after every epoch; after a kill, the same command with --resume goes on from there.
    """
    from survcore.data import Cohort
    from survcore.training import fit, load_recipe, read_changes

    plan = load_recipe(system, path=recipe, quick=quick, changes=read_changes(settings))
    patients = Cohort.from_folder(cohort)
    click.echo(patients.summary())
    predictor = fit(
        system, patients, unlabeled=None if unlabeled is None else Cohort.from_folder(unlabeled), endpoint=endpoint,
        fold=fold, recipe=plan, seed=seed, out=out, resume=resume, device=device,
    )  # fmt: skip
    facts = predictor.description["training"]
    click.echo(f"trained {system} on {facts['rows']} rows ({facts['events']} events); model in {out / 'model'}")
    for name, value in predictor.description["diagnostics"].items():
        click.echo(f"  {name} = {value:.3f}")
    if fold is not None:
        _say_test_index(predictor, patients, fold, seed)


def _say_test_index(predictor: Any, patients: Any, fold: int, seed: int) -> None:
    from survcore.metrics import concordance_index

    test = patients.where(fold=fold)
    outcome = test.endpoint(predictor.description["run"]["endpoint"])
    risk = predictor.predict(test, seed=seed, errors="raise")["risk"]
    index = concordance_index(
        outcome.time, outcome.event > 0, risk, entry=outcome.entry, strata=test.strata, weights=test.weights
    )
    click.echo(f"C-index on fold {fold} ({len(test)} rows): {float(index):.3f}")


@main.command()
@click.argument("system")
@cohort_folder
@out_folder
@_resume_folds
@click.option(
    "--training-missing", metavar="SHARE", multiple=True,
    help="Probability with which each training patient who has several modalities loses one, e.g. 0.2; or NAME=SHARE "
    "(repeatable): the share of those who have NAME, and another modality, that lose NAME.",
)  # fmt: skip
@click.option("--rivals/--no-rivals", default=True, help="Train unimodal versions and ridge Cox beside SYSTEM, or not.")
@click.option(
    "--max-patches", type=click.IntRange(min=0), default=0, show_default=True,
    help="Test also on at most so many patches of a slide, beside all of them; 0 for no such scenario.",
)  # fmt: skip
@_endpoint
@_recipe
@_quick
@_settings
@seed_option
def evaluate(
    system: str, cohort: Path, out: Path, resume: bool, training_missing: tuple[str, ...], rivals: bool,
    max_patches: int, endpoint: str | None, recipe: Path | None, quick: bool, settings: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
    """Cross-validate SYSTEM on the cohort folder COHORT beside its unimodal versions and ridge Cox.

    Every fold is tested complete and with each modality missing (own fill-in, zeros, training mean). Writes
    metrics.csv, predictions.csv, facts.json, report.md with versions and seeds, figures, and the models of the folds.
    """
    from survcore.data import Cohort
    from survcore.evaluation import evaluate as run_evaluation
    from survcore.evaluation import read_training_missing
    from survcore.training import load_recipe, read_changes

    plan = load_recipe(system, path=recipe, quick=quick, changes=read_changes(settings))
    missing = read_training_missing(training_missing)
    patients = Cohort.from_folder(cohort)
    click.echo(patients.summary())
    result = run_evaluation(
        system, patients, out=out, endpoint=endpoint, recipe=plan, training_missing=missing, rivals=rivals,
        max_patches=max_patches, seed=seed, resume=resume,
    )  # fmt: skip
    click.echo(result.summary().to_string(float_format=lambda value: f"{value:.3f}"))
    click.echo(f"{result.facts['seconds'] / 60:.1f} minutes; report in {out / 'report.md'}")


@main.command()
@click.argument("system")
@cohort_folder
@click.argument("name")
@out_folder
@click.option(
    "--default", "finished", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Finished evaluation of the same recipe, cohort and seed to compare with, instead of training the default.",
)  # fmt: skip
@_resume_folds
@_endpoint
@_recipe
@_quick
@_settings
@seed_option
def ablate(
    system: str, cohort: Path, name: str, out: Path, finished: Path | None, resume: bool, endpoint: str | None,
    recipe: Path | None, quick: bool, settings: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
    """Cross-validate SYSTEM on COHORT with its own values and every variant of the ablation NAME.

    NAME is a table of [ablations] in the recipe; those of must are rank, warm_up, condition, losses and printed. Writes
    ablation.csv, ablation.md with paired differences to the default, and one evaluation per variant.
    """
    from survcore.data import Cohort
    from survcore.evaluation import ablate as run_ablation
    from survcore.training import read_changes

    table = run_ablation(
        system, Cohort.from_folder(cohort), name, out=out, default=finished, path=recipe, quick=quick,
        changes=read_changes(settings), endpoint=endpoint, seed=seed, resume=resume, say=click.echo,
    )  # fmt: skip
    click.echo(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}"))
    click.echo(f"report in {out / 'ablation.md'}")


@main.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The same facts as JSON.")
def describe(model: Path, as_json: bool) -> None:
    """Tell what MODEL (a folder written by train) is, what it was trained on, what it is for, and its limits."""
    from survcore.inference.model_card import model_card
    from survcore.inference.model_facts import read_facts

    facts = read_facts(model)
    click.echo(json.dumps(facts, indent=1) if as_json else model_card(facts))


@main.command()
def info() -> None:
    """Version, build, CPU features, devices, which kernel serves each op, optional packages."""
    from survcore._information import information, render

    click.echo(render(information()))


main.add_command(data)
main.add_command(predict)


if __name__ == "__main__":
    sys.exit(main())
