"""fit: from a cohort and a recipe to a trained predictor."""

from __future__ import annotations

import csv
import platform
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from survcore.data.cohort import Cohort
from survcore.data.endpoint import Endpoint
from survcore.data.folds import split_validation
from survcore.data.leaks import find_leaks
from survcore.data.messages import listed
from survcore.data.prepared import PreparedCohort
from survcore.data.preprocessor import Preprocessor
from survcore.draws import stream_seed
from survcore.errors import CheckpointError, DataError
from survcore.files import replacing
from survcore.inference.predictor import Predictor
from survcore.models import system_class
from survcore.models.base import Stage, System
from survcore.training.checkpoint import Checkpoint
from survcore.training.description import departures, training_facts
from survcore.training.loop import train
from survcore.training.progress import Progress
from survcore.training.recipe import Recipe, load_recipe

_TRAINING_MARKS = ("train", "training")
_VALIDATION_MARKS = ("validation", "valid", "val")


def fit(
    system: str,
    cohort: Cohort,
    *,
    unlabeled: Cohort | None = None,
    endpoint: str | None = None,
    fold: int | None = None,
    recipe: Recipe | None = None,
    changes: Mapping[str, Any] | None = None,
    quick: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    checkpoints: bool = True,
    resume: bool = False,
    device: torch.device | str = "cpu",
    label: str = "",
    show_progress: bool | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Predictor:
    """Train a published system on a cohort.

    Args:
        system: name of the system, e.g. ``"must"``.
        cohort: the patients. With ``fold`` the rows of that fold are left out; where there are splits, only rows
            marked "train" are trained on and rows marked "validation" choose the checkpoint.
        unlabeled: further patients, with or without outcomes, for stages that learn without outcomes. Patients of
            ``cohort`` are refused: they could be test patients.
        endpoint: which endpoint, where the cohort has several.
        fold: the fold to leave out; with ``pretrain_on_test`` in the recipe's [training] its rows take part, without
            their outcomes, in stages that learn without outcomes.
        recipe: a recipe of one's own; default the packaged one.
        changes: nested values that replace the packaged recipe's, e.g. ``{"stages": {"joint": {"epochs": 10}}}``.
        quick: the packaged recipe's quick variant.
        seed: of everything random.
        out: folder that receives ``model/`` and ``history.csv`` and holds the checkpoint while the run lasts.
        checkpoints: write a checkpoint into ``out`` after every epoch.
        resume: go on from the checkpoint in ``out``, or return the model there if this very run has finished.
        device: where to train.
        label: shown by the progress bar.
        show_progress: draw the progress bar; by default only on a terminal.
        on_epoch: is told the line of every epoch once it is done: stage, epoch, losses by part, those of the validation
            rows with the prefix "validation_".

    Returns:
        The trained predictor.

    Raises:
        DataError: the cohort lacks what training needs (events, rows of the fold, the endpoint); the message says what.
        ValueError: unknown system, or a recipe value that does not exist.
        CheckpointError: the checkpoint in ``out`` is foreign, cut short or of another run.
    """
    build = system_class(system)
    if recipe is None:
        recipe = load_recipe(system, quick=quick, changes=changes)
    elif quick or changes:
        raise ValueError("quick and changes apply to the packaged recipe; give them to load_recipe, or no recipe here")
    name = cohort.endpoint(endpoint).name
    _require_takes(build, cohort.endpoint(name))
    cohort.require_some_modality()
    if recipe.pretrain_on_test and (fold is None or not build.unlabeled_stages):
        why = "no fold is left out" if fold is None else f"{build.name} has no stage that learns without outcomes"
        raise ValueError(f"training.pretrain_on_test would change nothing: {why}")
    run = run_identity(cohort, name, fold, recipe, seed)
    if unlabeled is not None:
        _require_others(build, cohort, unlabeled)
        run["unlabeled"] = unlabeled.fingerprint()
    if resume and out is not None and (finished := _finished(Path(out) / "model", run, device)):
        return finished
    training, validation = training_parts(cohort, name, fold, recipe.validation_fraction, seed)
    if validation is not None and not (validation.endpoint(name).event > 0).any():
        warnings.warn(
            f"none of the {len(validation)} validation rows has an event: they choose the checkpoint by censored rows "
            "alone; set training.validation_fraction to 0 to keep the last epoch",
            stacklevel=2,
        )
    _warn_of_leaks(training)

    preprocessor = Preprocessor.fit(training, recipe.preprocess, endpoint=name, imputes=not build.takes_missing_entries)
    bins = len(preprocessor.bins.edges) - 1
    prepared = preprocessor.transform(training)
    prepared_validation = preprocessor.transform(validation) if validation is not None else None

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights"))
        settings = {**recipe.model, "strata": len(preprocessor.strata)} if build.takes_strata else recipe.model
        model = build(preprocessor.inputs, bins, settings).to(device)
    stages = _stages(model, recipe)

    progress = Progress(sum(stage.epochs for stage in stages), label, show=show_progress)
    checkpoint = None
    if out is not None and checkpoints:
        checkpoint = Checkpoint(Path(out) / "checkpoint.safetensors", run)
    try:
        history = train(
            model,
            stages,
            prepared,
            prepared_validation,
            unlabeled=[preprocessor.transform(rows) for rows in _unlabeled(cohort, unlabeled, fold, recipe)],
            seed=seed,
            device=device,
            gradient_clip=recipe.gradient_clip,
            max_patches=recipe.max_patches,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
            on_epoch=on_epoch,
        )
    finally:
        progress.close()

    description = {
        "survcore_version": version("survcore"),
        "system": system,
        "settings": model.settings,
        "time_bins": bins,
        "longest_follow_up": float(training.endpoint(name).time.max()),
        "run": run,
        "recipe": departures(recipe),
        "training": training_facts(training, validation, prepared, name),
        "diagnostics": _diagnostics(model, prepared, recipe.max_patches, seed, device),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "numpy", "pandas")},
        },
    }
    predictor = Predictor(model, preprocessor, description)
    if out is not None:
        write_history(Path(out) / "history.csv", history)
        predictor.save(Path(out) / "model")
    if checkpoint:
        checkpoint.remove()
    return predictor


