"""What shortcuts of prediction cost on real patients: fewer steps, another solver, bfloat16 and fewer patches.

The models of an evaluation predict for the patients of their own test folds, each modality missing in turn, as the
reference does (DDIM, 50 steps, float32, all patches) and with each shortcut. As draws are random, the reference with
another seed is the yardstick: a shortcut that moves risks no further costs nothing that can be seen.
"""

from __future__ import annotations

import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from survcore.data.cohort import Cohort
from survcore.errors import CheckpointError, DataError
from survcore.evaluation.comparison import FoldBootstrap
from survcore.evaluation.outcomes import outcome_columns
from survcore.evaluation.run import FACTS, model_folder, with_folds
from survcore.inference.predictor import Predictor, load
from survcore.metrics import Interval

COMPLETE = "complete"


@dataclass(frozen=True)
class Shortcut:
    """One way to predict; the defaults are the reference.

    Attributes:
        name: what tables call it.
        solver, steps, precision, max_patches: options of :meth:`survcore.Predictor.predict`.
        dtype: of the encoders.
        another_seed: draw with the seed after that of the evaluation.
    """

    name: str
    solver: str = "ddim"
    steps: int = 50
    precision: str = "full"
    dtype: str = "float32"
    max_patches: int = 0
    another_seed: bool = False

    @property
    def at_complete(self) -> bool:
        """Whether it changes what is predicted for patients of whom nothing has to be drawn."""
        return self.dtype != REFERENCE.dtype or self.max_patches > 0

    def options(self, seed: int) -> dict[str, Any]:
        """What sampling is told."""
        sampling = {"solver": self.solver, "steps": self.steps, "precision": self.precision}
        return {"seed": seed + self.another_seed, **sampling}


REFERENCE = Shortcut("ddim 50")
SHORTCUTS = (
    Shortcut("ddim 50, another seed", another_seed=True),
    Shortcut("ddim 10", steps=10),
    Shortcut("ddim 20", steps=20),
    *(Shortcut(f"dpm_solver++ {steps}", solver="dpm_solver++", steps=steps) for steps in (10, 15, 20)),
    Shortcut("bfloat16 sampling", precision="bfloat16"),
    Shortcut("bfloat16 encoders", dtype="bfloat16"),
    Shortcut("dpm_solver++ 15, all bfloat16", solver="dpm_solver++", steps=15, precision="bfloat16", dtype="bfloat16"),
)


@dataclass(frozen=True)
class Cost:
    """What one shortcut costs in one scenario.

    Attributes:
        scenario: "complete" or "without <modality>".
        shortcut: how it was predicted.
        rows, events: of all test folds together.
        c_index: mean over folds.
        difference: of the C-index to that of the reference, with its paired 95 % bootstrap interval.
        median_change, largest_change: of the risk against the reference's, in standard deviations of the reference's
            risk over the patients of the fold.
        median_relative, largest_relative: of the risk against the reference's, as a share of the latter.
        milliseconds: per patient one by one, from the patient's features to the table of predictions; the median of
            ``timed`` patients.
        timed: patients.
    """

    scenario: str
    shortcut: Shortcut
    rows: int
    events: int
    c_index: float
    difference: Interval
    median_change: float
    largest_change: float
    median_relative: float
    largest_relative: float
    milliseconds: float
    timed: int


