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
from survcore.files import replacing
from survcore.metrics import concordance_index
from survcore.training.fit import fit, split_marks, training_parts
from survcore.training.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        metrics: one row per model, scenario, fill and fold: n, events, c_index.
        predictions: one row per model, scenario, fill and test row: risk, time (months), event.
        facts: seed, recipe, seconds, diagnostics per fold, and what was chosen on the way.
    """

    metrics: pd.DataFrame
    predictions: pd.DataFrame
    facts: dict[str, Any]

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
        resume: keep the folds that a broken-off run in ``out`` has finished.
        show_progress: draw progress bars; by default only on a terminal.

    Raises:
        DataError: a fold without rows or events, fewer than two folds, a patient in several folds.
        ValueError: unknown system or recipe value.
    """
    started = time.perf_counter()
    if recipe is None:
        recipe = load_recipe(system, quick=quick, changes=changes)
    elif quick or changes:
        raise ValueError("quick and changes apply to the packaged recipe; give them to load_recipe, or no recipe here")
    cohort, numbers = _with_folds(cohort, endpoint, seed)
    outcome = cohort.endpoint(endpoint)
    systems, ridges, skipped = _parts(system, cohort, outcome.name)
    collected = _Collected(outcome.name)
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
        "resumed": resume,
        "skipped": skipped,
        "diagnostics": {},
        "penalizers": {model: {} for model in ridges},
        "training": {},
    }
    for fold in numbers:
        for model, part in systems.items():
            predictor = fit(
                system,
                part,
                endpoint=outcome.name,
                fold=fold,
                recipe=recipe,
                seed=seed,
                out=None if out is None else Path(out) / "models" / f"fold_{fold}" / model.replace(" ", "_"),
                checkpoints=False,
                resume=resume,
                label=f"fold {fold}, {model}",
                show_progress=show_progress,
            )
            if model == system:
                facts["diagnostics"][fold] = predictor.description["diagnostics"]
                facts["training"][fold] = predictor.description["training"]
            for scenario in scenarios(tuple(part.modalities)):
                shown = scenario.apply(part.where(fold=fold))
                if shown is None:
                    continue
                risk = predictor.predict(shown, fill=scenario.fill or "own", seed=seed)["risk"].to_numpy()
                collected.add(model, scenario, fold, shown, risk)
        for model, part in ridges.items():
            rows, validation = training_parts(part, outcome.name, fold, recipe.validation_fraction, seed)
            ridge = RidgeCox.fit(rows, validation, outcome.name, recipe.preprocess)
            facts["penalizers"][model][fold] = ridge.penalizer
            test = part.where(fold=fold)
            collected.add(model, Scenario("complete"), fold, test, ridge.predict(test))

    facts["seconds"] = time.perf_counter() - started
    result = Evaluation(pd.DataFrame(collected.metrics), pd.concat(collected.predictions, ignore_index=True), facts)
    if out is not None:
        folder = Path(out)
        for table, file in ((result.metrics, "metrics.csv"), (result.predictions, "predictions.csv")):
            with replacing(folder / file) as temporary:
                table.to_csv(temporary, index=False)
        write_report(folder, result.metrics, result.predictions, facts)
    return result


def _with_folds(cohort: Cohort, endpoint: str | None, seed: int) -> tuple[Cohort, list[int]]:
    """The rows that take part, with folds that have been checked, and the folds' numbers."""
    if cohort.split is not None:
        cohort = cohort.select(np.logical_or(*split_marks(cohort)))
    if cohort.fold is None:
        cohort = replace(cohort, fold=stratified_folds(cohort, 5, seed=seed, endpoint=endpoint))
    check_folds(cohort, cohort.fold, endpoint)
    return cohort.select(cohort.fold >= 0), sorted(set(cohort.fold[cohort.fold >= 0].tolist()))


def _parts(system: str, cohort: Cohort, endpoint: str) -> tuple[dict[str, Cohort], dict[str, Cohort], dict[str, str]]:
    """The rows and modalities of each system and each ridge Cox model, and why a model is left out."""
    names = list(cohort.modalities)
    alone = {name: cohort.only([name]).where(has=[name]) for name in names}
    systems = {system: cohort}
    if len(names) > 1:
        systems.update({f"{system} on {name}": part for name, part in alone.items()})
    tables = [name for name in names if cohort.modalities[name].spec.is_table]
    ridges = {f"ridge Cox on {name}": alone[name] for name in tables}
    if len(tables) > 1:
        together = cohort.only(tables)
        ridges[f"ridge Cox on {' + '.join(tables)}"] = together.select(together.availability.any(axis=1))
    skipped = {}
    for models in (systems, ridges):
        for model, part in list(models.items()):
            try:
                check_folds(part, part.fold, endpoint)
            except DataError as error:
                skipped[model] = str(error)
                del models[model]
    return systems, ridges, skipped


class _Collected:
    """Metrics and predictions as they come in, fold by fold."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.metrics: list[dict[str, Any]] = []
        self.predictions: list[pd.DataFrame] = []

    def add(self, model: str, scenario: Scenario, fold: int, rows: Cohort, risk: np.ndarray) -> None:
        outcome = rows.endpoint(self.endpoint)
        event = outcome.event > 0
        key = {"model": model, "scenario": scenario.name, "fill": scenario.fill, "fold": fold}
        value = float(concordance_index(outcome.time, event, risk))
        self.metrics.append({**key, "n": len(rows), "events": int(event.sum()), "c_index": value})
        columns = {
            "row_id": rows.row_ids,
            "patient": rows.patient_ids,
            "risk": risk,
            "time": outcome.time,
            "event": event,
        }
        self.predictions.append(pd.DataFrame({**key, **columns}))
