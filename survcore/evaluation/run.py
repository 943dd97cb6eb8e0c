"""evaluate: one command from a cohort to the table of a system beside its rivals."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.cohort import Cohort
from survcore.data.folds import check_folds, stratified_folds
from survcore.errors import DataError
from survcore.evaluation.report import write_report
from survcore.evaluation.ridge_cox import RidgeCox
from survcore.evaluation.scenarios import Scenario, scenarios
from survcore.evaluation.training_missing import counts_at_training, shown_at_training, taken_at_training
from survcore.files import replacing
from survcore.metrics import concordance_index
from survcore.plots import save_cosine_map
from survcore.training.fit import fit, split_marks, training_parts
from survcore.training.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        metrics: one row per model, scenario, fill and fold: n, events, c_index.
        predictions: one row per model, scenario, fill and test row: risk, risk_spread (standard deviation of the risk
            over single draws, 0 where nothing was drawn), time (months), event.
        facts: seed, recipe, seconds, diagnostics per fold, and what was chosen on the way.
        cosines: mean cosines between the parts into which the system takes the test rows apart, averaged over folds;
            square, labelled by part, empty where the system knows no parts.
    """

    metrics: pd.DataFrame
    predictions: pd.DataFrame
    facts: dict[str, Any]
    cosines: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Mean and standard deviation of the C-index over folds."""
        keys = ["model", "scenario", "fill"]
        table = self.metrics.groupby(keys, sort=False)["c_index"].agg(["mean", "std", "count"])
        return table.rename(columns={"count": "folds"})


def evaluate(
    system: str,
    cohort: Cohort,
    *,
    out: str | Path | None = None,
    endpoint: str | None = None,
    recipe: Recipe | None = None,
    changes: Mapping[str, Any] | None = None,
    quick: bool = False,
    training_missing: float | Mapping[str, float] | None = None,
    rivals: bool = True,
    seed: int = 0,
    resume: bool = False,
    show_progress: bool | None = None,
) -> Evaluation:
    """Train and test a system on every fold: complete, each modality missing, unimodal versions retrained, ridge Cox.

    Folds are the cohort's own, else five stratified ones. In every fold a part of the training rows chooses the
    checkpoint and the ridge penalizer; the test fold is touched once. A rival whose modality has no rows or no events
    in some fold is left out, which the report says. Where there are splits, only rows marked "train" or "validation"
    take part.

    Args:
        system: name of the system.
        cohort: the patients.
        out: folder for metrics.csv, predictions.csv, report.md, figures and the models of the folds.
        endpoint, recipe, changes, quick, seed: as in :func:`survcore.fit`.
        training_missing: share of the training patients, validation rows included, that lack one modality, drawn evenly
            over modalities; or by name the share that lacks that modality. A row never loses its last modality, and the
            test fold stays as it is.
        rivals: also train the unimodal versions and ridge Cox.
        resume: keep the folds that a broken-off run in ``out`` has finished.
        show_progress: draw progress bars; by default only on a terminal.

    Raises:
        DataError: a fold without rows or events, fewer than two folds, a patient in several folds.
        ValueError: unknown system or recipe value; a share of ``training_missing`` outside (0, 1).
    """
    started = time.perf_counter()
    if recipe is None:
        recipe = load_recipe(system, quick=quick, changes=changes)
    elif quick or changes:
        raise ValueError("quick and changes apply to the packaged recipe; give them to load_recipe, or no recipe here")
    cohort, numbers = with_folds(cohort, endpoint, seed)
    cohort.require_some_modality()
    outcome = cohort.endpoint(endpoint)
    taken = np.zeros_like(cohort.availability)
    if training_missing is not None:
        taken = taken_at_training(cohort, training_missing, seed)
    systems, ridges = _models(system, cohort) if rivals else ({system: list(cohort.modalities)}, {})
    skipped = {}
    for models in (systems, ridges):
        for model in [model for model in models if model != system]:
            if reason := _cannot_train(cohort, taken, models[model], outcome.name, recipe, seed):
                skipped[model] = reason
                del models[model]
    collected = _Collected(outcome.name)
    cosines = []
    facts: dict[str, Any] = {
        "system": system,
        "cohort": cohort.name,
        "endpoint": outcome.name,
        "rows": len(cohort),
        "events": int((outcome.event > 0).sum()),
        "folds": numbers,
        "modalities": list(cohort.modalities),
        "seed": seed,
        "recipe": recipe.state(),
        "rivals": rivals,
        "training_missing": training_missing,
        "taken_at_training": {fold: counts_at_training(cohort, taken, fold) for fold in numbers},
        "resumed": resume,
        "skipped": skipped,
        "diagnostics": {},
        "penalizers": {model: {} for model in ridges},
        "training": {},
    }
    for fold in numbers:
        shown = shown_at_training(cohort, taken, fold)
        for model, names in systems.items():
            part = _part(shown, names)
            predictor = fit(
                system,
                part,
                endpoint=outcome.name,
                fold=fold,
                recipe=recipe,
                seed=seed,
                out=None if out is None else model_folder(out, fold, model),
                checkpoints=False,
                resume=resume,
                label=f"fold {fold}, {model}",
                show_progress=show_progress,
            )
            test = part.where(fold=fold)
            if model == system:
                facts["diagnostics"][fold] = predictor.description["diagnostics"]
                facts["training"][fold] = predictor.description["training"]
                cosines.append(predictor.part_cosines(test))
            for scenario in scenarios(names):
                rows = scenario.apply(test)
                if rows is None:
                    continue
                table = predictor.predict(rows, fill=scenario.fill or "own", seed=seed)
                spread = table["risk_spread"].to_numpy()
                collected.add(model, scenario, fold, rows, table["risk"].to_numpy(), spread)
        for model, names in ridges.items():
            part = _part(shown, names)
            rows, validation = training_parts(part, outcome.name, fold, recipe.validation_fraction, seed)
            ridge = RidgeCox.fit(rows, validation, outcome.name, recipe.preprocess)
            facts["penalizers"][model][fold] = ridge.penalizer
            test = part.where(fold=fold)
            collected.add(model, Scenario("complete"), fold, test, ridge.predict(test), np.zeros(len(test)))

    facts["seconds"] = time.perf_counter() - started
    result = Evaluation(
        pd.DataFrame(collected.metrics),
        pd.concat(collected.predictions, ignore_index=True),
        facts,
        _mean_over_folds(cosines),
    )
    if out is not None:
        _write(Path(out), result)
    return result


def model_folder(out: str | Path, fold: int, model: str) -> Path:
    """Where an evaluation keeps the model of a fold."""
    return Path(out) / "models" / f"fold_{fold}" / model.replace(" ", "_")


def _write(folder: Path, result: Evaluation) -> None:
    for table, file in ((result.metrics, "metrics.csv"), (result.predictions, "predictions.csv")):
        with replacing(folder / file) as temporary:
            table.to_csv(temporary, index=False)
    if len(result.cosines):
        with replacing(folder / "cosines.csv") as temporary:
            result.cosines.to_csv(temporary, index_label="part")
        title = f"{result.facts['system']}: mean cosines on the test folds"
        save_cosine_map(folder / "cosines.png", result.cosines, title=title)
    write_report(folder, result.metrics, result.predictions, {**result.facts, "cosines": len(result.cosines) > 0})


def _mean_over_folds(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean of equally labelled tables, entry by entry over those that have it."""
    return pd.concat(tables).groupby(level=0, sort=False).mean()


