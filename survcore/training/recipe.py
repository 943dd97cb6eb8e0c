"""Recipes: one TOML file per system, every value with its source, read into the stages and settings of a run."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from survcore.arguments import whole_number
from survcore.models.base import Stage

_CHANGEABLE = ("model", "preprocess", "training", "stages")
_EXAMPLES = {
    "model": "model.rank",
    "preprocess": "preprocess.bins",
    "training": "training.max_patches",
    "stages": "stages.joint.epochs",
}
_TABLES = ("system", *_CHANGEABLE, "quick", "ablations")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]*")
_TRAINING = {"validation_fraction": 0.15, "gradient_clip": 0.0, "max_patches": 0, "pretrain_on_test": False}


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
        max_patches: largest number of patches of a bag in training, drawn anew for every epoch (0: all).
        pretrain_on_test: stages that learn without outcomes also see the rows of the fold that is left out.
    """

    system: str
    model: dict[str, Any]
    preprocess: dict[str, Any]
    validation_fraction: float
    gradient_clip: float
    stages: dict[str, Stage]
    max_patches: int = 0
    pretrain_on_test: bool = False

    def state(self) -> dict[str, Any]:
        """A JSON-able copy, as stored beside a model."""
        stages = {name: {f.name: getattr(stage, f.name) for f in fields(stage)} for name, stage in self.stages.items()}
        return {
            "system": self.system,
            "model": copy.deepcopy(self.model),
            "preprocess": copy.deepcopy(self.preprocess),
            "validation_fraction": self.validation_fraction,
            "gradient_clip": self.gradient_clip,
            "max_patches": self.max_patches,
            # Where it is not asked for, a run is the one that it was before there was such a choice.
            **({"pretrain_on_test": True} if self.pretrain_on_test else {}),
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
    for overlay in ((table.get("quick", {}),) if quick else ()) + ((changes,) if changes else ()):
        _known("table", overlay, _CHANGEABLE)
        for name, values in overlay.items():
            if not isinstance(values, Mapping):
                raise ValueError(
                    f"recipe key {name!r} must be a table, got {values!r}; its values are set one by one, as "
                    f"{_EXAMPLES[name]}"
                )
        _known("stage", overlay.get("stages", {}), table.get("stages", {}))
        table = merge(table, overlay)
    training = table.get("training", {})
    _known("value in [training]", training, _TRAINING)
    stages = {}
    names = {f.name for f in fields(Stage)} - {"name"}
    for name, values in table.get("stages", {}).items():
        if not isinstance(values, Mapping):
            raise ValueError(f"recipe key 'stages.{name}' is a table (a stage), got {values!r}")
        _known(f"value in [stages.{name}]", values, names)
        if missing := {"epochs", "learning_rate"} - set(values):
            raise ValueError(f"[stages.{name}] lacks {', '.join(sorted(missing))}")
        stages[name] = Stage(name=name, **values)
    training = {**_TRAINING, **training}
    fraction, clip = (_number(f"training.{name}", training[name]) for name in ("validation_fraction", "gradient_clip"))
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
        max_patches=whole_number("training.max_patches", training["max_patches"], 0),
        pretrain_on_test=_yes_or_no("training.pretrain_on_test", training["pretrain_on_test"]),
    )


def load_ablation(system: str, name: str, *, path: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The variants of an ablation: by name the changes that make each from the recipe's own values.

    Args:
        system: name of the system.
        name: a table of ``[ablations]`` in the recipe.
        path: a TOML file instead of the packaged recipe.

    Raises:
        ValueError: unknown system or ablation, or one whose variants are not changes of a recipe.
    """
    ablations = _read(system, path).get("ablations", {})
    if not ablations:
        raise ValueError(f"the recipe of {system} has no ablations")
    _known("ablation", [name], ablations)
    variants = ablations[name]
    if not isinstance(variants, Mapping) or not variants:
        raise ValueError(f"[ablations.{name}] is a table of variants, got {variants!r}")
    for variant, changes in variants.items():
        where = f"[ablations.{name}], variant {variant!r}"
        # A variant names a folder, beside that of the recipe's own values.
        if variant == "default" or not _FOLDER_NAME.fullmatch(variant):
            raise ValueError(f"{where}: expected a name of letters, digits and _ + . - that is not 'default'")
        if not isinstance(changes, Mapping) or not changes:
            raise ValueError(f"{where}: expected changes such as {{ model.rank = 16 }}, got {changes!r}")
        _known(f"table in {where}", changes, _CHANGEABLE)
    return variants


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested values of ``base`` with those of ``overlay`` in place; neither is changed.

    Raises:
        ValueError: a value of another kind than the one it replaces (text for a number, a value for a table); the
            message names the key.
    """
    merged = copy.deepcopy(dict(base))
    for name, value in overlay.items():
        key, old = f"{prefix}{name}", merged.get(name)
        table = isinstance(old, Mapping)
        if old is not None and _kind(value) != _kind(old) and (value is not None or table):
            raise ValueError(f"recipe key {key!r} must be {_kind(old)}, got {value!r}")
        merged[name] = merge(old, value, prefix=f"{key}.") if table else copy.deepcopy(value)
    return merged


def _kind(value: Any) -> str:
    kinds = {Mapping: "a table", bool: "true or false", int | float: "a number", str: "a text"}
    return next((kind for types, kind in kinds.items() if isinstance(value, types)), "a list")


def _read(system: str, path: str | Path | None) -> dict[str, Any]:
    """The file's tables, all of them known."""
    table = tomllib.loads(_text(system, path))
    if table.get("system") != system:
        raise ValueError(f"the recipe is for system {table.get('system')!r}, asked for was {system!r}")
    _known("table", table, _TABLES)
    for name in _TABLES[1:]:
        if not isinstance(table.get(name, {}), Mapping):
            raise ValueError(f"recipe key {name!r} is a table, got {table[name]!r}")
    return table


def _text(system: str, path: str | Path | None) -> str:
    if path is not None:
        return Path(path).read_text()
    folder = resources.files("survcore.training") / "recipes"
    file = folder / f"{system}.toml"
    if not file.is_file():
        existing = sorted(
            entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
        )
        raise ValueError(f"unknown system {system!r}; recipes exist for: {', '.join(existing)}")
    return file.read_text()


def _number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"recipe key {key!r} must be a number, got {value!r}")
    return float(value)


def _yes_or_no(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"recipe key {key!r} must be true or false, got {value!r}")
    return value


def _known(what: str, given: Iterable[str], allowed: Any) -> None:
    if unknown := [name for name in given if name not in allowed]:
        raise ValueError(
            f"unknown {what}: {', '.join(map(str, unknown))}; expected one of {', '.join(sorted(allowed))}"
        )
