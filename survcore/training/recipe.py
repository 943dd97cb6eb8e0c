"""Recipes: one TOML file per system, every value with its source, read into the stages and settings of a run."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from survcore.models.base import Stage

_TABLES = ("system", "model", "preprocess", "training", "stages", "quick")
_TRAINING = {"validation_fraction": 0.15, "gradient_clip": 0.0}


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs beside its cohort and seed.

    Attributes:
        system: name of the system.
        model: settings of the system.
        preprocess: settings of the preprocessor.
        validation_fraction: share of the training rows that chooses the checkpoint.
        gradient_clip: largest norm of the gradient (0: no clipping).
        stages: the stages by name, in order.
    """

    system: str
    model: dict[str, Any]
    preprocess: dict[str, Any]
    validation_fraction: float
    gradient_clip: float
    stages: dict[str, Stage]

    def state(self) -> dict[str, Any]:
        """A JSON-able copy, as stored beside a model."""
        stages = {name: {f.name: getattr(stage, f.name) for f in fields(stage)} for name, stage in self.stages.items()}
        return {
            "system": self.system,
            "model": copy.deepcopy(self.model),
            "preprocess": copy.deepcopy(self.preprocess),
            "validation_fraction": self.validation_fraction,
            "gradient_clip": self.gradient_clip,
            "stages": stages,
        }


def load_recipe(
    system: str, *, path: str | Path | None = None, quick: bool = False, changes: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe of a system, from the package or a file of one's own.

    Args:
        system: name of the system, e.g. ``"must"``.
        path: a TOML file instead of the packaged recipe.
        quick: apply the recipe's ``[quick]`` table (fewer epochs, for a first look).
        changes: nested values that replace the recipe's, e.g. ``{"model": {"rank": 32}, "stages": {"joint":
            {"epochs": 10}}}``.

    Raises:
        ValueError: unknown system, table, stage or value; the message lists what exists.
    """
    table = _read(system, path)
    if table.get("system") != system:
        raise ValueError(f"the recipe is for system {table.get('system')!r}, asked for was {system!r}")
    _known("table", table, _TABLES)
    fast = table.pop("quick", {})
    for overlay in ((fast,) if quick else ()) + ((changes,) if changes else ()):
        table = _merge(table, overlay)
    _known("table", table, _TABLES)
    training = table.get("training", {})
    _known("value in [training]", training, _TRAINING)
    stages = {}
    names = {f.name for f in fields(Stage)} - {"name"}
    for name, values in table.get("stages", {}).items():
        _known(f"value in [stages.{name}]", values, names)
        if missing := {"epochs", "learning_rate"} - set(values):
            raise ValueError(f"[stages.{name}] lacks {', '.join(sorted(missing))}")
        stages[name] = Stage(name=name, **values)
    fraction, clip = (float(training.get(name, default)) for name, default in _TRAINING.items())
    if not 0 <= fraction < 1 or clip < 0:
        raise ValueError(
            f"[training] needs 0 <= validation_fraction < 1 and gradient_clip >= 0, got {fraction:g} and {clip:g}"
        )
    return Recipe(
        system=system,
        model=table.get("model", {}),
        preprocess=table.get("preprocess", {}),
        validation_fraction=fraction,
        gradient_clip=clip,
        stages=stages,
    )


def _read(system: str, path: str | Path | None) -> dict[str, Any]:
    if path is not None:
        return tomllib.loads(Path(path).read_text())
    folder = resources.files("survcore.training") / "recipes"
    file = folder / f"{system}.toml"
    if not file.is_file():
        existing = sorted(
            entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
        )
        raise ValueError(f"unknown system {system!r}; recipes exist for: {', '.join(existing)}")
    return tomllib.loads(file.read_text())


def _known(what: str, given: Mapping[str, Any], allowed: Any) -> None:
    if unknown := [name for name in given if name not in allowed]:
        raise ValueError(
            f"unknown {what}: {', '.join(map(str, unknown))}; expected one of {', '.join(sorted(allowed))}"
        )


def _merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for name, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = _merge(merged[name], value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged
