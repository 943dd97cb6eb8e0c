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
from survcore.evaluation.report import write_report
from survcore.evaluation.ridge_cox import RidgeCox
from survcore.evaluation.scenarios import Scenario, scenarios
from survcore.files import replacing
from survcore.metrics import concordance_index
from survcore.training.fit import fit, training_parts
from survcore.training.recipe import Recipe, load_recipe

_TABLES = {"vector", "panel", "embedding"}


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
    checkpoint and the ridge penalizer; the test fold is touched once.

    Args:
        system: name of the system.
        cohort: the patients.
        out: folder for metrics.csv, predictions.csv, report.md, figures and the models of the folds.
        endpoint, recipe, changes, quick, seed: as in :func:`survcore.fit`.
        resume: keep the folds that a broken-off run in ``out`` has finished.
        show_progress: draw progress bars; by default only on a terminal.

    Raises:
        DataError: a fold has no rows or its training part no events.
        ValueError: unknown system or recipe value.
    """
    started = time.perf_counter()
    recipe = recipe or load_recipe(system, quick=quick, changes=changes)
    name = cohort.endpoint(endpoint).name
    folds = cohort.fold if cohort.fold is not None else stratified_folds(cohort, 5, seed=seed, endpoint=name)
    check_folds(cohort, folds, name)
    cohort = replace(cohort, fold=folds)
    numbers = sorted(int(fold) for fold in np.unique(folds[folds >= 0]))

    collected = _Collected(cohort, name)
    facts: dict[str, Any] = {
        "system": system, "cohort": cohort.name, "endpoint": name, "seed": seed, "quick": quick, "recipe":
        recipe.state(), "rows": int((folds >= 0).sum()), "events": int((cohort.endpoint(name).event[folds >= 0] >
        0).sum()), "folds": numbers, "modalities": list(cohort.modalities), "diagnostics": {}, "penalizers": {},
        "training": {},
    }  # fmt: skip
    for fold in numbers:
        test = cohort.where(fold=fold)

        def train(part: Cohort, model: str, fold: int = fold) -> Any:
            folder = Path(out) / "models" / f"fold_{fold}" / model if out is not None else None
            return fit(
                system, part, endpoint=name, fold=fold, recipe=recipe, seed=seed, out=folder, checkpoints=False,
                resume=resume, label=f"fold {fold} {model}", show_progress=show_progress,
            )  # fmt: skip

        predictor = train(cohort, system)
        facts["diagnostics"][fold] = predictor.description["diagnostics"]
        facts["training"][fold] = predictor.description["training"]
        for scenario in scenarios(tuple(cohort.modalities)):
            shown = scenario.apply(test)
            risk = predictor.predict(shown, fill=scenario.fill or "own", seed=seed)["risk"].to_numpy()
            collected.add(system, scenario, fold, shown, risk)
        if len(cohort.modalities) > 1:
            for modality in cohort.modalities:
                part = cohort.only([modality]).where(has=[modality])
                alone = part.where(fold=fold)
                model = f"{system} on {modality}"
                risk = train(part, model.replace(" ", "_")).predict(alone, seed=seed)["risk"].to_numpy()
                collected.add(model, Scenario("complete"), fold, alone, risk)
        for model, part in _ridge_parts(cohort):
            rows, validation = training_parts(part, name, fold, recipe.validation_fraction, seed)
            ridge = RidgeCox.fit(rows, validation, name, recipe.preprocess)
            facts["penalizers"].setdefault(model, {})[fold] = ridge.penalizer
            alone = part.where(fold=fold)
            collected.add(model, Scenario("complete"), fold, alone, ridge.predict(alone))

    facts["seconds"] = time.perf_counter() - started
    result = Evaluation(pd.DataFrame(collected.metrics), pd.concat(collected.predictions, ignore_index=True), facts)
    if out is not None:
        folder = Path(out)
        for table, file in ((result.metrics, "metrics.csv"), (result.predictions, "predictions.csv")):
            with replacing(folder / file) as temporary:
                table.to_csv(temporary, index=False)
        write_report(folder, result.metrics, result.predictions, facts)
    return result


class _Collected:
    """Metrics and predictions as they come in, fold by fold."""

    def __init__(self, cohort: Cohort, endpoint: str) -> None:
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


def _ridge_parts(cohort: Cohort) -> list[tuple[str, Cohort]]:
    """Ridge Cox on each table modality alone and on all of them together."""
    tables = [m.spec.name for m in cohort.modalities.values() if m.spec.kind in _TABLES or m.spec.columns]
    parts = [(f"ridge Cox on {table}", cohort.only([table]).where(has=[table])) for table in tables]
    if len(tables) > 1:
        both = cohort.only(tables)
        parts.append((f"ridge Cox on {' + '.join(tables)}", both.select(both.availability.any(axis=1))))
    return parts
