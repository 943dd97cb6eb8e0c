"""ablate: the variants of a recipe's ablation beside the recipe's own values, on the same folds and patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from survcore.data.cohort import Cohort
from survcore.errors import DataError
from survcore.evaluation.ablation_report import write_ablation_report
from survcore.evaluation.comparison import FoldBootstrap, own_rows
from survcore.evaluation.finished import read_finished
from survcore.evaluation.outcomes import outcome_facts
from survcore.evaluation.run import evaluate, with_folds
from survcore.evaluation.system_checks import SystemChecks
from survcore.files import replacing
from survcore.training.fit import training_parts
from survcore.training.recipe import Recipe, load_ablation, load_recipe, merge

DEFAULT = "default"


def ablate(
    system: str,
    cohort: Cohort,
    name: str,
    *,
    out: str | Path,
    default: str | Path | None = None,
    path: str | Path | None = None,
    quick: bool = False,
    changes: Mapping[str, Any] | None = None,
    endpoint: str | None = None,
    seed: int = 0,
    resume: bool = False,
    show_progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Evaluate the recipe's own values ("default") and every variant of an ablation, each without rivals.

    Every variant's recipe is read and its system built before the first is trained.

    Args:
        system: name of the system.
        cohort: the patients; folds as in :func:`survcore.evaluate`.
        name: a table of ``[ablations]`` in the recipe.
        out: folder for ablation.csv, ablation.md and one evaluation per variant. A variant equal to the default is not
            trained a second time.
        default: folder of a finished evaluation of the same recipe, cohort and seed to use as the default.
        path, quick, changes: as in :func:`survcore.training.load_recipe`; every variant changes that recipe.
        endpoint, seed: as in :func:`survcore.fit`.
        resume: keep the folds that a broken-off run in ``out`` has finished.
        show_progress: draw progress bars; by default only on a terminal.
        say: receives a line before each variant.

    Returns:
        One row per variant and scenario (the system's own fill-in): ``c_index`` and ``sd`` over ``folds`` folds, and
        ``difference``, the fold mean minus the default's on the rows that both have, with its 95 % interval ``low`` to
        ``high``.

    Raises:
        ValueError: unknown system, ablation or recipe value, or one that no system can be built with; the message names
            the variant.
        CheckpointError: ``default`` holds no finished evaluation, or that of another run.
        DataError: as :func:`survcore.evaluate`.
    """
    variants = load_ablation(system, name, path=path)
    folded, numbers = with_folds(cohort, endpoint, seed)
    outcome = folded.endpoint(endpoint)
    own = load_recipe(system, path=path, quick=quick, changes=changes)
    training, _ = training_parts(folded, outcome.name, numbers[0], own.validation_fraction, seed)
    checks = SystemChecks(system, training, outcome.name, f"the training part of fold {numbers[0]}")
    checks.build(own)
    recipes: dict[str, Recipe] = {}
    for variant, variant_changes in variants.items():
        try:
            merged = merge(changes or {}, variant_changes)
            recipes[variant] = load_recipe(system, path=path, quick=quick, changes=merged)
            checks.build(recipes[variant])
        except (ValueError, DataError) as error:
            raise type(error)(f"[ablations.{name}], variant {variant!r}: {error}") from error
    same = [variant for variant, recipe in recipes.items() if recipe == own]
    options = {"endpoint": endpoint, "rivals": False, "seed": seed, "resume": resume, "show_progress": show_progress}
    found: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}
    if default is not None:
        found[DEFAULT] = read_finished(Path(default), system, folded, numbers, outcome.name, own, seed)
    for file in ("ablation.csv", "ablation.md"):
        (Path(out) / file).unlink(missing_ok=True)
    for variant, recipe in {DEFAULT: own, **recipes}.items():
        if variant in found:
            continue
        if variant in same:
            found[variant] = found[DEFAULT]
            continue
        say(f"{name}, {variant}")
        result = evaluate(system, cohort, out=Path(out) / variant, recipe=recipe, **options)
        found[variant] = result.metrics, result.predictions
    table = _compared(found, system, seed)
    with replacing(Path(out) / "ablation.csv") as temporary:
        table.to_csv(temporary, index=False)
    facts = {
        "title": f"{system}, ablation {name!r} on {cohort.name}",
        "simulated": folded.simulated,
        "rows": len(folded),
        "patients": len(set(folded.patient_ids)),
        "events": int((outcome.event > 0).sum()),
        **outcome_facts(folded, outcome.name),
        "endpoint": outcome.name,
        "folds": numbers,
        "seed": seed,
        "recipe": f"{'the packaged recipe' if path is None else path}{', its quick variant' if quick else ''}",
        "changes": changes or {},
    }
    write_ablation_report(Path(out) / "ablation.md", table, variants, same, facts)
    return table


def _compared(found: dict[str, tuple[pd.DataFrame, pd.DataFrame]], system: str, seed: int) -> pd.DataFrame:
    """Metrics of each variant, and its paired differences to the default."""
    bootstrap = FoldBootstrap.of_predictions(found[DEFAULT][1], seed=seed)
    defaults: dict[tuple[str, str], pd.Series] = {}
    lines = []
    for variant, (metrics, predictions) in found.items():
        values = own_rows(metrics, system).groupby(["scenario", "fill"])["c_index"]
        for key, rows in own_rows(predictions, system).groupby(["scenario", "fill"], sort=False):
            c_index, risk = values.get_group(key), rows.set_index("row_id")["risk"]
            line: dict[str, Any] = {"variant": variant, "scenario": key[0], "fill": key[1]}
            line |= {"c_index": c_index.mean(), "sd": c_index.std(), "folds": len(c_index)}
            if variant == DEFAULT:
                defaults[key] = risk
            elif key in defaults:
                difference = bootstrap.difference(risk, defaults[key])
                line |= {"difference": difference.value, "low": difference.lower, "high": difference.upper}
            lines.append(line)
    return pd.DataFrame(lines)
