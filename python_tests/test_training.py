"""The training loop, checkpoints and fit, through a small system that is not one of the published ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import survcore
from survcore import models
from survcore.batch import Batch
from survcore.data import Cohort
from survcore.draws import row_normal
from survcore.errors import CheckpointError, DataError
from survcore.models.base import Completed, Encoded, Losses, System
from survcore.training import loop
from survcore.training.fit import training_parts
from survcore.training.recipe import Recipe, load_recipe


class Linear(System):
    """One linear map per modality, a summed head, and a cached stage: enough to exercise the protocol."""

    name = "linear"
    modality_kinds = frozenset({"vector"})
    stage_names = ("main", "scale")

    def __init__(self, inputs, bins, settings):
        super().__init__(inputs, bins, settings)
        self.maps = nn.ModuleDict({part.name: nn.Linear(part.width, 4) for part in inputs})
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(4, bins)
        self.scale = nn.Parameter(torch.zeros(4))

    def encode(self, batch: Batch) -> Encoded:
        parts = {}
        for m, name in enumerate(self.modalities):
            there = batch.availability[:, m, None]
            parts[name] = torch.where(there, self.maps[name](batch.values[name]), 0.0)
        return Encoded(parts, batch.availability, batch.row_key)

    def complete(self, encoded, *, fill="own", seed=0, **sampling):
        return Completed(encoded.parts, ~encoded.availability, fill)

    def predict(self, completed):
        logits = self.head(self.dropout(torch.stack(list(completed.parts.values())).sum(0)))
        return {"hazard_logits": logits, "risk": survcore.hazard_risk(logits)}

    def stage_parameters(self, stage):
        return [self.scale] if stage == "scale" else [*self.maps.parameters(), *self.head.parameters()]

    def latents(self, batch):
        return {"sum": torch.stack(list(self.encode(batch).parts.values())).sum(0)}

    def losses(self, batch, stage, *, seed=0):
        if stage == "scale":
            noise = row_normal(seed, batch.row_key, 4)
            loss = (batch.latents["sum"] * self.scale - noise).square().mean()
            return Losses(loss, {"scale": loss})
        logits = self.predict(self.complete(self.encode(batch)))["hazard_logits"]
        loss = survcore.discrete_hazard_nll(logits, batch.target.time_bin, batch.target.event > 0)
        return Losses(loss, {"survival": loss}, survcore.hazard_risk(logits.detach()))


STAGES = {
    "main": {"epochs": 4, "learning_rate": 0.02, "batch_size": 16, "monitor": "survival"},
    "scale": {"epochs": 3, "learning_rate": 0.1, "batch_size": 16, "steps_per_epoch": 5, "cached": True},
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(models._SYSTEMS, "linear", (__name__, "Linear"))
    load = models.import_module
    here = type("module", (), {"Linear": Linear})
    monkeypatch.setattr(models, "import_module", lambda name: here if name == __name__ else load(name))


def recipe(**stages) -> Recipe:
    merged = {name: loop.Stage(name=name, **{**values, **stages.get(name, {})}) for name, values in STAGES.items()}
    return Recipe("linear", {}, {"bins": 4}, 0.2, 0.0, merged)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    generator = np.random.default_rng(0)
    patients = 120
    ids = [f"p{i:03d}" for i in range(patients)]
    risk = generator.normal(size=patients)
    features = {"a": risk[:, None] + generator.normal(size=(patients, 3)), "b": generator.normal(size=(patients, 2))}
    time = generator.exponential(20 * np.exp(-risk))
    frames = {name: pd.DataFrame(values, index=ids).add_prefix(name) for name, values in features.items()}
    frames["b"] = frames["b"].iloc[10:]
    outcomes = pd.DataFrame(
        {"row_id": ids, "time": np.minimum(time, 40), "event": time < 40, "fold": np.arange(patients) % 3}
    )
    return Cohort.from_frames(frames, outcomes, time_unit="months")


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fit_learns_and_predicts(cohort, tmp_path):
    longer = recipe(main={"epochs": 25})
    predictor = survcore.fit("linear", cohort, recipe=longer, fold=0, out=tmp_path / "run")
    test = cohort.where(fold=0)
    table = predictor.predict(test)
    outcome = test.endpoint()
    index = survcore.concordance_index(outcome.time, outcome.event > 0, table["risk"])
    assert float(index) > 0.65
    assert list(table.index) == list(test.row_ids)
    assert set(table["completed"]) == {"", "b"}
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert list(history["stage"]) == ["main"] * 25 + ["scale"] * 3
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_saved_model_predicts_the_same(cohort, tmp_path):
    predictor = survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path / "run")
    loaded = survcore.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.predict(cohort), predictor.predict(cohort))


def test_prediction_only_cohort_and_batch_size(cohort, tmp_path):
    predictor = survcore.fit("linear", cohort, recipe=recipe())
    frames = {"a": pd.DataFrame(np.ones((2, 3)), index=["x", "y"], columns=["a0", "a1", "a2"])}
    newcomers = Cohort.from_frames(frames, None, time_unit=None)
    table = predictor.predict(newcomers)
    assert list(table["available"]) == ["a", "a"]
    small, large = predictor.predict(cohort, batch_size=7), predictor.predict(cohort, batch_size=500)
    np.testing.assert_allclose(small["risk"], large["risk"], rtol=1e-5)


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


TINY_MUST = {
    "model": {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1, "denoiser_heads": 2},
    "stages": {
        "warm_up": {"epochs": 2},
        "joint": {"epochs": 2},
        "diffusion": {"epochs": 2, "steps_per_epoch": 3},
    },
}


@pytest.mark.parametrize("system", ["linear", "must"])
@pytest.mark.parametrize("kill_after", [1, 3, 4, 5])
def test_resume_equals_an_undisturbed_run(cohort, tmp_path, monkeypatch, system, kill_after):
    plan = recipe() if system == "linear" else load_recipe("must", changes=TINY_MUST)
    undisturbed = survcore.fit(system, cohort, recipe=plan, seed=3, out=tmp_path / "whole")
    epochs = 0
    advance = loop.Progress.advance

    def killing(self, row):
        nonlocal epochs
        advance(self, row)
        # The display is told before the checkpoint is written, so this epoch is lost, as in a real kill.
        if epochs == kill_after:
            raise Killed
        epochs += 1

    monkeypatch.setattr(loop.Progress, "advance", killing)
    with pytest.raises(Killed):
        survcore.fit(system, cohort, recipe=plan, seed=3, out=tmp_path / "broken")
    monkeypatch.setattr(loop.Progress, "advance", advance)
    resumed = survcore.fit(system, cohort, recipe=plan, seed=3, out=tmp_path / "broken", resume=True)
    assert same_weights(undisturbed.system, resumed.system)
    assert (tmp_path / "whole/history.csv").read_text() == (tmp_path / "broken/history.csv").read_text()
    weights = "model/model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "broken" / weights).read_bytes()


def test_resume_keeps_the_directions_of_the_diffusion_stage(cohort, tmp_path, monkeypatch):
    """Another machine may find eigenvectors of the other sign, in which the weights so far make no sense."""
    plan = load_recipe("must", changes=TINY_MUST)
    whole = survcore.fit("must", cohort, recipe=plan, out=tmp_path / "whole")
    advance, epochs = loop.Progress.advance, iter(range(99))

    def killing(self, row):
        advance(self, row)
        if next(epochs) == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.Progress, "advance", killing)
        with pytest.raises(Killed):
            survcore.fit("must", cohort, recipe=plan, out=tmp_path / "broken")
    eigh = torch.linalg.eigh

    def flipped(matrix):
        values, vectors = eigh(matrix)
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", flipped)
    resumed = survcore.fit("must", cohort, recipe=plan, out=tmp_path / "broken", resume=True)
    assert same_weights(whole.system, resumed.system)


@pytest.mark.parametrize("kill_after", [1, 3])
def test_resume_with_a_skipped_stage_before_and_between(cohort, tmp_path, monkeypatch, kill_after):
    """Three stages of which the first, or the middle one, has no epochs; killed in either of the others."""
    for skipped in ("warm_up", "joint"):
        plan = load_recipe("must", changes=merged_stage(skipped, 0))
        whole = survcore.fit("must", cohort, recipe=plan, out=tmp_path / skipped / "whole")
        left = [name for name in ("warm_up", "joint", "diffusion") if name != skipped]
        history = pd.read_csv(tmp_path / skipped / "whole" / "history.csv")
        assert list(history["stage"]) == [name for name in left for _ in range(2)]
        advance, epochs = loop.Progress.advance, iter(range(99))

        def killing(self, row, epochs=epochs, advance=advance):
            advance(self, row)
            if next(epochs) == kill_after:
                raise Killed

        monkeypatch.setattr(loop.Progress, "advance", killing)
        with pytest.raises(Killed):
            survcore.fit("must", cohort, recipe=plan, out=tmp_path / skipped / "broken")
        monkeypatch.setattr(loop.Progress, "advance", advance)
        resumed = survcore.fit("must", cohort, recipe=plan, out=tmp_path / skipped / "broken", resume=True)
        assert same_weights(whole.system, resumed.system)


def merged_stage(name: str, epochs: int) -> dict:
    return {**TINY_MUST, "stages": {**TINY_MUST["stages"], name: {**TINY_MUST["stages"][name], "epochs": epochs}}}


def test_a_skipped_stage_leaves_its_weights_alone(cohort):
    plan = recipe(main={"epochs": 2}, scale={"epochs": 0})
    assert torch.equal(survcore.fit("linear", cohort, recipe=plan).system.scale, torch.zeros(4))
    trained = survcore.fit("linear", cohort, recipe=recipe(main={"epochs": 0})).system
    fresh = survcore.fit("linear", cohort, recipe=recipe(main={"epochs": 0}, scale={"epochs": 0})).system
    assert torch.equal(trained.head.weight, fresh.head.weight) and not torch.equal(trained.scale, fresh.scale)
    assert not fresh.training


def test_without_the_diffusion_stage_nothing_is_filled_in(cohort):
    predictor = survcore.fit("must", cohort, changes=merged_stage("diffusion", 0))
    complete = cohort.where(has=["a", "b"])
    assert np.isfinite(predictor.predict(complete)["risk"]).all()
    with pytest.raises(DataError, match="'b' is absent in .* the stage 'diffusion' has not run"):
        predictor.predict(complete.without("b"), errors="raise")
    lacking = np.arange(len(complete)) % 2 == 0
    with pytest.warns(UserWarning, match="could not be predicted"):
        table = predictor.predict(complete.without("b", lacking))
    assert (table["risk"].isna() == lacking).all()
    assert (table["error"].str.contains("the stage 'diffusion' has not run") == lacking).all()


def test_resume_of_a_finished_run_returns_its_model(cohort, tmp_path):
    first = survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path)
    stamp = (tmp_path / "model" / "model.json").stat().st_mtime_ns
    again = survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path, resume=True)
    assert same_weights(first.system, again.system)
    assert (tmp_path / "model" / "model.json").stat().st_mtime_ns == stamp


def test_training_does_not_move_the_callers_random_state(cohort):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    survcore.fit("linear", cohort, recipe=recipe())
    assert torch.equal(before, torch.get_rng_state())


def test_the_best_epoch_is_kept(cohort):
    preprocessor = survcore.fit("linear", cohort, recipe=recipe()).preprocessor
    few, others = (preprocessor.transform(cohort.select(rows)) for rows in (np.arange(20), np.arange(20, 120)))
    system = Linear(preprocessor.inputs, 4, {})
    # Twenty rows at a high rate: the other rows fare worse and worse.
    stage = loop.Stage("main", 25, 0.3, batch_size=20, monitor="survival")
    history = [row["validation_survival"] for row in loop.train(system, [stage], few, others)]
    with torch.no_grad():
        value = system.losses(others.batch(torch.arange(len(others))), "main").loss.item()
    assert min(history) < history[-1] - 0.1
    assert value == pytest.approx(min(history), rel=1e-5)


def test_early_stopping(cohort, tmp_path):
    survcore.fit(
        "linear", cohort, recipe=recipe(main={"epochs": 200, "patience": 3, "learning_rate": 1.0}), out=tmp_path
    )
    history = pd.read_csv(tmp_path / "history.csv").query("stage == 'main'")
    assert 4 <= len(history) < 200
    assert int(history["validation_survival"].argmin()) == len(history) - 1 - 3


def test_accumulation_equals_a_larger_batch(cohort):
    rows = survcore.fit("linear", cohort, recipe=recipe()).preprocessor.transform(cohort)
    inputs = survcore.fit("linear", cohort, recipe=recipe()).preprocessor.inputs
    systems = []
    for batch_size, accumulate in ((40, 1), (20, 2)):
        torch.manual_seed(1)
        system = Linear(inputs, 4, {})
        system.dropout.p = 0.0
        stage = loop.Stage("main", 2, 0.01, batch_size=batch_size, accumulate=accumulate, monitor="survival")
        loop.train(system, [stage], rows, None)
        systems.append(system)
    for first, second in zip(*(system.parameters() for system in systems), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_checkpoint_of_another_run_is_refused(cohort, tmp_path, monkeypatch):
    def killing(self, state):
        write(self, state)
        raise Killed

    write = loop.Checkpoint.write
    monkeypatch.setattr(loop.Checkpoint, "write", killing)
    with pytest.raises(Killed):
        survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path)
    with pytest.raises(CheckpointError, match="another run"):
        survcore.fit("linear", cohort, recipe=recipe(), seed=1, out=tmp_path, resume=True)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "holds no model.json"),
        (
            lambda folder: (folder / "model.json").write_text('{"format": "other"}'),
            "does not describe a survcore model",
        ),
        (lambda folder: (folder / "model.json").write_text('{"form'), "cut short"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"123"), "checksum"),
        (
            lambda folder: (folder / "model.json").write_text(
                (folder / "model.json").read_text().replace('"longest_follow_up": ', '"longest_follow_up": 1')
            ),
            "model.json was changed after it was saved",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
    ],
)
def test_broken_models_are_named(cohort, tmp_path, break_it, message):
    survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path)
    break_it(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message):
        survcore.load(tmp_path / "model")


def test_model_of_another_version(cohort, tmp_path):
    survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path)
    file = tmp_path / "model" / "model.json"
    description = json.loads(file.read_text())
    description["format_version"] = 99
    file.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="format 99"):
        survcore.load(tmp_path / "model")


def test_bad_folds_and_values_are_named(cohort):
    with pytest.raises(DataError, match="fold '7' has no rows"):
        survcore.fit("linear", cohort, recipe=recipe(), fold=7)
    with pytest.raises(ValueError, match="unknown system 'nothing'"):
        survcore.fit("nothing", cohort)
    with pytest.raises(ValueError, match="watches 'nonsense'"):
        survcore.fit("linear", cohort, recipe=recipe(main={"monitor": "nonsense"}))


def test_training_part_without_events(cohort):
    outcomes = pd.DataFrame(
        {"row_id": ["a", "b", "c", "d"], "time": [1.0, 2, 3, 4], "event": [1, 0, 0, 0], "fold": [0, 1, 1, 1]}
    )
    frames = {"a": pd.DataFrame(np.eye(4), index=["a", "b", "c", "d"])}
    frames["a"].columns = ["w", "x", "y", "z"]
    small = Cohort.from_frames(frames, outcomes, time_unit="months")
    with pytest.raises(DataError, match="event"):
        survcore.fit("linear", small, recipe=recipe(), fold=0)


def test_features_named_like_an_outcome_are_warned_of(cohort):
    frames = {"a": pd.DataFrame({"age": 1.0 * np.arange(120), "last_contact": 1.0}, index=cohort.row_ids)}
    outcome = cohort.endpoint()
    outcomes = pd.DataFrame({"row_id": cohort.row_ids, "time": outcome.time, "event": outcome.event})
    leaking = Cohort.from_frames(frames, outcomes, time_unit="months")
    with pytest.warns(UserWarning, match="'a' has columns named like an outcome: 'last_contact'"):
        survcore.fit("linear", leaking, recipe=recipe())


def outcomes_of(cohort: Cohort, **columns) -> pd.DataFrame:
    outcome = cohort.endpoint()
    return pd.DataFrame({"row_id": cohort.row_ids, "time": outcome.time, "event": outcome.event, **columns})


def remade(cohort: Cohort, outcomes: pd.DataFrame, **options) -> Cohort:
    frames = {
        name: pd.DataFrame(part.table, index=cohort.row_ids, columns=part.spec.columns)[part.present]
        for name, part in cohort.modalities.items()
    }
    return Cohort.from_frames(frames, outcomes, time_unit="months", **options)


def test_only_rows_marked_for_training_are_trained_on(cohort):
    marks = np.array(["Train", "test", "val"])[np.arange(120) % 3]
    folds = np.arange(120) // 3 % 2
    marked = remade(cohort, outcomes_of(cohort, split=marks, fold=folds))
    rows, chosen = training_parts(marked, "primary", None, 0.2, 0)
    assert set(rows.split) == {"Train"} and set(chosen.split) == {"val"}
    rows, chosen = training_parts(marked, "primary", 1, 0.2, 0)
    assert set(rows.split) == {"Train"} and set(chosen.split) == {"val"}
    assert set(rows.fold) == {0} and set(chosen.fold) == {0}
    unknown = remade(cohort, outcomes_of(cohort, split=np.where(np.arange(120) % 2, "a", "b")))
    with pytest.raises(DataError, match="no row is marked for training .* 'a', 'b'"):
        survcore.fit("linear", unknown, recipe=recipe())


@pytest.mark.parametrize("what", ["fold", "split", "a feature", "weights"])
def test_a_run_is_not_taken_for_one_on_other_data(cohort, tmp_path, what):
    survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path)
    outcomes = outcomes_of(cohort, fold=cohort.fold)
    if what == "fold":
        outcomes["fold"] = 2 - outcomes["fold"]
    elif what != "a feature":
        outcomes[what] = "train" if what == "split" else 2.0
    other = remade(cohort, outcomes)
    if what == "a feature":
        other.modalities["a"].table[0, 0] += 1
    with pytest.raises(CheckpointError, match="another run"):
        survcore.fit("linear", other, recipe=recipe(), out=tmp_path, resume=True)


def test_endpoints_that_a_system_would_misread_are_refused(cohort):
    causes = outcomes_of(cohort)
    causes.loc[::5, "event"] = 2
    with pytest.raises(DataError, match="2 competing causes, and linear takes one"):
        survcore.fit("linear", remade(cohort, causes, causes=2), recipe=recipe())
    truncated = remade(cohort, outcomes_of(cohort, entry=0.5 * cohort.endpoint().time))
    with pytest.raises(DataError, match="entry times"):
        survcore.fit("linear", truncated, recipe=recipe())


def test_rows_with_no_modality_are_refused(cohort):
    predictor = survcore.fit("linear", cohort, recipe=recipe())
    bare = cohort.without("a", np.arange(120) == 50).without("b", np.arange(120) == 50)
    with pytest.raises(DataError, match="no modality.*p050"):
        predictor.predict(bare, errors="raise")
    with pytest.raises(DataError, match="no modality.*p050"):
        survcore.fit("linear", bare, recipe=recipe())


def test_a_patient_never_lies_in_two_folds(cohort):
    patients = [f"patient {i // 2}" for i in range(120)]
    with pytest.raises(DataError, match="'patient 0' has rows in 2 folds"):
        remade(cohort, outcomes_of(cohort, patient_id=patients, fold=np.arange(120) % 3))
    with pytest.raises(DataError, match="splits"):
        remade(cohort, outcomes_of(cohort, patient_id=patients, split=np.where(np.arange(120) % 2, "train", "test")))


def test_a_fold_without_events_is_named(cohort):
    outcomes = outcomes_of(cohort, fold=(cohort.endpoint().event == 0).astype(int))
    with pytest.raises(DataError, match="fold 1: none of its|fold 1: none of"):
        survcore.fit("linear", remade(cohort, outcomes), recipe=recipe(), fold=1)


def test_a_loaded_model_can_be_changed_and_saved_again(cohort, tmp_path):
    survcore.fit("linear", cohort, recipe=recipe(), out=tmp_path / "run")
    loaded = survcore.load(tmp_path / "run")
    with torch.no_grad():
        loaded.system.head.bias += 1
    loaded.save(tmp_path / "again")
    assert same_weights(survcore.load(tmp_path / "again").system, loaded.system)


def test_imputed_entries_and_restricted_mean_are_reported(cohort):
    predictor = survcore.fit("linear", cohort, recipe=recipe())
    gaps = remade(cohort, outcomes_of(cohort))
    gaps.modalities["a"].table[3, :2] = np.nan
    table = predictor.predict(gaps, restricted_mean_to=12)
    assert table["imputed_entries"].to_dict() == {row: 2 * (row == "p003") for row in cohort.row_ids}
    assert table["restricted_mean"].between(0, 12).all()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"epochs": -1}, "epochs must be a whole number from 0"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"epochs": "2"}, "'stages.joint.epochs' must be a number, got '2'"),
        ({"cached": 1}, "cached must be true or false"),
        ({"batch_size": 0}, "batch_size"),
        ({"accumulate": 0}, "accumulate"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_stage_values_are_checked(stage, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("must", changes={"stages": {"joint": stage}})


def test_stages_that_a_system_lacks_are_named(cohort):
    stage = {"epochs": 1, "learning_rate": 0.1}
    with pytest.raises(ValueError, match="unknown stage: jont; expected one of diffusion, joint, warm_up"):
        survcore.fit("must", cohort, changes={"stages": {"jont": stage}})
    plan = load_recipe("must")
    with pytest.raises(ValueError, match="must has the stages warm_up, joint, diffusion; the recipe has jont"):
        other = replace(plan, stages={**plan.stages, "jont": loop.Stage(name="jont", **stage)})
        survcore.fit("must", cohort, recipe=other)
    with pytest.raises(ValueError, match="apply to the packaged recipe"):
        survcore.fit("linear", cohort, recipe=recipe(), quick=True)
    with pytest.raises(ValueError, match="gradient_clip"):
        load_recipe("must", changes={"training": {"gradient_clip": -1.0}})


def test_divergence_names_stage_and_epoch(cohort):
    with pytest.raises(FloatingPointError, match="stage 'main', epoch"):
        survcore.fit("linear", cohort, recipe=recipe(main={"learning_rate": 1e38, "epochs": 9}))
