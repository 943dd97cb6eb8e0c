"""ablation.md: the variants of a recipe beside its own values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from survcore.evaluation.comparison import signed
from survcore.evaluation.wording import INTERVALS, compared, size, versions
from survcore.files import replacing


def write_ablation_report(
    path: Path, table: pd.DataFrame, variants: Mapping[str, Mapping[str, Any]], same: list[str], facts: dict[str, Any]
) -> None:
    """Write ablation.md.

    Args:
        path: the file.
        table: what :func:`survcore.evaluation.ablate` returns.
        variants: by name the changes of the recipe.
        same: the variants that are the default itself.
        facts: title, rows, patients, events, endpoint, those of :func:`survcore.evaluation.outcomes.outcome_facts`,
            folds, seed, recipe and changes (those of every variant).
    """
    lines = [
        f"# {facts['title']}",
        "",
        f"{size(facts)}; seed {facts['seed']}; {facts['recipe']}.",
        "",
        *_changes(facts["changes"], variants),
        "| variant | changes |",
        "|---|---|",
        "| default | none |",
    ]
    for variant, values in variants.items():
        lines.append(f"| {variant} | {_written(values)}{' (the default itself)' if variant in same else ''} |")
    lines += [
        "",
        "C-index (Harrell) on the test folds with the system's own fill-in, mean +- standard deviation over folds, and "
        "the difference to the default on the same patients with a 95 % bootstrap interval.",
        "",
        *compared(facts),
        INTERVALS,
        "",
        "| variant | scenario | C-index | difference to the default |",
        "|---|---|---|---|",
    ]
    for row in table.itertuples():
        difference = "same" if row.variant in same else ""
        if not difference and not pd.isna(row.difference):
            difference = signed(row.difference, row.low, row.high)
        lines.append(f"| {row.variant} | {row.scenario} | {row.c_index:.3f} +- {row.sd:.3f} | {difference} |")
    lines += ["", versions(), ""]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines))


def _changes(changes: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What holds in every row, and what only where the variant does not set it."""
    if not changes:
        return []
    given = _dotted(changes)
    varied = set().union(*(_dotted(values) for values in variants.values()))
    everywhere = {key: value for key, value in given.items() if key not in varied}
    elsewhere = {key: value for key, value in given.items() if key in varied}
    sentences = [f"Every row with {_listed(everywhere)}."] if everywhere else []
    if elsewhere:
        sentences.append(f"The default, and every variant that does not set it, with {_listed(elsewhere)}.")
    return [" ".join(sentences), ""]


def _dotted(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested changes by dotted key."""
    found: dict[str, Any] = {}
    for name, value in changes.items():
        found |= _dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def _written(changes: Mapping[str, Any]) -> str:
    return _listed(_dotted(changes))