def _require_others(build: type[System], cohort: Cohort, unlabeled: Cohort) -> None:
    """Patients without outcomes are others than those of the cohort, and of use."""
    if not build.unlabeled_stages:
        raise ValueError(f"{build.name} has no stage that learns without outcomes: unlabeled patients are of no use")
    unlabeled.require_some_modality()
    common = np.intersect1d(cohort.patient_ids, unlabeled.patient_ids)
    if len(common):
        raise DataError(
            f"{len(common)} unlabeled patients are patients of the cohort too, among them {common[0]!r}: leave them "
            "out (test patients take part only with training.pretrain_on_test = true)"
        )


def _unlabeled(cohort: Cohort, unlabeled: Cohort | None, fold: int | None, recipe: Recipe) -> list[Cohort]:
    """Cohorts of further rows for stages that learn without outcomes."""
    found = [] if unlabeled is None else [unlabeled]
    if recipe.pretrain_on_test and fold is not None:
        found.append(cohort.where(fold=fold))
    return found


def run_identity(cohort: Cohort, endpoint: str, fold: int | None, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What makes a run this very run; it is stored with the model and recognises it again."""
    return {
        "recipe": recipe.state(),
        "seed": seed,
        "fold": fold,
        "endpoint": endpoint,
        "cohort": cohort.fingerprint(),
    }


def training_parts(
    cohort: Cohort, endpoint: str, fold: int | None, fraction: float, seed: int
) -> tuple[Cohort, Cohort | None]:
    """The rows to train on and the rows that choose the checkpoint (None where there are none).

    Rows of ``fold`` are left out. Where the cohort has splits, only rows marked "train" are trained on, and rows marked
    "validation" choose the checkpoint; else a share of the training rows does.

    Raises:
        DataError: no such fold, a fold or training part without events, no row marked for training.
    """
    pool = cohort
    if fold is not None:
        cohort.where(fold=fold).require_events(endpoint, f"fold {fold}")
        pool = cohort.where(not_fold=fold)
    validation = None
    if pool.split is not None:
        marked, chosen = split_marks(pool)
        validation = pool.select(chosen) if chosen.any() else None
        pool = pool.select(marked)
    where = "the training part" if fold is None else f"the training part of fold {fold}"
    pool.require_events(endpoint, where)
    if validation is None and fraction > 0:
        train_index, validation_index = split_validation(pool, fraction=fraction, seed=seed, endpoint=endpoint)
        pool, validation = pool.select(train_index), pool.select(validation_index)
        pool.require_events(endpoint, where)
    return pool, validation


def split_marks(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a cohort with splits are marked for training, and which for validation: bool [N] each.

    Raises:
        DataError: no row is marked for training; the message lists the splits there are.
    """
    marks = np.char.lower(cohort.split.astype(str))
    marked = np.isin(marks, _TRAINING_MARKS)
    if not marked.any():
        raise DataError(
            f"the cohort has splits, but no row is marked for training ({' or '.join(_TRAINING_MARKS)}); "
            f"its splits are {listed(sorted(set(cohort.split)))}"
        )
    return marked, np.isin(marks, _VALIDATION_MARKS)


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One CSV line per epoch; a stage leaves the columns of other stages empty."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _finished(path: Path, run: dict[str, Any], device: torch.device | str) -> Predictor | None:
    """The model of this very run, if it has been trained to its end."""
    if not path.is_dir():
        return None
    predictor = Predictor.load(path, device, "float32")
    require_same_run(path, predictor.description, run)
    return predictor


def require_same_run(path: Path, description: dict[str, Any], run: dict[str, Any]) -> None:
    """Raise CheckpointError unless the description of the model in ``path`` names the run (:func:`run_identity`)."""
    if description.get("run") != run:
        raise CheckpointError(
            f"{path} holds the model of another run (other recipe, seed, fold or cohort): "
            "choose another output folder, or train without resuming to replace it"
        )


def _require_takes(build: type[System], endpoint: Endpoint) -> None:
    """A model that would silently misread an endpoint does not get it."""
    if endpoint.causes > 1 and not build.takes_competing_causes:
        raise DataError(
            f"endpoint {endpoint.name!r} has {endpoint.causes} competing causes, and {build.name} takes one: "
            "declare an endpoint whose event is the cause of interest (other causes count as censored)"
        )
    if endpoint.entry is not None and not build.takes_entry:
        raise DataError(
            f"endpoint {endpoint.name!r} has entry times (left truncation), which {build.name} cannot take into "
            "account: drop the entry column to train on follow-up from time 0 all the same"
        )


def _warn_of_leaks(cohort: Cohort) -> None:
    """Columns that are named like an outcome or repeat it are more often a leak than a feature; the user knows."""
    for leak in find_leaks(cohort):
        warnings.warn(
            f"modality {leak.modality!r} has columns {leak.reason}: {listed(leak.columns)}; "
            "drop them unless they are known before the prediction is made",
            stacklevel=3,
        )


def _stages(model: System, recipe: Recipe) -> list[Stage]:
    names = model.stages()
    lacking = [name for name in names if name not in recipe.stages]
    unknown = [name for name in recipe.stages if name not in model.stage_names]
    if lacking or unknown:
        raise ValueError(
            f"{model.name} has the stages {', '.join(model.stage_names)}; the recipe "
            + (f"lacks {', '.join(lacking)}" if lacking else f"has {', '.join(unknown)}")
        )
    return [recipe.stages[name] for name in names]


def _diagnostics(
    model: System, prepared: PreparedCohort, max_patches: int, seed: int, device: torch.device | str
) -> dict[str, float]:
    index = torch.arange(min(len(prepared), 1024))
    with torch.inference_mode():
        return model.diagnostics(prepared.batch(index, max_patches=max_patches, seed=seed).to(device))
