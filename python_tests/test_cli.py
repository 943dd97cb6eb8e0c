"""The `survcore` command as a shell user sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import survcore
from survcore.cli import main

COMMANDS = [
    ["demo"], ["train"], ["evaluate"], ["ablate"], ["predict"], ["info"], ["data"], ["data", "show"],
    ["data", "prepare"], ["data", "prepare", "mcat"], ["data", "prepare", "prefixed"], ["data", "prepare", "assays"],
    ["bench"], ["bench", "run"],
]  # fmt: skip


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohort") / "simulated"
    survcore.simulate_cohort(90, seed=1).to_folder(path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged recipe, cut down to what a test can wait for."""
    text = (resources.files("survcore.training") / "recipes" / "must.toml").read_text()
    smaller = {
        "width = 256": "width = 16",
        "rank = 64": "rank = 4",
        "heads = 8": "heads = 2",
        "denoiser_layers = 4": "denoiser_layers = 1",
        "epochs = 30": "epochs = 2",
        "steps_per_epoch = 50": "steps_per_epoch = 5",
    }
    for old, new in smaller.items():
        assert old in text, old
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    code, text = run("train", "must", folder, "--out", out, "--recipe", tiny)
    assert code == 0, text
    assert "cos(" in text
    return out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command):
    code, text = run(*command, "--help")
    assert code == 0
    found: click.Command = main
    for name in command:
        found = found.get_command(click.Context(found), name)
    assert found.help and found.help.rstrip().endswith(".")
    for option in found.params:
        assert not isinstance(option, click.Option) or option.help, f"{option.name} is not explained"


def test_info_names_the_kernels():
    code, text = run("info")
    assert code == 0
    assert "discrete_hazard_nll" in text and "low_rank_decompose" in text


def test_predict_for_patients_with_missing_modalities(trained, folder, tmp_path):
    cohort = survcore.Cohort.from_folder(folder)
    first, second = cohort.modalities
    cohort.without(first, np.arange(90) < 10).to_folder(tmp_path / "incomplete")
    code, text = run(
        "predict", trained, tmp_path / "incomplete", "--out", tmp_path / "risks.csv", "--months", "6,24", "--steps", 5
    )
    assert code == 0, text
    assert "90 rows (10 with completed modalities)" in text
    table = pd.read_csv(tmp_path / "risks.csv", index_col="row_id", keep_default_na=False)
    numbers = ["risk", "risk_spread", "risk_min", "risk_max", "median_survival", "survival_6", "survival_24"]
    assert list(table.columns)[: len(numbers)] == numbers
    assert {"available", "completed", "fill", "imputed_entries", "subsampled", "error", "warning"} <= set(table.columns)
    assert set(table["completed"][:10]) == {first} and set(table["available"][:10]) == {second}
    assert (table["survival_6"].astype(float) >= table["survival_24"].astype(float)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nonsense", "{folder}", "--out", "{tmp}/out"], "unknown system 'nonsense'"),
        (["train", "must", "{folder}", "--out", "{tmp}/out", "--fold", "3"], "fold"),
        (["train", "must", "{folder}", "--out", "{tmp}/out", "--endpoint", "OS"], "primary"),
        (["train", "must", "{tmp}", "--out", "{tmp}/out"], "cohort.toml"),
        (["predict", "{folder}", "{folder}", "--out", "{tmp}/out"], "not a survcore model"),
        (["predict", "{trained}", "{folder}", "--out", "{tmp}/out", "--months", "a"], "months separated by commas"),
        (["predict", "{trained}", "{folder}", "--out", "{tmp}/out", "--draws", "0"], "draws"),
        (["train", "must", "{folder}", "--out", "{tmp}/out", "--device", "cuda:99"], "CUDA devices"),
        (["train", "must", "{folder}", "--out", "{tmp}/out", "--device", "tpu"], "cpu or cuda"),
        (["train", "must", "{folder}", "--out", "{tmp}/out", "--set", "model.rank=big"], "model.rank"),
        (["evaluate", "must", "{folder}", "--out", "{tmp}/out", "--set", "rank"], "KEY=VALUE"),
        (["evaluate", "must", "{folder}", "--out", "{tmp}/out", "--training-missing", "1.5"], "between 0 and 1"),
        (["evaluate", "must", "{folder}", "--out", "{tmp}/out", "--training-missing", "mri=0.2"], "no modality 'mri'"),
        (["ablate", "must", "{folder}", "depth", "--out", "{tmp}/out"], "unknown ablation: depth"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(arguments, message, folder, trained, tmp_path):
    cohort = survcore.Cohort.from_folder(folder)
    first = next(iter(cohort.modalities))
    cohort.without(first, np.arange(90) < 3).to_folder(tmp_path / "incomplete")
    places = {"folder": folder, "tmp": tmp_path, "trained": trained}
    if "--draws" in arguments:
        places["folder"] = tmp_path / "incomplete"
    code, text = run(*(argument.format(**places) for argument in arguments))
    assert code != 0
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()


def test_a_model_refuses_what_it_never_saw(trained, folder, tmp_path):
    cohort = survcore.Cohort.from_folder(folder)
    first = next(iter(cohort.modalities))
    table = pd.DataFrame(np.ones((2, 3)), index=["x", "y"], columns=["a", "b", "c"])
    survcore.Cohort.from_frames({"mri": table}, None).to_folder(tmp_path / "other")
    code, text = run("predict", trained, tmp_path / "other", "--out", tmp_path / "out.csv")
    assert code == 1 and "mri" in text
    narrow = survcore.Cohort.from_frames({first: table}, None, kinds={first: "vector"})
    narrow.to_folder(tmp_path / "narrow")
    code, text = run("predict", trained, tmp_path / "narrow", "--out", tmp_path / "out.csv")
    assert code == 1 and first in text
    assert not (tmp_path / "out.csv").exists()


def test_a_killed_training_resumes_to_the_same_weights(folder, tiny, tmp_path):
    long = tmp_path / "long.toml"
    long.write_text(tiny.read_text().replace("epochs = 2", "epochs = 6"))
    command = [sys.executable, "-m", "survcore.cli", "train", "must", str(folder), "--recipe", str(long), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, cwd=tmp_path, env=environment, capture_output=True)
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not (tmp_path / "killed" / "model").exists()
    resumed = [*command, str(tmp_path / "killed"), "--resume"]
    subprocess.run(resumed, check=True, cwd=tmp_path, env=environment, capture_output=True)
    for file in ("model/model.safetensors", "model/model.json", "history.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file
    assert not checkpoint.exists()


def test_prepare_then_show_real_patients(real_data, tmp_path):
    tables, slides = real_data("tcga_porpoise_must5"), real_data("tcga_hif_wsi_features")
    code, text = run(
        "data", "prepare", "mcat", tables / "tcga_luad_rna_cnv_mut.csv.gz", "--signatures", tables / "signatures.csv",
        "--folds", tables / "folds.csv", "--slides", slides / "luad.hifs.csv.gz", "--out", tmp_path / "luad",
    )  # fmt: skip
    assert code == 0, text
    assert "422 patients, 148 deaths" in text
    code, text = run("data", "show", tmp_path / "luad")
    assert code == 0
    assert "slide + omics" in text
