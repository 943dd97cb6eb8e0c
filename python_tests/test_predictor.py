"""A loaded predictor before its first patient: where it runs, and what it sets up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import survcore
from survcore.devices import known_device
from survcore.diffusion import packed

QUICK = {"draws": 3, "steps": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a slide and genomics, trained for a moment."""
    cohort = survcore.simulate_cohort(40, seed=2, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 40))
    model = {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1}
    changes = {"model": model, "stages": {stage: {"epochs": 1} for stage in ("warm_up", "joint", "diffusion")}}
    out = tmp_path_factory.mktemp("model")
    survcore.fit("must", cohort, changes=changes, out=out)
    return out


@pytest.fixture
def patients() -> survcore.Cohort:
    cohort = survcore.simulate_cohort(12, seed=3, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 40))
    return cohort.without("slide", np.arange(12) < 4).without("genomics", np.arange(12) >= 8)


def test_device_is_the_gpu_where_there_is_one(folder: Path) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    for predictor in (survcore.load(folder), survcore.load(folder, "auto")):
        assert next(predictor.system.parameters()).device.type == expected
    assert next(survcore.load(folder, "cpu").system.parameters()).device.type == "cpu"


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99", "", None])
def test_devices_that_are_not_there(name: str | None, folder: Path) -> None:
    with pytest.raises(ValueError, match="auto, cpu or cuda:N|CUDA devices"):
        known_device(name)
    with pytest.raises(ValueError, match="auto, cpu or cuda:N|CUDA devices"):
        survcore.load(folder, name)


def test_after_a_warmup_nothing_is_packed_and_nothing_else(
    folder: Path, patients: survcore.Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = survcore.load(folder, "cpu").predict(patients, **QUICK)
    predictor, made = survcore.load(folder, "cpu"), []
    original = packed.pack_denoiser
    monkeypatch.setattr(
        packed, "pack_denoiser", lambda *given, **options: made.append(1) or original(*given, **options)
    )
    predictor.warmup(**QUICK)
    assert len(made) == 2
    pd.testing.assert_frame_equal(predictor.predict(patients, **QUICK), expected)
    assert len(made) == 2


def test_warmup_refuses_what_predict_refuses(folder: Path) -> None:
    with pytest.raises(ValueError, match="solver"):
        survcore.load(folder, "cpu").warmup(solver="euler")
