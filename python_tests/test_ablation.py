"""ablate: variants of a recipe beside its own values."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import survcore
from survcore.cli import main
from survcore.data import Cohort
from survcore.errors import CheckpointError
from survcore.evaluation import ablate
from survcore.evaluation.ablation_report import write_ablation_report
from survcore.evaluation.comparison import FoldBootstrap
from survcore.training import load_recipe

RECIPE = """
system = "must"
[model]
width = 16
rank = 4
heads = 2
denoiser_layers = 1
[stages.warm_up]
epochs = 1
learning_rate = 1e-3
[stages.joint]
epochs = 1
learning_rate = 1e-3
[stages.diffusion]
epochs = 1
learning_rate = 1e-3
steps_per_epoch = 3
cached = true
[ablations.rank]
rank_2 = { model.rank = 2 }
rank_4 = { model.rank = 4 }
[ablations.warm_up]
none = { stages.warm_up.epochs = 0 }
"""


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    whole = survcore.simulate_cohort(100, seed=4)
    # Ids that a reader of CSV files could take for numbers or for missing values.
    ids = np.array([f"{i:03d}" for i in range(98)] + ["NA", "1e5"])
    return replace(whole, row_ids=ids, patient_ids=ids, fold=np.arange(100) % 2)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def done(cohort, path, tmp_path_factory) -> tuple[pd.DataFrame, Path]:
    out = tmp_path_factory.mktemp("ablation")
    return ablate("must", cohort, "rank", out=out, path=path), out


def test_variants_stand_beside_the_default(cohort, path, done):
    table, out = done
    assert sorted(item.name for item in out.iterdir()) == ["ablation.csv", "ablation.md", "default", "rank_2"]
    first, second = cohort.modalities
    names = ["complete", f"without {first}", f"without {second}"]
    assert list(table["variant"]) == [name for name in ("default", "rank_2", "rank_4") for _ in range(3)]
    assert list(table["scenario"]) == 3 * names
    assert set(table["fill"]) == {"", "own"} and (table["folds"] == 2).all()
    rank_4 = table[table["variant"] == "rank_4"]
    assert (rank_4[["difference", "low", "high"]] == 0).all(axis=None)
    assert table.loc[table["variant"] == "default", ["difference", "low", "high"]].isna().all(axis=None)
    for row in table.itertuples():
        metrics = pd.read_csv(out / row.variant.replace("rank_4", "default") / "metrics.csv", keep_default_na=False)
        values = metrics.query("scenario == @row.scenario and fill == @row.fill")["c_index"]
        assert row.c_index == pytest.approx(values.mean()) and row.sd == pytest.approx(values.std())
    ours, theirs = (
        pd.read_csv(out / variant / "predictions.csv", dtype={"row_id": str, "patient": str}, keep_default_na=False)
        for variant in ("rank_2", "default")
    )
    bootstrap = FoldBootstrap.of_predictions(theirs)
    risks = [part[(part["scenario"] == "complete")].set_index("row_id")["risk"] for part in (ours, theirs)]
    expected = bootstrap.difference(*risks)
    found = table[(table["variant"] == "rank_2") & (table["scenario"] == "complete")].iloc[0]
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (expected.value, expected.lower, expected.upper), abs=1e-9
    )
    assert found["low"] < found["high"]
    models = [survcore.load(out / variant / "models" / "fold_1" / "must") for variant in ("default", "rank_2")]
    assert [model.system.options.rank for model in models] == [4, 2]
    report = (out / "ablation.md").read_text()
    assert "| rank_2 | model.rank = 2 |" in report and "| rank_4 | model.rank = 4 (the default itself) |" in report
    assert f"| rank_2 | complete | {found['c_index']:.3f} +- {found['sd']:.3f} |" in report
    lines = [line for line in report.splitlines() if line.startswith("| rank_4 | complete |")]
    assert len(lines) == 1 and lines[0].endswith(" | same |")
    events = int((cohort.endpoint().event > 0).sum())
    assert f"100 simulated rows, {events} events of primary, 2 folds; seed 0; {path}." in report
    assert "not that of seeds or of training again" in report and "one in twenty misses 0 by chance" in report
    assert "torch" in report and "Every row" not in report
    pd.testing.assert_frame_equal(pd.read_csv(out / "ablation.csv", keep_default_na=False, na_values={
        "difference": "", "low": "", "high": "",
    }), table)  # fmt: skip


def test_resume_trains_nothing_again(cohort, path, done):
    table, out = done
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("model.safetensors")}
    again = ablate("must", cohort, "rank", out=out, path=path, resume=True)
    pd.testing.assert_frame_equal(again, table)
    assert stamps == {file: file.stat().st_mtime_ns for file in out.rglob("model.safetensors")}
    assert len(stamps) == 4


def test_a_finished_evaluation_serves_as_the_default(cohort, path, done, tmp_path):
    table, out = done
    finished = tmp_path / "finished"
    survcore.evaluate("must", cohort, out=finished, recipe=load_recipe("must", path=path))
    said = []
    again = ablate("must", cohort, "rank", out=tmp_path / "rank", path=path, default=finished, say=said.append)
    pd.testing.assert_frame_equal(again, table)
    assert said == ["rank, rank_2"] and not (tmp_path / "rank" / "default").exists()
    for message, changed in {
        r"another run \(recipe differ\)": {"changes": {"stages": {"joint": {"epochs": 2}}}},
        r"another run \(seed differ\)": {"seed": 1},
    }.items():
        with pytest.raises(CheckpointError, match=message):
            ablate("must", cohort, "rank", out=tmp_path / "no", path=path, default=finished, **changed)
    with pytest.raises(CheckpointError, match=r"another run \(cohort differ\)"):
        other = replace(cohort, fold=1 - cohort.fold)
        ablate("must", other, "rank", out=tmp_path / "no", path=path, default=finished)
    (finished / "predictions.csv").unlink()
    with pytest.raises(CheckpointError, match="not a finished evaluation: it holds no predictions.csv"):
        ablate("must", cohort, "rank", out=tmp_path / "no", path=path, default=finished)
    with pytest.raises(CheckpointError, match=r"not a finished evaluation: it holds no metrics.csv and no pred"):
        ablate("must", cohort, "rank", out=tmp_path / "no", path=path, default=tmp_path)
    assert not (tmp_path / "no").exists()


def test_a_default_with_other_scenarios_or_other_training(cohort, path, done, tmp_path):
    table, out = done
    shutil.copytree(out / "default", tmp_path / "more")
    for name in ("metrics.csv", "predictions.csv"):
        lines = pd.read_csv(tmp_path / "more" / name, dtype=str, keep_default_na=False)
        limited = lines[lines["scenario"] == "complete"].assign(scenario="complete, 20 patches")
        pd.concat([lines, limited]).to_csv(tmp_path / "more" / name, index=False)
    shutil.copytree(out / "rank_2", tmp_path / "rank" / "rank_2")
    options = {"path": path, "default": tmp_path / "more"}
    again = ablate("must", cohort, "rank", out=tmp_path / "rank", resume=True, **options)
    pd.testing.assert_frame_equal(again, table)
    facts = json.loads((tmp_path / "more" / "facts.json").read_text())
    (tmp_path / "more" / "facts.json").write_text(json.dumps({**facts, "training_missing": 0.2}))
    with pytest.raises(CheckpointError, match="an evaluation with training_missing 0.2"):
        ablate("must", cohort, "rank", out=tmp_path / "no", **options)
    (tmp_path / "more" / "facts.json").unlink()
    shutil.rmtree(tmp_path / "more" / "models" / "fold_1")
    with pytest.raises(CheckpointError, match="not a finished evaluation of must on this cohort: it lacks .*fold_1"):
        ablate("must", cohort, "rank", out=tmp_path / "no", **options)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("{ model.rank = 17 }", r"\[ablations.big\], variant 'late': rank must lie in 1..16"),
        ("{ model.rnk = 2 }", "variant 'late': must has no setting 'rnk'"),
        (
            "{ stages.jont.epochs = 2 }",
            "'late': unknown stage: jont; expected one of diffusion, joint, warm_up",
        ),
        ("{ preprocess.bin = 2 }", "variant 'late': .*bin"),
        ('{ model.rank = "two" }', "variant 'late': recipe key 'model.rank' must be a number"),
    ],
)
def test_variants_that_cannot_be_are_refused_before_anything_is_trained(cohort, tmp_path, variant, message):
    file = tmp_path / "own.toml"
    file.write_text(RECIPE + f"[ablations.big]\nearly = {{ model.rank = 16 }}\nlate = {variant}\n")
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        ablate("must", cohort, "big", out=tmp_path / "out", path=file)
    assert not (tmp_path / "out").exists() and torch.equal(torch.get_rng_state(), state)


def test_changes_that_a_variant_sets_anew_are_not_said_of_every_row(tmp_path):
    table = pd.DataFrame(
        {"variant": ["default", "a"], "scenario": "complete", "fill": "", "c_index": 0.6, "sd": 0.1, "folds": 2,
         "difference": [np.nan, 0.1], "low": [np.nan, 0.0], "high": [np.nan, 0.2]}
    )  # fmt: skip
    changes = {"model": {"rank": 3, "width": 8}}
    facts = {"title": "t", "simulated": False, "rows": 4, "patients": 3, "events": 2, "endpoint": "OS", "folds": [0, 1],
             "delayed_entry": False, "strata": 0, "weighted": False, "seed": 0, "recipe": "the packaged recipe",
             "changes": changes}  # fmt: skip
    write_ablation_report(tmp_path / "a.md", table, {"a": {"model": {"rank": 2}}}, [], facts)
    report = (tmp_path / "a.md").read_text()
    assert "4 rows of 3 patients, 2 events of OS, 2 folds; seed 0; the packaged recipe." in report
    assert "Every row with model.width = 8." in report
    assert "The default, and every variant that does not set it, with model.rank = 3." in report


def test_one_command_with_changes_and_without_warm_up(cohort, path, tmp_path):
    cohort.to_folder(tmp_path / "cohort")
    arguments = [
        "ablate", "must", tmp_path / "cohort", "warm_up", "--out", tmp_path / "out", "--recipe", path,
        "--set", "model.rank=3", "--seed", 5,
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    for variant, stages in {"default": ["warm_up", "joint", "diffusion"], "none": ["joint", "diffusion"]}.items():
        folder = tmp_path / "out" / variant / "models" / "fold_0" / "must"
        assert list(pd.read_csv(folder / "history.csv")["stage"]) == stages
        run = survcore.load(folder).description["run"]
        assert run["recipe"]["model"]["rank"] == 3 and run["seed"] == 5
    report = (tmp_path / "out" / "ablation.md").read_text()
    assert "Every row with model.rank = 3." in report and "| none | stages.warm_up.epochs = 0 |" in report