def measure(
    evaluation: Path,
    cohort: Cohort,
    *,
    device: torch.device | str = "cpu",
    max_patches: Sequence[int] = (),
    patients: int = 20,
    resamples: int = 1000,
) -> list[Cost]:
    """The cost of every shortcut in every scenario, the reference itself first in each.

    Args:
        evaluation: folder that ``survcore evaluate`` wrote, with the models of its folds.
        cohort: the cohort that was evaluated.
        device: where to predict.
        max_patches: further shortcuts, at most so many patches of a bag; of a cohort without bags they are refused.
        patients: how many at most are timed one by one; those of the first fold that the scenario knows.
        resamples: of the patients of each fold, for the intervals.

    Raises:
        CheckpointError: no finished evaluation, or that of another cohort.
        DataError: a model that cannot fill in what is missing; no bag to limit.
    """
    facts = _facts(evaluation)
    cohort, _ = with_folds(cohort, facts["endpoint"], facts["seed"])
    if max_patches and not any(modality.spec.kind == "bag" for modality in cohort.modalities.values()):
        raise DataError(f"no modality of {cohort.name!r} is a bag whose patches could be limited")
    shortcuts = (REFERENCE, *SHORTCUTS, *(Shortcut(f"{most} patches", max_patches=most) for most in max_patches))
    found: dict[str, _Scenario] = {}
    for fold in facts["folds"]:
        folder = model_folder(evaluation, fold, facts["system"])
        # Nobody is to be known again: a patient is timed with every shortcut.
        models = {dtype: load(folder, device, dtype, kept_encodings=0) for dtype in {part.dtype for part in shortcuts}}
        _require_same_cohort(folder, models[REFERENCE.dtype], cohort, facts)
        for name, rows in _scenarios(cohort.where(fold=fold)):
            chosen = [part for part in shortcuts if name != COMPLETE or part.at_complete or part == REFERENCE]
            scenario = found.setdefault(name, _Scenario(chosen))
            scenario.add(fold, rows, facts["endpoint"], _risks(models, rows, chosen, facts["seed"]))
            if not scenario.seconds:
                scenario.seconds = _seconds(models, rows, chosen, facts["seed"], patients)
    return [cost for name, scenario in found.items() for cost in scenario.costs(name, facts["seed"], resamples)]


