"""evaluate: one command from a cohort to the table of a system beside its rivals."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.arguments import whole_number
from survcore.data.cohort import Cohort
from survcore.data.folds import check_folds, stratified_folds
from survcore.errors import DataError
from survcore.evaluation.outcomes import concordance, outcome_columns, outcome_facts
from survcore.evaluation.report import write_report
from survcore.evaluation.ridge_cox import RidgeCox
from survcore.evaluation.scenario_outputs import scenario_outputs
from survcore.evaluation.scenarios import Scenario, scenarios, title
from survcore.evaluation.system_checks import SystemChecks
from survcore.evaluation.training_missing import (
    counts_at_training,
    refuse_emptied,
    shown_at_training,
    taken_at_training,
)
from survcore.files import replacing
from survcore.inference.artifact import load_artifact
from survcore.plots import save_cosine_map
from survcore.training.fit import fit, require_same_run, run_identity, split_marks, training_parts
from survcore.training.recipe import Recipe, load_recipe

TABLES = ("metrics.csv", "predictions.csv")
FACTS = "facts.json"
_FILES = (*TABLES, FACTS, "report.md", "kaplan_meier.png", "cosines.csv", "cosines.png")


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        metrics: one row per model, scenario, fill and fold: n, events, c_index.
        predictions: one row per model, scenario, fill and test row: fold, row_id, patient, risk, risk_spread (standard
            deviation of the risk over single draws, 0 where nothing was drawn), time (months), event, and where the
            cohort has them entry (months), stratum and weight.
        facts: JSON-able: seed, recipe, seconds, diagnostics per fold, what was chosen on the way and what was left out.
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
    max_patches: int = 0,
    seed: int = 0,
    resume: bool = False,
    show_progress: bool | None = None,
) -> Evaluation:
    """Train and test a system on every fold: complete, each modality missing, unimodal versions retrained, ridge Cox.

    Folds are the cohort's own, else five stratified ones. In every fold a part of the training rows chooses the
    checkpoint and the ridge penalizer; the test fold is touched once. A rival whose modality has no rows or no events
    in some fold is left out, which the report says. Where there are splits, only rows marked "train" or "validation"
    take part. Entry times (left truncation), strata and case weights count in every C-index and in ridge Cox: pairs are
    compared within strata, and only where both rows were under observation.

    Args:
        system: name of the system.
        cohort: the patients.
        out: folder for metrics.csv, predictions.csv, facts.json, report.md, figures and the models of the folds. Of an
            earlier evaluation there, all but the models is removed once the arguments have been checked.
        endpoint, recipe, changes, quick, seed: as in :func:`survcore.fit`.
        training_missing: probability with which each training patient (validation rows included) who has several
            modalities loses one of them; or by name the share of the training patients who have it, and another one,
            that lose it. A row never loses its last modality, and the test fold stays as it is.
        rivals: also train the unimodal versions and ridge Cox.
        max_patches: where a modality is a bag, also test the same models on at most so many patches of each bag, drawn
            as in :meth:`survcore.Predictor.outputs`; the difference to all patches is what that limit costs. 0 for no
            such scenario.
        resume: keep the folds that a broken-off run in ``out`` has finished.
        show_progress: draw progress bars; by default only on a terminal.

    Raises:
        DataError: a fold without rows or events, fewer than two folds, a patient in several folds, a row with no
            modality; a modality that ``training_missing`` takes from all training rows of a fold; no test row of a fold
            that the system can predict.
        CheckpointError: with ``resume``, a model in ``out`` that is damaged or of another run.
        ValueError: unknown system or recipe value; a share of ``training_missing`` outside (0, 1); ``max_patches`` is
            no whole number of at least 0.
    """
    started = time.perf_counter()
    max_patches = whole_number("max_patches", max_patches, 0)
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
        for fold in numbers:
            training, _ = training_parts(cohort, outcome.name, fold, recipe.validation_fraction, seed)
            rows = np.isin(cohort.row_ids, training.row_ids)
            refuse_emptied(training, taken[rows], f"the training part of fold {fold}")
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
        "simulated": cohort.simulated,
        "endpoint": outcome.name,
        "rows": len(cohort),
        "patients": len(set(cohort.patient_ids)),
        "events": int((outcome.event > 0).sum()),
        **outcome_facts(cohort, outcome.name),
        "availability": _patterns(cohort),
        "folds": numbers,
        "modalities": list(cohort.modalities),
        "seed": seed,
        "recipe": recipe.state(),
        "rivals": rivals,
        "training_missing": dict(training_missing) if isinstance(training_missing, Mapping) else training_missing,
        "taken_at_training": {fold: counts_at_training(cohort, taken, fold) for fold in numbers},
        "max_patches": max_patches,
        "test_bags": {"all": 0, "cut": 0},
        "resumed": resume,
        "skipped": skipped,
        "left_out": {},
        "diagnostics": {},
        "penalizers": {model: {} for model in ridges},
        "training": {},
    }
    for fold in numbers:
        training, _ = training_parts(
            shown_at_training(cohort, taken, fold), outcome.name, fold, recipe.validation_fraction, seed
        )
        SystemChecks(system, training, outcome.name, f"the training part of fold {fold}").build(recipe)
    if out is not None:
        if resume:
            _refuse_other_runs(Path(out), cohort, taken, systems, outcome.name, recipe, seed)
        for file in _FILES:
            (Path(out) / file).unlink(missing_ok=True)
    for fold in numbers:
        shown = shown_at_training(cohort, taken, fold)
        for model, names in systems.items():
            part = _part(shown, names)
            predictor = fit(
                system,
                part,
                endpoint=outcome.name,
                fold=fold,
                recipe=_recipe_of(recipe, names),
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
            bags = [name for name in names if cohort.modalities[name].spec.kind == "bag"]
            chosen = scenarios(names, max_patches=max_patches if bags else 0)
            for found in scenario_outputs(predictor, test, chosen, seed):
                scenario, outputs = found.scenario, found.outputs
                if found.left_out:
                    what = "" if outputs is None else "the rows that lack a modality; "
                    name = title(model, scenario.name, scenario.fill)
                    facts["left_out"].setdefault(name, f"{what}{found.left_out} (fold {fold})")
                if model == system and scenario.max_patches:
                    _count_bags(facts["test_bags"], test, bags, found.encoded.subsampled)
                elif model == system and not scenario.absent:
                    cosines.append(predictor.part_cosines(found.encoded))
                if outputs is not None:
                    collected.add(model, scenario, fold, found.rows, outputs.heads["risk"], outputs.risk_spread)
                elif not scenario.absent:
                    raise DataError(f"{model}, test rows of fold {fold}: {found.left_out}")
        for model, names in ridges.items():
            part = _part(shown, names)
            rows, validation = training_parts(part, outcome.name, fold, recipe.validation_fraction, seed)
            try:
                ridge = RidgeCox.fit(rows, validation, outcome.name, _recipe_of(recipe, names).preprocess)
            except ValueError as error:
                # Few patients and many columns: the others are no less worth knowing.
                facts["skipped"][model] = f"in fold {fold}: {error}"
                continue
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
    # A modality's name is kept as it is: "my rna" and "my_rna" are two.
    return Path(out) / "models" / f"fold_{fold}" / model.replace(" on ", "_on_", 1)


def _write(folder: Path, result: Evaluation) -> None:
    with replacing(folder / FACTS) as temporary:
        temporary.write_text(json.dumps(result.facts, indent=1))
    for table, file in zip((result.metrics, result.predictions), TABLES, strict=True):
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


def _patterns(cohort: Cohort) -> dict[str, int]:
    """Rows by the modalities they have, the most frequent pattern first."""
    patterns, counts = np.unique(cohort.availability, axis=0, return_counts=True)
    names = np.array(list(cohort.modalities))
    order = np.argsort(-counts, kind="stable")
    return {" + ".join(names[patterns[which]]): int(counts[which]) for which in order}


def _refuse_other_runs(
    out: Path,
    cohort: Cohort,
    taken: np.ndarray,
    systems: dict[str, list[str]],
    endpoint: str,
    recipe: Recipe,
    seed: int,
) -> None:
    """Raise CheckpointError where a fold's model in ``out`` is damaged or of another run."""
    for fold in sorted(set(cohort.fold.tolist())):
        for model, names in systems.items():
            path = model_folder(out, fold, model) / "model"
            if path.is_dir():
                part = _part(shown_at_training(cohort, taken, fold), names)
                require_same_run(
                    path, load_artifact(path)[0], run_identity(part, endpoint, fold, _recipe_of(recipe, names), seed)
                )


