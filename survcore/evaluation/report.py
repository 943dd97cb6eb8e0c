"""report.md: the table a reader wants first, what it is compared with, and how it came about."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.evaluation.comparison import FoldBootstrap
from survcore.files import replacing
from survcore.plots import save_kaplan_meier_by_risk

_KEYS = ["model", "scenario", "fill"]
_PACKAGES = ("survcore", "torch", "numpy", "pandas", "lifelines")


def write_report(folder: Path, metrics: pd.DataFrame, predictions: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Write report.md and its figure into ``folder``."""
    system = facts["system"]
    complete = predictions[(predictions["model"] == system) & (predictions["scenario"] == "complete")]
    bootstrap = FoldBootstrap.of_predictions(predictions, system, seed=facts["seed"])
    means = {
        key: bootstrap.fold_means(rows.set_index("row_id")["risk"])
        for key, rows in predictions.groupby(_KEYS, sort=False)
    }
    # Risks of different folds come from different models: each fold is split at its own median.
    high = complete.groupby("fold")["risk"].transform(lambda risk: risk > risk.median())
    save_kaplan_meier_by_risk(
        folder / "kaplan_meier.png", complete["time"], complete["event"], high, title=f"{system}, out of fold: complete"
    )
    lines = [
        f"# {system} on {facts['cohort']}",
        "",
        f"{facts['rows']} rows, {facts['events']} events of {facts['endpoint']}, {len(facts['folds'])} folds, "
        f"modalities {', '.join(facts['modalities'])}; seed {facts['seed']}; {facts['seconds'] / 60:.1f} minutes"
        f"{' after a resume' if facts['resumed'] else ''}.",
        "",
        "## Concordance index (Harrell) on the test folds",
        "",
        "Mean and standard deviation over folds; 95 % interval from a bootstrap of test patients within folds.",
        "",
        *_table(metrics, means, bootstrap, facts["folds"]),
        "",
        *_differences(system, predictions, bootstrap),
        *_spread(system, predictions),
        "![Kaplan-Meier curves by median risk](kaplan_meier.png)",
        "",
        *_cosines(facts),
        *_training(facts),
        "",
        *_training_missing(facts),
        "## Recipe",
        "",
        "```json",
        json.dumps(facts["recipe"], indent=1),
        "```",
        "",
        f"`survcore.evaluate({system!r}, cohort, seed={facts['seed']}, recipe=...{_arguments(facts)})` with this "
        "recipe and these versions gives this report again.",
        "",
        "## Versions",
        "",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "",
    ]
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines))