def with_folds(cohort: Cohort, endpoint: str | None, seed: int) -> tuple[Cohort, list[int]]:
    """The rows that take part, with folds that have been checked, and the folds' numbers."""
    if cohort.split is not None:
        cohort = cohort.select(np.logical_or(*split_marks(cohort)))
    if cohort.fold is None:
        cohort = replace(cohort, fold=stratified_folds(cohort, 5, seed=seed, endpoint=endpoint))
    check_folds(cohort, cohort.fold, endpoint)
    return cohort.select(cohort.fold >= 0), sorted(set(cohort.fold[cohort.fold >= 0].tolist()))


def _models(system: str, cohort: Cohort) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The modalities of the system and its unimodal versions, and of each ridge Cox model."""
    names = list(cohort.modalities)
    systems = {system: names}
    if len(names) > 1:
        systems.update({f"{system} on {name}": [name] for name in names})
    tables = [name for name in names if cohort.modalities[name].spec.is_table]
    ridges = {f"ridge Cox on {name}": [name] for name in tables}
    if len(tables) > 1:
        ridges[f"ridge Cox on {' + '.join(tables)}"] = tables
    return systems, ridges


def _part(cohort: Cohort, names: list[str]) -> Cohort:
    """The modalities of a model and the rows that have any of them."""
    part = cohort.only(names)
    left = part.availability.any(axis=1)
    return part if left.all() else part.select(left)


def _cannot_train(cohort: Cohort, taken: np.ndarray, names: list[str], endpoint: str, recipe: Recipe, seed: int) -> str:
    """Why a rival has a fold on which it cannot be trained or tested; empty where it has none."""
    try:
        part = _part(cohort, names)
        check_folds(part, part.fold, endpoint)
        for fold in sorted(set(cohort.fold.tolist())):
            part = _part(shown_at_training(cohort, taken, fold), names)
            training_parts(part, endpoint, fold, recipe.validation_fraction, seed)
    except DataError as error:
        return str(error)
    return ""


class _Collected:
    """Metrics and predictions as they come in, fold by fold."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.metrics: list[dict[str, Any]] = []
        self.predictions: list[pd.DataFrame] = []

    def add(
        self, model: str, scenario: Scenario, fold: int, rows: Cohort, risk: np.ndarray, risk_spread: np.ndarray
    ) -> None:
        outcome = rows.endpoint(self.endpoint)
        event = outcome.event > 0
        key = {"model": model, "scenario": scenario.name, "fill": scenario.fill, "fold": fold}
        value = float(concordance_index(outcome.time, event, risk))
        self.metrics.append({**key, "n": len(rows), "events": int(event.sum()), "c_index": value})
        columns = {
            "row_id": rows.row_ids,
            "patient": rows.patient_ids,
            "risk": risk,
            "risk_spread": risk_spread,
            "time": outcome.time,
            "event": event,
        }
        self.predictions.append(pd.DataFrame({**key, **columns}))
