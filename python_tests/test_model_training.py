"""The benchmark of whole trainings: losses are compared first, then stages timed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import survcore
from survcore.benchmarks import plain_losses
from survcore.benchmarks.model_training import TrainingWorker, compared, measure
from survcore.benchmarks.provider_process import ProviderProblem
from survcore.benchmarks.results import read
from survcore.cli import main
from survcore.models import surv_m2ac

_SETTINGS = {
    "preprocess": {"least_active": 0},
    "model": {"hidden": 16, "latent": 8, "projection": 8},
    "stages": {"pretrain": {"epochs": 2}, "head": {"epochs": 3}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohorts") / "small"
    survcore.simulate_cohort(80, seed=1, modalities={"genes": "panel", "clinical": "vector"}).to_folder(path)
    return path


def test_stages_are_timed_and_stored(folder: Path, tmp_path: Path) -> None:
    changes = ("model.hidden=16", "model.latent=8", "preprocess.least_active=0", "stages.pretrain.epochs=2")
    flags = [f"--set={change}" for change in (*changes, "stages.head.epochs=3")] + ["--threads=1", f"--out={tmp_path}"]
    result = CliRunner().invoke(main, ["bench", "models", "surv_m2ac", str(folder), *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    records = read(tmp_path)
    stages = {(record["provider"], record["stage"]): record["epochs"] for record in records if "stage" in record}
    names = ("survcore", "plain")
    assert stages == {(name, stage): epochs for name in names for stage, epochs in (("pretrain", 2), ("head", 3))}
    whole = {record["provider"]: record for record in records if record["measured"] == "training"}
    assert all(record["seconds"] > 0 and record["peak_bytes"] > 0 for record in whole.values())
    assert whole["plain"]["difference"] < 1e-4


def test_the_rival_computes_plain_losses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("masked_bce_with_logits", "masked_mse", "info_nce", "cox_ph_loss")
    for name in names:  # to be put back in the end
        monkeypatch.setattr(surv_m2ac, name, getattr(surv_m2ac, name))
    TrainingWorker("plain", "surv_m2ac", folder, None, _SETTINGS)
    assert [getattr(surv_m2ac, name) for name in names] == [getattr(plain_losses, name) for name in names]


@pytest.mark.parametrize("losses", [[1.0, 2.01], [1.0, float("nan")], [float("inf"), 2.0]])
def test_other_losses_are_refused(losses: list[float]) -> None:
    assert compared([1.0, 2.0002], [1.0, 2.0]) == pytest.approx(1e-4)
    with pytest.raises(ProviderProblem, match="losses of the first epochs differ"):
        compared(losses, [1.0, 2.0])


def test_a_system_without_plain_losses_is_refused(folder: Path) -> None:
    with pytest.raises(ProviderProblem, match="no loss of must"):
        measure("must", folder, None, {}, threads=1, context={}, say=print)


def test_plain_losses_refuse_what_they_do_not_compute() -> None:
    rows = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="alone"):
        plain_losses.masked_bce_with_logits(rows, rows, reduction="none")
    with pytest.raises(ValueError, match="alone"):
        plain_losses.info_nce(rows, rows, temperature=1.0, form="cross_modal")
