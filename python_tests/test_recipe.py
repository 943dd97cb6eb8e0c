"""Recipes, changes of them written as text, and their ablations."""

from __future__ import annotations

import pytest

from survcore.models.must_settings import MUSTSettings
from survcore.models.settings import read_settings
from survcore.training.changes import read_changes
from survcore.training.recipe import load_ablation, load_recipe


def test_recipe_errors_list_what_exists(tmp_path):
    with pytest.raises(ValueError, match="must"):
        load_recipe("nonsense")
    with pytest.raises(ValueError, match=r"unknown value in \[stages.joint\]: epoch;"):
        load_recipe("must", changes={"stages": {"joint": {"epoch": 3}}})
    with pytest.raises(ValueError, match="unknown table"):
        load_recipe("must", changes={"modle": {}})


def test_quick_recipe_is_shorter():
    full, quick = load_recipe("must"), load_recipe("must", quick=True)
    assert sum(stage.epochs for stage in quick.stages.values()) < sum(stage.epochs for stage in full.stages.values())
    assert full.model == quick.model


def test_changes_are_read_from_texts():
    entries = ["model.rank=16", "model.basis = free", "stages.joint.learning_rate=1e-3", "model.rank=32"]
    expected = {"model": {"rank": 32, "basis": "free"}, "stages": {"joint": {"learning_rate": 1e-3}}}
    assert read_changes(entries) == expected
    assert read_changes(['a="two words"', "b=true", "c=[1, 2]", "d=velocity"]) == {
        "a": "two words", "b": True, "c": [1, 2], "d": "velocity",
    }  # fmt: skip
    plan = load_recipe("must", changes=read_changes([*entries, "training.validation_fraction=0.2"]))
    assert (plan.model["rank"], plan.validation_fraction, plan.stages["joint"].learning_rate) == (32, 0.2, 1e-3)
    assert plan.stages["joint"].epochs == load_recipe("must").stages["joint"].epochs


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["model.rank"], "KEY=VALUE .* got 'model.rank'"),
        (["model..rank=3"], "KEY=VALUE"),
        (["model.basis=free basis"], "'model.basis' is not TOML"),
        (["model.rank=1\nwidth=2"], "'model.rank' must be one value"),
        (["model=1", "model.rank=2"], "'model.rank' lies inside 'model'"),
        (["model.rank=2", "model=1"], "'model' is a table"),
        (["model=1"], "'model' must be a table, got 1"),
        (["model=3"], "'model' must be a table, got 3; its values are set one by one, as model.rank"),
        (["stages.joint=1"], "'stages.joint' must be a table"),
        (["stages.jont.epochs=1"], "unknown stage: jont; expected one of diffusion, joint, warm_up"),
        (["model.rank=many"], "'model.rank' must be a number, got 'many'"),
        (["training.validation_fraction=some"], "'training.validation_fraction' must be a number"),
        (["preprocess.clip=true"], "'preprocess.clip' must be a number"),
        (["stages.joint.epoch=3"], r"\[stages.joint\]: epoch;"),
        (["quick.model.rank=3"], "unknown table: quick"),
    ],
)
def test_bad_changes_name_the_key(entries, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("must", changes=read_changes(entries))


@pytest.mark.parametrize("name", ["rank", "warm_up", "condition", "losses", "printed"])
def test_packaged_ablations_are_changes_that_must_takes(name):
    own = load_recipe("must")
    assert "ablations" not in own.state()
    variants = load_ablation("must", name)
    for changes in variants.values():
        read_settings(MUSTSettings, load_recipe("must", changes=changes).model, "must")
    same = [variant for variant, changes in variants.items() if load_recipe("must", changes=changes) == own]
    assert same == (["rank_64"] if name == "rank" else [])


def test_ablations_that_cannot_be_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown ablation: depth; expected one of condition, losses"):
        load_ablation("must", "depth")
    for text, message in {
        "": "no ablations",
        "[ablations]\nrank = 3": "'rank'|table of variants",
        "[ablations.rank]\ndefault = { model.rank = 3 }": "not 'default'",
        "[ablations.rank]\n'../out' = { model.rank = 3 }": "letters, digits",
        "[ablations.rank]\nsmall = 3": "expected changes",
        "[ablations.rank]\nsmall = { modle.rank = 3 }": "unknown table in .*'small': modle",
    }.items():
        (tmp_path / "own.toml").write_text(f'system = "must"\n{text}')
        with pytest.raises(ValueError, match=message):
            load_ablation("must", "rank", path=tmp_path / "own.toml")
