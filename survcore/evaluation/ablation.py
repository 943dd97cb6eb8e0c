"""ablate: the variants of a recipe's ablation beside the recipe's own values, on the same folds and patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.data.cohort import Cohort
from survcore.errors import CheckpointError
from survcore.evaluation.comparison import FoldBootstrap, Interval
from survcore.evaluation.run import evaluate, model_folder, with_folds
from survcore.files import replacing
from survcore.inference.artifact import load_artifact
from survcore.training.fit import run_identity
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
        ``difference``, the fold mean minus the default's on the same patients, with its 95 % interval ``low`` to
        ``high``.

    Raises:
        ValueError: unknown system, ablation or recipe value.
        CheckpointError: ``default`` holds no finished evaluation, or that of another run.
        DataError: as :func:`survcore.evaluate`.
    """
    variants = load_ablation(system, name, path=path)
    own = load_recipe(system, path=path, quick=quick, changes=changes)
    recipes = {
        variant: load_recipe(system, path=path, quick=quick, changes=merge(changes or {}, variant_changes))
        for variant, variant_changes in variants.items()
    }
    options = {"endpoint": endpoint, "rivals": False, "seed": seed, "resume": resume, "show_progress": show_progress}
    found: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}
    if default is not None:
        found[DEFAULT] = _finished(Path(default), system, cohort, endpoint, own, seed)
    for variant, recipe in {DEFAULT: own, **recipes}.items():
        if variant in found:
            continue
        if variant != DEFAULT and recipe == own:
            found[variant] = found[DEFAULT]
            continue
        say(f"{name}, {variant}")
        result = evaluate(system, cohort, out=Path(out) / variant, recipe=recipe, **options)
        found[variant] = result.metrics, result.predictions
    table = _compared(found, system, seed)
    with replacing(Path(out) / "ablation.csv") as temporary:
        table.to_csv(temporary, index=False)
    same = [variant for variant, recipe in recipes.items() if recipe == own]
    facts = f"{cohort.name}, seed {seed}{', quick recipe' if quick else ''}"
    with replacing(Path(out) / "ablation.md") as temporary:
        temporary.write_text(_report(f"{system}, ablation {name!r} on {facts}", table, variants, changes or {}, same))
    return table


def _compared(found: dict[str, tuple[pd.DataFrame, pd.DataFrame]], system: str, seed: int) -> pd.DataFrame:
    """Metrics of each variant, and its paired differences to the default."""
    bootstrap = FoldBootstrap.of_predictions(found[DEFAULT][1], system, seed=seed)
    means: dict[str, np.ndarray] = {}
    lines = []
    for variant, (metrics, predictions) in found.items():
        own = predictions[(predictions["model"] == system) & predictions["fill"].isin(["", "own"])]
        for (scenario, fill), rows in own.groupby(["scenario", "fill"], sort=False):
            fold_means = bootstrap.fold_means(rows.set_index("row_id")["risk"])
            line: dict[str, Any] = {"variant": variant, "scenario": scenario, "fill": fill}
            chosen = (metrics["model"] == system) & (metrics["scenario"] == scenario) & (metrics["fill"] == fill)
            values = metrics.loc[chosen, "c_index"]
            line |= {"c_index": values.mean(), "sd": values.std(), "folds": len(values)}
            if variant == DEFAULT:
                means[scenario] = fold_means
            else:
                difference = bootstrap.interval(fold_means - means[scenario])
                line |= {"difference": difference.value, "low": difference.low, "high": difference.high}
            lines.append(line)
    return pd.DataFrame(lines)


def _finished(
    folder: Path, system: str, cohort: Cohort, endpoint: str | None, recipe: Recipe, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics and predictions of the evaluation in a folder, which must be that of this very run."""
    cohort, numbers = with_folds(cohort, endpoint, seed)
    outcome = cohort.endpoint(endpoint).name
    for fold in numbers:
        path = model_folder(folder, fold, system)
        run = load_artifact(path)[0].get("run") or {}
        expected = run_identity(cohort, outcome, fold, recipe, seed)
        if other := [part for part in expected if run.get(part) != expected[part]]:
            raise CheckpointError(
                f"{path} holds the model of another run ({', '.join(other)} differ): the default of an ablation must "
                "be an evaluation of the same recipe, cohort and seed"
            )
    tables = []
    for file in ("metrics.csv", "predictions.csv"):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} is not a finished evaluation: it holds no {file}")
        # Ids stay texts, and an empty fill stays a text.
        table = pd.read_csv(
            folder / file,
            dtype={"row_id": str, "patient": str},
            keep_default_na=False,
            na_values={"c_index": "", "risk": ""},
            float_precision="round_trip",
        )
        tables.append(table)
    return tables[0], tables[1]


def _report(
    title: str, table: pd.DataFrame, variants: dict[str, Any], changes: Mapping[str, Any], same: list[str]
) -> str:
    lines = [f"# {title}", ""]
    if changes:
        lines += [f"Every row with {_written(changes)}.", ""]
    lines += ["| variant | changes |", "|---|---|", f"| {DEFAULT} | none |"]
    for variant, values in variants.items():
        lines.append(f"| {variant} | {_written(values)}{' (the default itself)' if variant in same else ''} |")
    lines += [
        "",
        "C-index (Harrell) on the test folds with the system's own fill-in, mean +- standard deviation over folds, and "
        "the difference to the default on the same patients with a 95 % bootstrap interval.",
        "",
        "| variant | scenario | C-index | difference to the default |",
        "|---|---|---|---|",
    ]
    for row in table.itertuples():
        difference = "" if row.variant == DEFAULT else Interval(row.difference, row.low, row.high).signed
        lines.append(f"| {row.variant} | {row.scenario} | {row.c_index:.3f} +- {row.sd:.3f} | {difference} |")
    lines += ["", "An interval that covers 0 does not separate the two on this cohort.", ""]
    return "\n".join(lines)


def _written(changes: Mapping[str, Any], prefix: str = "") -> str:
    """Nested changes as dotted keys."""
    return ", ".join(
        _written(value, f"{prefix}{name}.") if isinstance(value, Mapping) else f"{prefix}{name} = {value}"
        for name, value in changes.items()
    )
