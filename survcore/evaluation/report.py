"""report.md: the table a reader wants first, what it is compared with, and how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.evaluation.comparison import FoldBootstrap, own_rows, signed
from survcore.evaluation.scenarios import scenarios, title
from survcore.evaluation.wording import INTERVALS, compared, size, versions
from survcore.files import replacing
from survcore.plots import save_kaplan_meier_by_risk

_KEYS = ["model", "scenario", "fill"]
_Key = tuple[str, str, str]


def write_report(folder: Path, metrics: pd.DataFrame, predictions: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Write report.md and its figure into ``folder``."""
    system = facts["system"]
    complete = predictions[(predictions["model"] == system) & (predictions["scenario"] == "complete")]
    bootstrap = FoldBootstrap.of_predictions(predictions, seed=facts["seed"])
    means = {
        key: bootstrap.fold_means(rows.set_index("row_id")["risk"])
        for key, rows in predictions.groupby(_KEYS, sort=False)
    }
    # Risks of different folds, and of different strata, have no common scale: each is split at its own median.
    alike = [name for name in ("fold", "stratum") if name in complete]
    high = complete.groupby(alike)["risk"].transform(lambda risk: risk > risk.median())
    save_kaplan_meier_by_risk(
        folder / "kaplan_meier.png",
        complete["time"],
        complete["event"],
        high,
        entry=complete.get("entry"),
        strata=complete.get("stratum"),
        title=f"{system}, out of fold: complete",
    )
    lines = [
        f"# {system} on {facts['cohort']}",
        "",
        f"{size(facts)}, modalities {', '.join(facts['modalities'])}; seed {facts['seed']}; "
        f"{facts['seconds'] / 60:.1f} minutes{' after a resume' if facts['resumed'] else ''}.",
        "",
        "| modalities that a row has | rows |",
        "|---|---|",
        *(f"| {names} | {_share(count, facts['rows'])} |" for names, count in facts["availability"].items()),
        "",
        "## Concordance index (Harrell) on the test folds",
        "",
        "Mean and standard deviation over folds; 95 % interval from a bootstrap of test patients within folds. "
        "A scenario leaves out the rows that it would leave with nothing.",
        "",
        *compared(facts),
        INTERVALS,
        "",
        *_table(metrics, means, bootstrap, facts["folds"]),
        "",
        *_left_out(facts),
        *_max_patches(facts),
        *_differences(facts, predictions, bootstrap),
        *_spread(system, predictions),
        "![Kaplan-Meier curves by median risk](kaplan_meier.png)",
        "",
        *_halves(facts),
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
        f"`survcore.evaluate({system!r}, cohort, recipe=..., {_arguments(facts)})` with this recipe and these versions "
        "gives this report again.",
        "",
        "## Versions",
        "",
        versions(),
        "",
    ]
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines))


def _table(
    metrics: pd.DataFrame, means: dict[Any, np.ndarray], bootstrap: FoldBootstrap, folds: list[int]
) -> list[str]:
    header = ["model", "scenario", "fill", "rows (events)", "C-index", "95 % interval"]
    header += [f"fold {fold}" for fold in folds]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for key, rows in metrics.groupby(_KEYS, sort=False):
        values = rows.set_index("fold")["c_index"]
        interval = bootstrap.interval(means[key])
        cells = [*key, f"{rows['n'].sum()} ({rows['events'].sum()})", f"{values.mean():.3f} +- {values.std():.3f}"]
        cells.append(f"{interval.lower:.3f} to {interval.upper:.3f}")
        lines.append("| " + " | ".join([*cells, *(f"{values.get(fold, np.nan):.3f}" for fold in folds)]) + " |")
    return lines


def _differences(facts: dict[str, Any], predictions: pd.DataFrame, bootstrap: FoldBootstrap) -> list[str]:
    risks = {key: rows.set_index("row_id")["risk"] for key, rows in predictions.groupby(_KEYS, sort=False)}
    pairs = [pair for pair in _pairs(facts, list(risks)) if set(pair) <= set(risks)]
    if not pairs:
        return []
    lines = ["## Paired differences on the same patients", ""]
    lines += ["| first | second | rows | difference of the fold means (95 % interval) |", "|---|---|---|---|"]
    for first, second in pairs:
        difference = bootstrap.difference(risks[first], risks[second])
        rows = len(risks[first].index.intersection(risks[second].index))
        written = signed(difference.value, difference.lower, difference.upper)
        lines.append(f"| {title(*first)} | {title(*second)} | {rows} | {written} |")
    return [*lines, "", "Each on the rows that both have.", ""]