def table(costs: Sequence[Cost]) -> str:
    """The costs as text, one line per scenario and shortcut."""
    header = (
        "scenario", "shortcut", "rows (events)", "C-index", "difference (95 % interval)",
        "change of risk, SD: median", "largest", "of risk: median", "largest", "ms per patient",
    )  # fmt: skip
    lines = [header]
    for cost in costs:
        gap = cost.difference
        lines.append(
            (
                cost.scenario,
                cost.shortcut.name,
                f"{cost.rows} ({cost.events})",
                f"{cost.c_index:.4f}",
                "reference"
                if cost.shortcut == REFERENCE
                else f"{gap.value:+.4f} ({gap.lower:+.4f} to {gap.upper:+.4f})",
                f"{cost.median_change:.4f}",
                f"{cost.largest_change:.4f}",
                f"{100 * cost.median_relative:.2f} %",
                f"{100 * cost.largest_relative:.2f} %",
                f"{cost.milliseconds:.2f}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = (" ".join(f"{cell:<{width + 1}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned)


def records(costs: Sequence[Cost], evaluation: Path, context: dict[str, Any]) -> list[dict[str, Any]]:
    """One JSON-able record per scenario and shortcut; ``dtype`` is that of the encoders."""
    facts = _facts(evaluation)
    told = {name: facts[name] for name in ("system", "cohort", "simulated", "endpoint", "seed")}
    told["folds"] = len(facts["folds"])
    return [{**context, "op": "shortcuts", "measured": "shortcut", **told, **_record(cost)} for cost in costs]


def _record(cost: Cost) -> dict[str, Any]:
    """The fields of a cost side by side; what is undefined is None, as JSON knows no NaN."""
    fields = asdict(cost)
    shortcut, difference = fields.pop("shortcut"), fields.pop("difference")
    fields |= {"shortcut": shortcut.pop("name"), **shortcut}
    fields |= {"difference": difference["value"], "lower": difference["lower"], "upper": difference["upper"]}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


class _Scenario:
    """What the folds said of one scenario."""

    def __init__(self, shortcuts: list[Shortcut]) -> None:
        self.shortcuts = shortcuts
        self.outcomes: list[pd.DataFrame] = []
        self.risks: list[pd.DataFrame] = []
        self.seconds: dict[Shortcut, list[float]] = {}

    def add(self, fold: int, rows: Cohort, endpoint: str, risks: dict[Shortcut, np.ndarray]) -> None:
        """The outcomes of a fold's rows, and the risk [n] that each shortcut gives them."""
        columns = {"fold": fold, "patient": rows.patient_ids, **outcome_columns(rows, endpoint)}
        self.outcomes.append(pd.DataFrame(columns, index=rows.row_ids))
        self.risks.append(pd.DataFrame({part.name: risk for part, risk in risks.items()}, index=rows.row_ids))

    def costs(self, name: str, seed: int, resamples: int) -> Iterator[Cost]:
        """The cost of every shortcut."""
        outcomes, risks = pd.concat(self.outcomes), pd.concat(self.risks)
        bootstrap = FoldBootstrap(outcomes, draws=resamples, seed=seed)
        expected = risks[REFERENCE.name]
        # Risks of different folds come from different models and have no common scale.
        deviation = expected.groupby(outcomes["fold"]).transform("std")
        means = bootstrap.fold_means(expected)
        for shortcut in self.shortcuts:
            own = bootstrap.fold_means(risks[shortcut.name])
            change = (risks[shortcut.name] - expected).abs()
            in_deviations, relative = change / deviation, change / expected.abs()
            yield Cost(
                name,
                shortcut,
                len(outcomes),
                int(outcomes["event"].sum()),
                float(own[0]),
                bootstrap.interval(own - means),
                in_deviations.median(),
                in_deviations.max(),
                relative.median(),
                relative.max(),
                1e3 * statistics.median(self.seconds[shortcut]),
                len(self.seconds[shortcut]),
            )


def _facts(evaluation: Path) -> dict[str, Any]:
    path = evaluation / FACTS
    if not path.is_file():
        raise CheckpointError(f"{evaluation} is not a finished evaluation: it holds no {FACTS}")
    return json.loads(path.read_text())


def _require_same_cohort(folder: Path, model: Predictor, cohort: Cohort, facts: dict[str, Any]) -> None:
    """Of a cohort from which modalities were taken for training, the models know another mark."""
    if facts["training_missing"] is None and model.description["run"]["cohort"] != cohort.fingerprint():
        raise CheckpointError(
            f"{folder} holds a model of another cohort than {cohort.name!r}: give the cohort that was evaluated"
        )


def _scenarios(test: Cohort) -> Iterator[tuple[str, Cohort]]:
    """The rows that lack nothing, and each modality taken from those that have it and another; none without rows."""
    whole, count = test.availability.all(axis=1), test.availability.sum(axis=1)
    if whole.any():
        yield COMPLETE, test.select(whole)
    for column, name in enumerate(test.modalities):
        rows = test.availability[:, column] & (count > 1)
        if rows.any():
            yield f"without {name}", test.select(rows).without(name)


def _risks(
    models: dict[str, Predictor], rows: Cohort, shortcuts: Sequence[Shortcut], seed: int
) -> dict[Shortcut, np.ndarray]:
    """The risk [n] that each shortcut gives; rows are encoded once for all that share the encoders and patches."""
    encoded: dict[tuple[str, int], Any] = {}
    found = {}
    for shortcut in shortcuts:
        model, key = models[shortcut.dtype], (shortcut.dtype, shortcut.max_patches)
        if key not in encoded:
            encoded[key] = model.encode(rows, max_patches=shortcut.max_patches, seed=seed)
        found[shortcut] = model.outputs(encoded[key], **shortcut.options(seed)).heads["risk"]
    return found


def _seconds(
    models: dict[str, Predictor], rows: Cohort, shortcuts: Sequence[Shortcut], seed: int, patients: int
) -> dict[Shortcut, list[float]]:
    """Seconds of a whole prediction of single patients, spread over the rows; the shortcuts take turns."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(patients, len(rows))).round().astype(int))
    found: dict[Shortcut, list[float]] = {shortcut: [] for shortcut in shortcuts}

    def predict(shortcut: Shortcut, patient: Cohort) -> None:
        model = models[shortcut.dtype]
        model.predict(patient, errors="raise", max_patches=shortcut.max_patches, **shortcut.options(seed))

    with warnings.catch_warnings():
        # Values far from the training rows are told of every patient, and of every shortcut again.
        warnings.simplefilter("ignore", UserWarning)
        for position, row in enumerate(chosen):
            patient = rows.select([row])
            for shortcut in shortcuts:
                if not position:
                    predict(shortcut, patient)
                start = time.perf_counter()
                predict(shortcut, patient)
                found[shortcut].append(time.perf_counter() - start)
    return found
