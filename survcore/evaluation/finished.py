"""The tables of an evaluation that was finished earlier, read only where they are those of the expected run."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from survcore.data.cohort import Cohort
from survcore.errors import CheckpointError
from survcore.evaluation.outcomes import outcome_columns
from survcore.evaluation.run import FACTS, TABLES, model_folder
from survcore.evaluation.scenarios import scenarios
from survcore.inference.artifact import load_artifact
from survcore.training.fit import run_identity
from survcore.training.recipe import Recipe


def read_finished(
    folder: Path, system: str, cohort: Cohort, folds: list[int], endpoint: str, recipe: Recipe, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics and predictions of the evaluation in a folder, without the scenarios that an ablation does not have.

    Args:
        folder: where the evaluation was written.
        system, recipe, seed, endpoint: of the run that is expected there.
        cohort: the rows that take part, with their folds.
        folds: the folds' numbers.

    Raises:
        CheckpointError: no finished evaluation, or that of another run.
    """
    if absent := [file for file in TABLES if not (folder / file).is_file()]:
        raise CheckpointError(f"{folder} is not a finished evaluation: it holds no {' and no '.join(absent)}")
    facts = json.loads((folder / FACTS).read_text()) if (folder / FACTS).is_file() else {}
    if facts.get("training_missing") is not None:
        raise CheckpointError(
            f"{folder} is an evaluation with training_missing {facts['training_missing']!r}: the default of an "
            "ablation must be one without"
        )
    for fold in folds:
        path = model_folder(folder, fold, system)
        if not path.is_dir():
            raise CheckpointError(f"{folder} is not a finished evaluation of {system} on this cohort: it lacks {path}")
        run = load_artifact(path)[0].get("run") or {}
        expected = run_identity(cohort, endpoint, fold, recipe, seed)
        if other := [part for part in expected if run.get(part) != expected[part]]:
            raise CheckpointError(
                f"{path} holds the model of another run ({', '.join(other)} differ): the default of an ablation must "
                "be an evaluation of the same recipe, cohort and seed"
            )
    known = {scenario.name for scenario in scenarios(list(cohort.modalities))}
    metrics, predictions = (_table(folder / file) for file in TABLES)
    if absent := [name for name in outcome_columns(cohort, endpoint) if name not in predictions]:
        raise CheckpointError(
            f"{folder / TABLES[1]} has no column {' and no '.join(absent)}: its C-index does not take into account "
            "what the cohort has; evaluate again"
        )
    return tuple(table[table["scenario"].isin(known)] for table in (metrics, predictions))


def _table(path: Path) -> pd.DataFrame:
    # Ids stay texts, and an empty fill stays a text.
    return pd.read_csv(
        path,
        dtype={"row_id": str, "patient": str, "stratum": str},
        keep_default_na=False,
        na_values={"c_index": "", "risk": ""},
        float_precision="round_trip",
    )