def _count_bags(counts: dict[str, int], test: Cohort, bags: list[str], subsampled: np.ndarray) -> None:
    counts["all"] += sum(int(test.modalities[name].present.sum()) for name in bags)
    counts["cut"] += int(subsampled.sum())


def _part(cohort: Cohort, names: list[str]) -> Cohort:
    """The modalities of a model and the rows that have any of them."""
    part = cohort.only(names)
    left = part.availability.any(axis=1)
    return part if left.all() else part.select(left)


def _recipe_of(recipe: Recipe, names: list[str]) -> Recipe:
    """The recipe without what it says of the preprocessing of other modalities."""
    own = {name: values for name, values in recipe.preprocess.get("modalities", {}).items() if name in names}
    if own == recipe.preprocess.get("modalities", own):
        return recipe
    return replace(recipe, preprocess={**recipe.preprocess, "modalities": own})


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
        outcome = outcome_columns(rows, self.endpoint)
        key = {"model": model, "scenario": scenario.name, "fill": scenario.fill, "fold": fold}
        value, events = float(concordance(outcome, risk)), int(outcome["event"].sum())
        self.metrics.append({**key, "n": len(rows), "events": events, "c_index": value})
        columns = {
            "row_id": rows.row_ids,
            "patient": rows.patient_ids,
            "risk": risk,
            "risk_spread": risk_spread,
            **outcome,
        }
        self.predictions.append(pd.DataFrame({**key, **columns}))
