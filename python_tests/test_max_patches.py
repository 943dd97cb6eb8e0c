"""How many patches of a bag a run sees: from recipe, argument and command to what a system reads."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from survcore.cli import main
from survcore.data import Cohort, Preprocessor, simulate_cohort
from survcore.data.prepared import PreparedCohort
from survcore.inference.predictor import Predictor
from survcore.models.base import Completed, Encoded, Losses, Stage, System
from survcore.training import fit, loop
from survcore.training.recipe import Recipe, load_recipe

PATCHES = 500


def numbered(rows: int = 2) -> dict[str, np.ndarray]:
    """Bags of one column that holds the number of the patch."""
    return {f"p{row}": np.arange(PATCHES, dtype=np.float32)[:, None] for row in range(rows)}


def prepare(bags: dict) -> PreparedCohort:
    cohort = Cohort.from_frames({"slide": bags}, None, kinds={"slide": "bag"})
    return Preprocessor.fit(cohort).transform(cohort)


@pytest.mark.parametrize("value", [-1, 2.0, True, "5", None])
def test_max_patches_is_a_whole_number(value):
    with pytest.raises(ValueError, match="max_patches must be a whole number of at least 0"):
        prepare(numbered(1)).batch(max_patches=value)
    with pytest.raises(ValueError, match="max_patches.* must be a "):
        load_recipe("must", changes={"training": {"max_patches": value}})


def test_the_recipe_holds_max_patches():
    assert load_recipe("must").max_patches == 0
    recipe = load_recipe("must", changes={"training": {"max_patches": 3000}})
    assert recipe.max_patches == 3000 and recipe.state()["max_patches"] == 3000


class MeanPatch(System):
    """A hazard from the mean of a bag; it remembers what it read."""

    name = "mean_patch"
    modality_kinds = frozenset({"bag"})
    stage_names = ("main", "frozen")

    def __init__(self, inputs, bins, settings):
        super().__init__(inputs, bins, settings)
        self.head = torch.nn.Linear(1, bins)
        self.read: list[tuple[bool, tuple[int, ...]]] = []

    def encode(self, batch):
        bags = [batch.values["slide"][row] for row in range(len(batch))]
        self.read += [(self.training, tuple(bag[:, 0].long().tolist())) for bag in bags]
        means = torch.stack([bag.mean(0) for bag in bags]) / PATCHES
        return Encoded({"slide": means}, batch.availability, batch.row_key)

    def complete(self, encoded, *, fill="own", seed=0, **sampling):
        return Completed(encoded.parts, ~encoded.availability, fill)

    def predict(self, completed):
        logits = self.head(completed.parts["slide"])
        return {"hazard_logits": logits, "risk": logits.sum(1)}

    def stage_parameters(self, stage):
        return self.head.parameters()

    def latents(self, batch):
        return dict(self.encode(batch).parts)

    def losses(self, batch, stage, *, seed=0):
        encoded = Encoded(batch.latents, batch.availability, batch.row_key) if stage == "frozen" else self.encode(batch)
        loss = self.predict(self.complete(encoded))["hazard_logits"].square().mean()
        return Losses(loss, {"survival": loss})


def mean_patch(prepared: PreparedCohort) -> MeanPatch:
    return MeanPatch(prepared.inputs, 2, {})


def test_every_epoch_of_training_draws_its_own_patches():
    prepared = prepare(numbered(1))
    system = mean_patch(prepared)
    stage = Stage(name="main", epochs=3, learning_rate=0.1, batch_size=4, monitor="survival")
    loop.train(system, [stage], prepared, prepared, seed=2, max_patches=20)
    training = [read for mode, read in system.read if mode]
    validation = [read for mode, read in system.read if not mode]
    assert {len(read) for _, read in system.read} == {20}
    assert len(training) == len(set(training)) == 3 and len(validation) == 3 and len(set(validation)) == 1
    again = mean_patch(prepared)
    loop.train(again, [stage], prepared, prepared, seed=2, max_patches=20)
    assert again.read == system.read


def test_cached_latents_are_of_all_patches():
    prepared = prepare(numbered(1))
    system = mean_patch(prepared)
    stage = Stage(name="frozen", epochs=2, learning_rate=0.1, batch_size=4, monitor="survival", cached=True)
    loop.train(system, [stage], prepared, prepared, max_patches=20)
    assert [len(read) for _, read in system.read] == [PATCHES, PATCHES]


def test_fit_takes_max_patches_from_the_recipe(monkeypatch):
    bags = {f"p{row}": np.random.default_rng(row).random((30, 1)) for row in range(20)}
    outcomes = pd.DataFrame({"time": np.arange(1.0, 21.0), "event": [0, 1] * 10}, index=list(bags))
    cohort = Cohort.from_frames({"slide": bags}, outcomes, time_unit="months", kinds={"slide": "bag"})
    monkeypatch.setattr(sys.modules[fit.__module__], "system_class", lambda name: MeanPatch)
    monkeypatch.setattr(MeanPatch, "diagnostics", lambda self, batch: {}, raising=False)
    stages = {
        name: Stage(name=name, epochs=1, learning_rate=0.1, batch_size=4, monitor="survival")
        for name in MeanPatch.stage_names
    }
    stages.pop("frozen")
    monkeypatch.setattr(MeanPatch, "stage_names", ("main",))
    predictor = fit("mean_patch", cohort, recipe=Recipe("mean_patch", {}, {"bins": 2}, 0.2, 0.0, stages, 7))
    assert {len(read) for _, read in predictor.system.read} == {7}
    assert predictor.description["run"]["recipe"]["max_patches"] == 7


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


@pytest.mark.usefixtures("one_thread")
def test_resume_with_subsampled_bags_equals_an_undisturbed_run(tmp_path, monkeypatch):
    """One run killed in the second of two epochs of warm-up, of joint training and of the diffusion."""
    modalities = {"slide": "bag", "rna": "vector"}
    cohort = simulate_cohort(24, seed=1, modalities=modalities, missing=0.2, patches=(8, 16), bag_width=13)
    changes = {
        "model": {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1, "denoiser_heads": 2},
        "training": {"max_patches": 6},
        "stages": {
            "warm_up": {"epochs": 2, "batch_size": 8},
            "joint": {"epochs": 2, "batch_size": 8},
            "diffusion": {"epochs": 2, "steps_per_epoch": 2},
        },
    }
    plan = load_recipe("must", changes=changes)
    undisturbed = fit("must", cohort, recipe=plan, seed=3, out=tmp_path / "whole")
    advance = loop.Progress.advance
    # Epochs begun since the last start; the lost one is begun again.
    for start, kill_after in enumerate((1, 2, 2)):
        epochs = iter(range(9))

        def killing(self, row, epochs=epochs, kill_after=kill_after):
            advance(self, row)
            # The display is told before the checkpoint is written, so this epoch is lost, as in a real kill.
            if next(epochs) == kill_after:
                raise Killed

        monkeypatch.setattr(loop.Progress, "advance", killing)
        with pytest.raises(Killed):
            fit("must", cohort, recipe=plan, seed=3, out=tmp_path / "broken", resume=start > 0)
    monkeypatch.setattr(loop.Progress, "advance", advance)
    resumed = fit("must", cohort, recipe=plan, seed=3, out=tmp_path / "broken", resume=True)
    ours, theirs = resumed.system.state_dict(), undisturbed.system.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    history = (tmp_path / "broken/history.csv").read_text()
    assert history == (tmp_path / "whole/history.csv").read_text()
    assert [line.split(",")[0] for line in history.splitlines()[1:]] == sorted(
        2 * list(plan.stages), key=list(plan.stages).index
    )


def test_predictions_say_how_many_patches_were_dropped():
    bags = {"gaps": np.arange(10.0)[:, None], "whole": np.arange(4.0)[:, None], "last": np.ones((2, 1))}
    bags["gaps"][[1, 2, 7]] = np.nan
    outcomes = pd.DataFrame({"time": [1.0, 2.0, 3.0], "event": [1, 1, 0]}, index=list(bags))
    cohort = Cohort.from_frames({"slide": bags}, outcomes, time_unit="months", kinds={"slide": "bag"})
    preprocessor = Preprocessor.fit(cohort, {"bins": 2})
    predictor = Predictor(mean_patch(preprocessor.transform(cohort)), preprocessor, {"longest_follow_up": 3.0})
    assert predictor.predict(cohort, batch_size=1)["dropped_patches"].to_dict() == {"gaps": 3, "whole": 0, "last": 0}
    # Seven patches are whole, so eight are no limit, and four are one.
    for most, cut in ((8, ["", "", ""]), (4, ["slide", "", ""])):
        assert list(predictor.predict(cohort, max_patches=most)["subsampled"]) == cut


def test_predictions_take_all_patches_or_the_same_few():
    bags = numbered(3)
    outcomes = pd.DataFrame({"time": [1.0, 2.0, 3.0], "event": [1, 1, 0]}, index=list(bags))
    cohort = Cohort.from_frames({"slide": bags}, outcomes, time_unit="months", kinds={"slide": "bag"})
    preprocessor = Preprocessor.fit(cohort, {"bins": 2})
    system = mean_patch(preprocessor.transform(cohort))
    predictor = Predictor(system, preprocessor, {"longest_follow_up": 3.0})
    predictor.predict(cohort)
    assert {len(read) for _, read in system.read} == {PATCHES}
    system.read.clear()
    table = predictor.predict(cohort, max_patches=30, seed=8)
    few = [read for _, read in system.read]
    assert {len(read) for read in few} == {30}
    system.read.clear()
    curves = predictor.predict_survival_function(cohort.select([2, 0]), max_patches=30, seed=8, batch_size=1)
    assert [read for _, read in system.read] == [few[2], few[0]]
    assert list(curves) == ["p2", "p0"]
    alone = predictor.predict(cohort.select([1]), max_patches=30, seed=8)
    assert alone["risk"].item() == pytest.approx(table["risk"].iloc[1], rel=1e-6)
    assert list(table["subsampled"]) == 3 * ["slide"]
    assert (predictor.predict(cohort)["subsampled"] == "").all()
    with pytest.raises(ValueError, match="max_patches"):
        predictor.predict(cohort, max_patches=-1)


def test_the_predict_command_takes_max_patches(tmp_path, monkeypatch):
    folder = tmp_path / "cohort"
    Cohort.from_frames({"slide": {"p": np.ones((2, 3))}}, None, kinds={"slide": "bag"}).to_folder(folder)
    given = []

    class Recorder:
        preprocessor = None

        def predict(self, cohort, **options):
            given.append(options["max_patches"])
            columns = {"completed": [""], "imputed_entries": [0], "subsampled": ["slide"], "dropped_patches": [3]}
            return pd.DataFrame({**columns, "warning": [""], "error": [""]}, cohort.row_ids)

    monkeypatch.setattr("survcore.inference.load", lambda path, **options: Recorder())
    command = ["predict", str(tmp_path), str(folder), "--out", str(tmp_path / "risks.csv")]
    for options, code in (([], 0), (["--max-patches", "9"], 0), (["--max-patches", "-1"], 2)):
        assert CliRunner().invoke(main, command + options).exit_code == code
    assert given == [0, 9]
    output = CliRunner().invoke(main, [*command, "--max-patches", "9"]).output
    assert "1 row predicted from 9 patches" in output
    assert "3 patches with a missing entry were left out" in output
