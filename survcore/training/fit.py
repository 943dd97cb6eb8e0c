"""fit: from a cohort and a recipe to a trained predictor."""

from __future__ import annotations

import csv
import platform
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from survcore.data.cohort import Cohort
from survcore.data.folds import split_validation
from survcore.data.leaks import outcome_columns
from survcore.data.messages import listed
from survcore.data.preprocessor import Preprocessor
from survcore.draws import stream_seed
from survcore.files import replacing
from survcore.inference.predictor import Predictor
from survcore.models import system_class
from survcore.training.checkpoint import Checkpoint
from survcore.training.loop import train
from survcore.training.progress import Progress
from survcore.training.recipe import Recipe, load_recipe


def fit(
    system: str,
    cohort: Cohort,
    *,
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
) -> Predictor:
    """Train a published system on a cohort.

    Args:
        system: name of the system, e.g. ``"must"``.
        cohort: the patients. With ``fold`` the rows of that fold are left out; with a ``split`` column only the rows
            marked "train" (and "validation") are used; else all rows.
        endpoint: which endpoint, where the cohort has several.
        fold: the fold to leave out.
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

    Returns:
        The trained predictor.

    Raises:
        DataError: the cohort lacks what training needs (events, rows of the fold, the endpoint); the message says what.
        ValueError: unknown system, or a recipe value that does not exist.
        CheckpointError: the checkpoint in ``out`` is foreign, cut short or of another run.
    """
    build = system_class(system)
    recipe = recipe or load_recipe(system, quick=quick, changes=changes)
    name = cohort.endpoint(endpoint).name
    run = {"recipe": recipe.state(), "seed": seed, "fold": fold, "endpoint": name, "cohort": cohort.fingerprint()}
    if resume and out is not None and (finished := _finished(Path(out) / "model", run, device)):
        return finished
    training, validation = training_parts(cohort, name, fold, recipe.validation_fraction, seed)
    training.require_events(name, "the training part" if fold is None else f"the training part of fold {fold}")
    _warn_of_leaks(training)

    preprocessor = Preprocessor.fit(training, recipe.preprocess, endpoint=name, imputes=not build.takes_missing_entries)
    bins = len(preprocessor.bins.edges) - 1
    prepared = preprocessor.transform(training)
    prepared_validation = preprocessor.transform(validation) if validation is not None else None

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights"))
        model = build(preprocessor.inputs, bins, recipe.model).to(device)
    stages = _stages(model.stages(), recipe)

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
            seed=seed,
            device=device,
            gradient_clip=recipe.gradient_clip,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
        )
    finally:
        progress.close()

    outcome = training.endpoint(name)
    description = {
        "survcore_version": version("survcore"),
        "system": system,
        "settings": model.settings,
        "time_bins": bins,
        "longest_follow_up": float(outcome.time.max()),
        "run": run,
        "training": {
            "cohort": cohort.name,
            "rows": len(training),
            "events": int((outcome.event > 0).sum()),
            "validation_rows": 0 if validation is None else len(validation),
            "imputed_entries": prepared.imputed,
        },
        "diagnostics": _diagnostics(model, prepared, device),
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


def training_parts(
    cohort: Cohort, endpoint: str, fold: int | None, fraction: float, seed: int
) -> tuple[Cohort, Cohort | None]:
    """The rows to train on and the rows that choose the checkpoint (None where there are none)."""
    if fold is not None:
        pool = cohort.where(not_fold=fold)
        cohort.where(fold=fold)  # an unknown fold is an error, not an empty test part
    elif cohort.split is not None and np.isin(["train", "training"], cohort.split).any():
        marked = {"train": cohort.split == "train", "validation": np.isin(cohort.split, ["validation", "val"])}
        pool = cohort.select(marked["train"] | (cohort.split == "training"))
        if marked["validation"].any():
            return pool, cohort.select(marked["validation"])
    else:
        pool = cohort
    if fraction <= 0:
        return pool, None
    train_index, validation_index = split_validation(pool, fraction=fraction, seed=seed, endpoint=endpoint)
    return pool.select(train_index), pool.select(validation_index)


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
    predictor = Predictor.load(path, device)
    return predictor if predictor.description.get("run") == run else None


def _warn_of_leaks(cohort: Cohort) -> None:
    """Columns that are named like an outcome are more often a leak than a feature; the user knows."""
    for modality in cohort.modalities.values():
        if leaks := outcome_columns(modality.spec.columns):
            warnings.warn(
                f"modality {modality.spec.name!r} has columns named like an outcome: {listed(leaks)}; "
                "drop them unless they are known before the prediction is made",
                stacklevel=3,
            )


def _stages(names: tuple[str, ...], recipe: Recipe) -> list[Any]:
    if unknown := [name for name in names if name not in recipe.stages]:
        raise ValueError(
            f"the recipe of {recipe.system!r} lacks [stages.{unknown[0]}]; it has {', '.join(recipe.stages)}"
        )
    return [recipe.stages[name] for name in names]


def _diagnostics(model: Any, prepared: Any, device: torch.device | str) -> dict[str, float]:
    index = torch.arange(min(len(prepared), 1024))
    with torch.inference_mode():
        return model.diagnostics(prepared.batch(index).to(device))