def _pairs(facts: dict[str, Any], keys: list[_Key]) -> list[tuple[_Key, _Key]]:
    """What is compared: the complete system with its rivals, with fewer patches and with less than all modalities; its
    own fill-in with the simple ones, and with the version that was trained on the one modality that is left."""
    system, names = facts["system"], facts["modalities"]
    complete = (system, "complete", "")
    pairs = [(complete, key) for key in keys if key[0] != system and key[1] == "complete"]
    limited = [scenario.name for scenario in scenarios(names, max_patches=facts["max_patches"]) if scenario.max_patches]
    pairs += [(key, (key[0], "complete", "")) for key in keys if key[1] in limited]
    own = {scenario.name: scenario.absent for scenario in scenarios(names) if scenario.fill == "own"}
    pairs += [(complete, (system, name, "own")) for name, absent in own.items() if len(absent) == 1]
    for name, absent in own.items():
        pairs += [((system, name, "own"), (system, name, fill)) for fill in ("mean", "zeros")]
        if len(left := [modality for modality in names if modality not in absent]) == 1:
            pairs.append(((system, name, "own"), (f"{system} on {left[0]}", "complete", "")))
    return pairs


def _spread(system: str, predictions: pd.DataFrame) -> list[str]:
    """How far single draws of the system's own fill-in move a risk, beside how far risks of patients lie apart."""
    lines = []
    for scenario, rows in own_rows(predictions, system).groupby("scenario", sort=False):
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


def _halves(facts: dict[str, Any]) -> list[str]:
    """How entry times, strata and weights enter the curves by median risk."""
    sentences = []
    if facts["delayed_entry"]:
        sentences.append("Rows count as at risk from their entry times on, in the curves and in the log-rank test.")
    if facts["strata"]:
        sentences.append("The median is that of each fold and stratum, and the log-rank test is stratified.")
    if facts["weighted"]:
        sentences.append("Case weights do not enter the curves.")
    return [" ".join(sentences), ""] if sentences else []


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


def _left_out(facts: dict[str, Any]) -> list[str]:
    if not facts["left_out"]:
        return []
    lines = [f"- {name}: {reason}" for name, reason in facts["left_out"].items()]
    return ["Left out, because the model cannot fill in what is missing:", "", *lines, ""]


def _max_patches(facts: dict[str, Any]) -> list[str]:
    if not facts["max_patches"]:
        return []
    bags, limit = facts["test_bags"], facts["max_patches"]
    if not bags["all"]:
        return [f"Asked for at most {limit} patches of a bag: no modality is a bag.", ""]
    return [
        f"The limit of {limit} patches cut {_share(bags['cut'], bags['all'])} of {bags['all']} test bags. The models "
        "are the same; the paired differences to all patches show what it costs.",
        "",
    ]


def _training_missing(facts: dict[str, Any]) -> list[str]:
    if facts["training_missing"] is None:
        return []
    modalities = facts["modalities"]
    lines = [
        "## Missing at training",
        "",
        f"Asked for: {_asked(facts['training_missing'])}. No row loses its last modality. Every model of a fold was "
        "trained on what this left; validation rows belong to the training side, the test fold is as it was.",
        "",
        "| fold | patients on the training side | of them lost a modality | "
        f"{' | '.join(f'rows with {name}' for name in modalities)} |",
        "|" + "---|" * (3 + len(modalities)),
    ]
    for fold, counts in facts["taken_at_training"].items():
        lost = _share(counts["lost"], counts["patients"])
        rows = [f"{before} -> {after}" for before, after in counts["rows"].values()]
        lines.append(f"| {fold} | {counts['patients']} | {lost} | {' | '.join(rows)} |")
    return [*lines, ""]


def _asked(missing: Any) -> str:
    if not isinstance(missing, Mapping):
        return f"each patient who has several modalities loses one of them with probability {missing:g}"
    return "; ".join(
        f"of the patients who have {name} and another modality, a share of {share:g} loses {name}"
        for name, share in missing.items()
    )


def _arguments(facts: dict[str, Any]) -> str:
    """The arguments beside the recipe that are not the default."""
    defaults = {"training_missing": None, "rivals": True, "max_patches": 0}
    given = {name: facts[name] for name, default in defaults.items() if facts[name] != default}
    return ", ".join(f"{name}={facts[name]!r}" for name in ("endpoint", "seed", *given))


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)"


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