def _table(
    metrics: pd.DataFrame, means: dict[Any, np.ndarray], bootstrap: FoldBootstrap, folds: list[int]
) -> list[str]:
    header = ["model", "scenario", "fill", "C-index", "95 % interval", *(f"fold {fold}" for fold in folds)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for key, rows in metrics.groupby(_KEYS, sort=False):
        values = rows.set_index("fold")["c_index"]
        interval = bootstrap.interval(means[key])
        cells = [*key, f"{values.mean():.3f} +- {values.std():.3f}", f"{interval.low:.3f} to {interval.high:.3f}"]
        lines.append("| " + " | ".join([*cells, *(f"{values.get(fold, np.nan):.3f}" for fold in folds)]) + " |")
    return lines


def _differences(system: str, predictions: pd.DataFrame, bootstrap: FoldBootstrap) -> list[str]:
    """The complete system against each rival, and each own fill-in against the simple ones, on the rows both have."""
    risks = {key: rows.set_index("row_id")["risk"] for key, rows in predictions.groupby(_KEYS, sort=False)}
    pairs = [((system, "complete", ""), key) for key in risks if key[0] != system]
    for key in risks:
        if key[0] == system and key[2] == "own":
            pairs += [(key, (system, key[1], fill)) for fill in ("mean", "zeros")]
    if not pairs:
        return []
    lines = ["## Paired differences on the same patients", ""]
    lines += ["| first | second | difference of the fold means (95 % interval) |", "|---|---|---|"]
    for first, second in pairs:
        difference = bootstrap.difference(risks[first], risks[second])
        lines.append(f"| {_name(first)} | {_name(second)} | {difference.signed} |")
    return [*lines, "", "An interval that covers 0 does not separate the two on this cohort.", ""]


def _spread(system: str, predictions: pd.DataFrame) -> list[str]:
    """How far single draws of the system's own fill-in move a risk, beside how far risks of patients lie apart."""
    own = predictions[(predictions["model"] == system) & predictions["fill"].isin(["", "own"])]
    lines = []
    for scenario, rows in own.groupby("scenario", sort=False):
        drawn = rows[rows["risk_spread"] > 0]
        if drawn.empty:
            continue
        # Risks of different folds come from different models and have no common scale.
        spread = drawn.groupby("fold")["risk_spread"].mean().mean()
        deviation = rows.groupby("fold")["risk"].std().mean()
        lines.append(f"| {scenario} | {len(drawn)} | {spread:.4f} | {deviation:.4f} | {spread / deviation:.2f} |")
    if not lines:
        return []
    return [
        "## Spread over draws",
        "",
        "Standard deviation over draws of the risk that each single draw gives, a mean over the test rows of which "
        "something was drawn, beside the standard deviation of the risk over all test rows; both means over folds.",
        "",
        "| scenario | rows drawn | spread over draws | standard deviation over patients | ratio |",
        "|---|---|---|---|---|",
        *lines,
        "",
    ]


def _cosines(facts: dict[str, Any]) -> list[str]:
    if not facts["cosines"]:
        return []
    return [
        "## Cosines between parts",
        "",
        "Mean over the test rows that own both parts, averaged over folds ([cosines.csv](cosines.csv)).",
        "",
        "![Mean cosines between the parts](cosines.png)",
        "",
    ]


def _training_missing(facts: dict[str, Any]) -> list[str]:
    if facts["training_missing"] is None:
        return []
    modalities = facts["modalities"]
    lines = [
        "## Missing at training",
        "",
        f"Asked for: {_asked(facts['training_missing'])}. Every model of a fold was trained on what this left; "
        "validation rows belong to the training side, the test fold is as it was.",
        "",
        f"| fold | patients on the training side | {' | '.join(f'{name} taken from' for name in modalities)} |",
        "|" + "---|" * (2 + len(modalities)),
    ]
    for fold, counts in facts["taken_at_training"].items():
        cells = [fold, counts["patients"], *(counts["taken"][name] for name in modalities)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def _asked(missing: Any) -> str:
    if not isinstance(missing, Mapping):
        return f"a share of {missing:g} of the training patients lacks one modality"
    shares = ", ".join(f"{name} in a share of {share:g}" for name, share in missing.items())
    return f"missing among the training patients: {shares}"


def _arguments(facts: dict[str, Any]) -> str:
    missing = facts["training_missing"]
    text = "" if missing is None else f", training_missing={missing!r}"
    return text if facts["rivals"] else text + ", rivals=False"


def _name(key: tuple[str, str, str]) -> str:
    model, scenario, fill = key
    return model + (f", {scenario}" if scenario != "complete" else "") + (f" ({fill})" if fill else "")


def _training(facts: dict[str, Any]) -> list[str]:
    lines = ["## Training", ""]
    for fold, training in facts["training"].items():
        imputed = {name: count for name, count in training["imputed_entries"].items() if count}
        lines.append(
            f"- fold {fold}: {training['rows']} rows ({training['events']} events) trained, "
            f"{training['validation_rows']} chose the checkpoint"
            + (f"; entries imputed from training statistics: {imputed}" if imputed else "")
        )
    for model, chosen in facts["penalizers"].items():
        lines.append(f"- {model}: penalizer by fold {list(chosen.values())}")
    for model, reason in facts["skipped"].items():
        lines.append(f"- {model}: left out, {reason}")
    diagnostics = pd.DataFrame(facts["diagnostics"]).T
    if not diagnostics.empty:
        lines += ["", "Invariants on the training rows, mean over folds:", "", "| quantity | mean |", "|---|---|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in diagnostics.mean().items()]
    return lines


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
