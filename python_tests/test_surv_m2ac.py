"""Surv-M2AC: architecture, losses, masks, missing entries and modalities, both heads, its stages."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import survcore
from survcore.batch import Batch, ModalityInput, SparsePanel, Target, dense
from survcore.benchmarks import plain_losses
from survcore.errors import DataError
from survcore.models import surv_m2ac
from survcore.models.surv_m2ac import SurvM2AC
from survcore.training import load_recipe
from survcore.training.fit import training_parts
from survcore.training.recipe import load_ablation

SMALL: dict[str, Any] = {"hidden": 32, "latent": 16, "projection": 8, "head_hidden": "16 8", "deep_from": 10}
INPUTS = (ModalityInput("genes", "panel", 40), ModalityInput("clinical", "vector", 5))
THREE = (*INPUTS, ModalityInput("cytogenetics", "panel", 7))
BINS = 6

pytestmark = pytest.mark.usefixtures("one_thread")


def make_batch(
    inputs: tuple[ModalityInput, ...] = INPUTS, rows: int = 24, missing: bool = False, seed: int = 0
) -> Batch:
    """Random rows; with ``missing`` rows without a modality and single missing entries, where values are NaN."""
    draw = torch.Generator().manual_seed(seed)
    availability = torch.ones(rows, len(inputs), dtype=torch.bool)
    values: dict[str, Any] = {}
    observed = {}
    for index, modality in enumerate(inputs):
        if modality.kind == "panel":
            value = (torch.rand(rows, modality.width, generator=draw) < 0.2).float()
        else:
            value = torch.randn(rows, modality.width, generator=draw)
        if missing:
            availability[index :: len(inputs) + 1, index] = False
            there = torch.rand(value.shape, generator=draw) < 0.8
            observed[modality.name] = there
            value = value.masked_fill(~there | ~availability[:, index : index + 1], torch.nan)
        values[modality.name] = value
    time = torch.rand(rows, generator=draw) * 60 + 0.1
    target = Target(time, (torch.rand(rows, generator=draw) < 0.6).long(), (time / 60.1 * BINS).long())
    return Batch(torch.arange(rows) * 7919, availability, values, observed, target)


def make_system(inputs: tuple[ModalityInput, ...] = INPUTS, seed: int = 0, **settings: Any) -> SurvM2AC:
    torch.manual_seed(seed)
    system = SurvM2AC(inputs, BINS, SMALL | settings).eval()
    with torch.no_grad():
        # Blocks begin as identities, and tokens near 0: neither would show what depends on them.
        for name, parameter in system.named_parameters():
            if name.endswith(("scale", "token")):
                parameter.normal_()
    return system


def risks(system: SurvM2AC, batch: Batch, fill: str = "own") -> Tensor:
    with torch.no_grad():
        whole = system.complete(system.encode(batch), fill=fill)
        return system.head(whole.parts["latent"])


def test_the_released_configuration_has_the_released_number_of_parameters() -> None:
    inputs = (ModalityInput("genes", "panel", 1165), ModalityInput("clinical", "vector", 14))
    system = SurvM2AC(inputs, 4, {})
    width, latent = 512, 256
    norm, residual, gate = 2 * width, width * width + width + 3 * width, 2 * width * 32
    encoders = sum(d * width + d + width + norm for d in (1165, 14)) + 3 * residual + 2 * gate
    fusion = 2 * (width * 2 * width + norm) + (2 * width) ** 2 + 4 * width + 2 * width * latent + latent
    decoders = sum(latent * width + width + width * d + d for d in (1165, 14))
    projection = latent * 128 + 128 + 128 * 128 + 128 + 2 * 128
    found = sum(parameter.numel() for parameter in system.autoencoder.parameters())
    assert found == encoders + fusion + decoders + projection
    assert round(found / 1e6, 2) == 4.75


def test_two_modalities_modulate_each_other() -> None:
    film = survcore.nn.BiFiLM(2, 8).eval()
    genes, clinical = torch.randn(3, 8), torch.randn(3, 8)
    g, c = film.norms[0](genes), film.norms[1](clinical)
    (gamma_c, beta_c), (gamma_g, beta_g) = film.modulate[0](g).chunk(2, -1), film.modulate[1](c).chunk(2, -1)
    expected = film.project(torch.cat((gamma_g * g + beta_g, gamma_c * c + beta_c), dim=-1))
    torch.testing.assert_close(film([genes, clinical]), expected)


@pytest.mark.parametrize("architecture", ["surv_m2ac", "vanilla", "mlp"])
def test_predictions_do_not_depend_on_the_other_rows(architecture: str) -> None:
    system, batch = make_system(THREE, architecture=architecture), make_batch(THREE, missing=True)
    together = risks(system, batch)
    assert together.isfinite().all()
    for row in range(len(batch)):
        torch.testing.assert_close(risks(system, batch.take(slice(row, row + 1)))[0], together[row])


@pytest.mark.parametrize("architecture", ["surv_m2ac", "vanilla", "mlp"])
def test_an_absent_modality_is_one_whose_entries_are_all_missing(architecture: str) -> None:
    system, batch = make_system(architecture=architecture), make_batch()
    absent = replace(batch, availability=torch.tensor([[False, True]]).expand(len(batch), -1))
    nothing = torch.zeros(len(batch), 40, dtype=torch.bool)
    torch.testing.assert_close(risks(system, absent), risks(system, replace(batch, observed={"genes": nothing})))


def test_fills_show_zeros_and_means() -> None:
    system, batch = make_system(), make_batch()
    system.prepare([batch])
    absent = replace(batch, availability=torch.tensor([[True, False]]).expand(len(batch), -1))
    for fill, value in (("zeros", torch.zeros(5)), ("mean", batch.values["clinical"].mean(0))):
        shown = replace(batch, values=batch.values | {"clinical": value.expand(len(batch), -1)})
        torch.testing.assert_close(risks(system, absent, fill), risks(system, shown))


@pytest.mark.parametrize("missing", [False, True])
def test_sparse_panels_give_what_dense_ones_give(missing: bool) -> None:
    system, batch = make_system(THREE), make_batch(THREE, missing=missing)
    panels = {
        modality.name: SparsePanel.from_dense(batch.values[modality.name].nan_to_num())
        for modality in THREE
        if modality.kind == "panel"
    }
    sparse = replace(batch, values=batch.values | panels)
    torch.testing.assert_close(risks(system, sparse), risks(system, batch), rtol=1e-5, atol=1e-6)
    system.train()
    for stage in system.stages():
        losses = []
        for rows in (sparse, batch):
            torch.manual_seed(3)
            losses.append(system.losses(rows, stage, seed=5).loss)
        torch.testing.assert_close(*losses)


@pytest.mark.parametrize("patterns", [1, 3, 60])
def test_patterns_of_missing_entries_are_looked_at_once(patterns: int) -> None:
    layer = survcore.nn.MaskedInput(40, 8)
    torch.nn.init.normal_(layer.token)
    observed = (torch.rand(patterns, 40) < 0.7)[torch.randint(0, patterns, (60,))]
    values = (torch.rand(60, 40) < 0.2).float() * observed
    expected = layer(values, observed)
    with torch.no_grad():
        torch.testing.assert_close(layer(SparsePanel.from_dense(values), observed), expected)


def test_statistics_are_those_of_the_observed_training_rows() -> None:
    system, batch = make_system(), make_batch(missing=True)
    system.prepare([batch.take(slice(0, 10)), batch.take(slice(10, 24))])
    for index, name in enumerate(("genes", "clinical")):
        there = batch.observed[name] & batch.availability[:, index : index + 1]
        values = batch.values[name].where(there, torch.nan)
        torch.testing.assert_close(getattr(system, f"mean_{index}"), values.nanmean(0).nan_to_num())
    ones = (batch.values["genes"] == 1).sum(0)
    count = (~batch.values["genes"].isnan()).sum(0)
    expected = torch.where(ones > 0, (count - ones) / ones.clamp(min=1), 1.0)
    torch.testing.assert_close(system.positive_weight_0, expected)


# ---- losses, against plain PyTorch


def _stepped(system: SurvM2AC, batch: Batch, stage: str) -> tuple[float, list[Tensor]]:
    """The loss, and the parameters after one step along the gradient."""
    system = copy.deepcopy(system).train()
    optimizer = torch.optim.SGD(system.stage_parameters(stage), lr=0.1)
    torch.manual_seed(4)
    loss = system.losses(batch, stage, seed=7).loss
    loss.backward()
    optimizer.step()
    return loss.item(), list(system.parameters())


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    "stage, settings",
    [
        ("pretrain", {}),
        ("pretrain", {"objective": "masked", "mask_ratio": 0.5, "pos_weight": "all"}),
        ("pretrain", {"objective": "plain", "pos_weight": "none"}),
        ("pretrain", {"positions": "visible", "two_layer_residual": True, "modality_dropout": 0.5}),
        ("pretrain", {"positions": "all", "fusion": "none", "contrastive_weight": 2.0}),
        ("pretrain", {"architecture": "vanilla"}),
        ("head", {}),
        ("head", {"fine_tune": True, "norm_penalty": 0.0}),
        ("head", {"architecture": "mlp"}),
    ],
)
def test_a_step_is_that_of_plain_pytorch(
    stage: str, settings: dict[str, Any], missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, batch = make_system(THREE, **settings), make_batch(THREE, missing=missing)
    time = (batch.target.time / 6).ceil()  # with ties
    entry = time * torch.rand(len(batch), generator=torch.Generator().manual_seed(1))
    batch = replace(batch, target=replace(batch.target, time=time, entry=entry), strata=torch.arange(len(batch)) % 2)
    system.prepare([batch])
    loss, parameters = _stepped(system, batch, stage)
    for name in ("masked_bce_with_logits", "masked_mse", "info_nce", "cox_ph_loss"):
        monkeypatch.setattr(surv_m2ac, name, getattr(plain_losses, name))
    expected, others = _stepped(system, batch, stage)
    assert loss == pytest.approx(expected, rel=1e-5)
    for found, other in zip(parameters, others, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=2e-6)


def test_views_hide_entries_by_seed_and_row_alone() -> None:
    system, batch = make_system(mask_ratio=0.3), make_batch(rows=400)
    masks = system._mask(batch, 3)
    assert [mask.shape for mask in masks] == [(400, 40), (400, 5)]
    assert masks[0].float().mean() == pytest.approx(0.3, abs=0.02)
    order = torch.randperm(400)
    for mask, other in zip(masks, system._mask(batch.take(order), 3), strict=True):
        torch.testing.assert_close(other, mask[order])
    assert (system._mask(batch, 4)[0] != masks[0]).any()


def test_modality_dropout_leaves_one_modality() -> None:
    system = make_system(THREE, modality_dropout=0.9, mask_ratio=0.01)
    batch = make_batch(THREE, rows=500)
    gone = torch.stack([mask.all(1) for mask in system._mask(batch, 0)], dim=1)
    assert (gone.sum(1) == 2).float().mean() > 0.6 and not gone.all(1).any()
    alone = replace(batch, availability=torch.tensor([[True, False, False]]).expand(500, -1))
    assert not system._mask(alone, 0)[0].all(1).any()


# ---- training through the library


def tiny(**changes: Any) -> dict[str, Any]:
    """The packaged recipe on a small model."""
    stages = {"pretrain": {"epochs": 3, "batch_size": 64}, "head": {"epochs": 5}}
    merged: dict[str, Any] = {"model": dict(SMALL), "stages": stages, "preprocess": {"bins": 5, "least_active": 0}}
    for table, values in changes.items():
        for name, value in values.items():
            old = merged.setdefault(table, {}).get(name)
            merged[table][name] = {**old, **value} if isinstance(old, dict) else value
    return merged


@pytest.fixture(scope="module")
def cohort() -> survcore.Cohort:
    return survcore.simulate_cohort(160, seed=3, modalities={"genes": "panel", "clinical": "vector"}, missing=0.2)


ABLATIONS = ("encoder", "printed", "missing", "head")
VARIANTS = [(ablation, name) for ablation in ABLATIONS for name in load_ablation("surv_m2ac", ablation)]


@pytest.mark.parametrize("ablation, name", VARIANTS)
def test_every_variant_of_the_recipe_trains_and_predicts(ablation: str, name: str, cohort: survcore.Cohort) -> None:
    changes = tiny(**load_ablation("surv_m2ac", ablation)[name])
    predictor = survcore.fit("surv_m2ac", cohort, changes=changes)
    table = predictor.predict(cohort.select(np.arange(12)))
    assert (table["error"] == "").all() and table["risk"].notna().all() and table["survival_12"].between(0, 1).all()


@pytest.fixture(scope="module")
def stratified(cohort: survcore.Cohort) -> survcore.Cohort:
    """Two strata with hazards far apart, and late entry."""
    outcome = cohort.endpoint()
    strata = np.where(np.arange(len(cohort)) % 2, "fast", "slow")
    time = outcome.time * np.where(strata == "fast", 0.2, 1.0)
    late = replace(outcome, time=time, entry=np.where(np.arange(len(cohort)) % 3, 0.0, 0.5 * time))
    return replace(cohort, endpoints={outcome.name: late}, strata=strata)


def test_the_cox_head_predicts_by_stratum(stratified: survcore.Cohort, tmp_path: Any) -> None:
    predictor = survcore.fit("surv_m2ac", stratified, changes=tiny())
    predictor.save(tmp_path / "model")
    again = survcore.load(tmp_path / "model", "cpu", "float32")
    table = again.predict(stratified)
    np.testing.assert_array_equal(table["risk"], predictor.predict(stratified)["risk"])
    medians = table["median_survival"].groupby(stratified.strata).median()
    assert medians["fast"] < 0.5 * medians["slow"]
    # Somebody of whom no stratum is known gets the hazard of all.
    unknown = again.predict(replace(stratified, strata=None))["median_survival"]
    assert medians["fast"] < unknown.median() < medians["slow"]


def test_survival_at_the_ends_of_bins_is_breslows(stratified: survcore.Cohort) -> None:
    predictor = survcore.fit(
        "surv_m2ac", stratified, changes=tiny(training={"validation_fraction": 0.0}, preprocess={"bins": 4})
    )
    outcome = stratified.endpoint()
    risk = predictor.predict(stratified)["risk"]
    ends = predictor.preprocessor.bins.edges[1:-1]
    baseline = survcore.baseline_hazard(
        risk, outcome.time, outcome.event > 0, entry=outcome.entry, strata=stratified.strata
    )
    expected = baseline.survival_function(risk, np.nextafter(ends, 0), strata=stratified.strata)
    found = predictor.predict_survival_function(stratified, ends)
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-5, atol=1e-7)


def test_the_discrete_head_refuses_late_entry(stratified: survcore.Cohort) -> None:
    with pytest.raises(DataError, match="left truncation"):
        survcore.fit("surv_m2ac", stratified, changes=tiny(model={"head": "discrete_hazard"}))


def test_a_cached_head_cannot_train_the_encoder(cohort: survcore.Cohort) -> None:
    with pytest.raises(ValueError, match="cached = false"):
        survcore.fit("surv_m2ac", cohort, changes=tiny(model={"fine_tune": True}))


def test_a_frozen_encoder_learns_nothing_from_outcomes(cohort: survcore.Cohort) -> None:
    outcome = cohort.endpoint()
    other = replace(cohort, endpoints={outcome.name: replace(outcome, time=outcome.time[::-1].copy())})
    changes = tiny(training={"validation_fraction": 0.0})
    states = [
        {name: value for name, value in survcore.fit("surv_m2ac", rows, changes=changes).system.state_dict().items()}
        for rows in (cohort, other)
    ]
    same = {name: torch.equal(states[0][name], states[1][name]) for name in states[0]}
    assert all(equal for name, equal in same.items() if name.startswith("autoencoder"))
    assert not all(equal for name, equal in same.items() if name.startswith("head"))


def _encoder(predictor: survcore.Predictor) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in predictor.system.autoencoder.parameters()])


def test_unlabeled_patients_and_on_request_the_test_fold_take_part_in_pretraining(cohort: survcore.Cohort) -> None:
    folded = replace(cohort, fold=np.arange(len(cohort)) % 4)
    more = survcore.simulate_cohort(250, seed=3, modalities={"genes": "panel", "clinical": "vector"})
    further = replace(more.select(np.arange(160, 250)), endpoints={})
    alone = _encoder(survcore.fit("surv_m2ac", folded, fold=0, changes=tiny()))
    together = _encoder(survcore.fit("surv_m2ac", folded, fold=0, changes=tiny(), unlabeled=further))
    asked = _encoder(survcore.fit("surv_m2ac", folded, fold=0, changes=tiny(training={"pretrain_on_test": True})))
    assert not torch.equal(alone, together) and not torch.equal(alone, asked)
    with pytest.raises(DataError, match="patients of the cohort too"):
        survcore.fit("surv_m2ac", folded, fold=0, changes=tiny(), unlabeled=more)
    with pytest.raises(ValueError, match="of no use"):
        survcore.fit("must", survcore.simulate_cohort(60), unlabeled=further, quick=True)


def test_what_a_test_fold_holds_does_not_matter_unless_asked(cohort: survcore.Cohort) -> None:
    folded = replace(cohort, fold=np.arange(len(cohort)) % 4)
    kept = folded.select(folded.fold != 0)
    expected = survcore.fit("surv_m2ac", folded, fold=0, changes=tiny()).system.state_dict()
    found = survcore.fit("surv_m2ac", kept, changes=tiny()).system.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match="would change nothing"):
        survcore.fit("surv_m2ac", kept, changes=tiny(training={"pretrain_on_test": True}))


def test_the_model_is_that_of_the_best_epoch(cohort: survcore.Cohort, tmp_path: Any) -> None:
    """Running statistics of the head included."""
    head = {"epochs": 30, "learning_rate": 0.05, "patience": 30}
    predictor = survcore.fit("surv_m2ac", cohort, changes=tiny(stages={"head": head}), out=tmp_path)
    history = pd.read_csv(tmp_path / "history.csv").query("stage == 'head'")
    best = history["validation_survival"].min()
    assert best < history["validation_survival"].iloc[-1] - 1e-3
    _, validation = training_parts(cohort, cohort.endpoint().name, None, 0.15, 0)
    batch = predictor.preprocessor.transform(validation).batch()
    with torch.no_grad():
        assert predictor.system.losses(batch, "head").parts["survival"].item() == pytest.approx(best, rel=1e-5)


def test_bfloat16_encoders_take_strata_and_missing_entries(stratified: survcore.Cohort, tmp_path: Any) -> None:
    survcore.fit("surv_m2ac", stratified, changes=tiny(), out=tmp_path)
    tables = [survcore.load(tmp_path, "cpu", dtype).predict(stratified) for dtype in ("float32", "bfloat16")]
    np.testing.assert_allclose(tables[1]["risk"], tables[0]["risk"], atol=0.05)
    first = stratified.modality("genes").spec.columns[0]
    one = survcore.load(tmp_path, "cpu", "bfloat16").predict({"genes": {first: 1}})
    assert one["risk"].notna().all()


def test_a_stratum_without_events_gets_the_hazard_of_all(cohort: survcore.Cohort) -> None:
    outcome = cohort.endpoint()
    strata = np.where(outcome.event > 0, "some", np.where(np.arange(len(cohort)) % 4, "some", "none"))
    predictor = survcore.fit("surv_m2ac", replace(cohort, strata=strata), changes=tiny())
    assert predictor.system.baseline.log_hazard.isnan().any(1).tolist() == [False, True, False]
    table = predictor.predict(replace(cohort, strata=strata))
    assert (table["survival_12"][strata == "none"] < 1).all()


def test_a_frozen_encoder_gives_the_same_in_training(cohort: survcore.Cohort) -> None:
    system, batch = make_system(dropout=0.5), make_batch()
    system.train().head.eval()
    losses = {system.losses(batch, "head").parts["survival"].item() for _ in range(3)}
    assert len(losses) == 1 and system.autoencoder.training


def test_panels_hold_zeros_and_ones(cohort: survcore.Cohort) -> None:
    with pytest.raises(DataError, match="other values than 0 and 1"):
        survcore.fit("surv_m2ac", cohort, changes=tiny(preprocess={"modalities": {"genes": {"scale": "standard"}}}))


def test_rivals_are_preprocessed_by_what_is_said_of_their_modalities(cohort: survcore.Cohort) -> None:
    changes = tiny(preprocess={"modalities": {"genes": {"least_active": 3}}})
    found = survcore.evaluate("surv_m2ac", cohort, changes=changes)
    assert {"surv_m2ac on clinical", "surv_m2ac on genes"} <= set(found.metrics["model"])


def test_it_overfits_64_patients() -> None:
    cohort = survcore.simulate_cohort(64, seed=2, modalities={"genes": "panel", "clinical": "vector"}, censored=0.2)
    head = {"epochs": 150, "cached": False, "learning_rate": 5e-3, "patience": 0}
    changes = tiny(
        model={"fine_tune": True, "dropout": 0.0, "head_dropout": 0.0, "hidden": 64},
        stages={"pretrain": {"epochs": 1}, "head": head},
        training={"validation_fraction": 0.0},
    )
    predictor = survcore.fit("surv_m2ac", cohort, changes=changes)
    outcome = cohort.endpoint()
    index = survcore.concordance_index(outcome.time, outcome.event > 0, predictor.predict(cohort)["risk"])
    assert float(index) > 0.97


def test_representations_recover_simulated_factors_without_outcomes() -> None:
    """Linear maps from the representation explain the shared factors of patients that pretraining never saw."""
    kinds = {"genes": "panel", "clinical": "vector"}
    cohort = survcore.simulate_cohort(900, seed=4, modalities=kinds, noise=0.3)
    changes = tiny(
        model={"hidden": 64, "latent": 32, "projection": 16, "dropout": 0.1},
        stages={"pretrain": {"epochs": 40, "batch_size": 100, "learning_rate": 2e-3}, "head": {"epochs": 1}},
    )
    folded = replace(cohort, fold=np.arange(900) % 3)
    predictor = survcore.fit("surv_m2ac", folded, fold=0, changes=changes)
    batch = predictor.preprocessor.transform(folded).batch()
    with torch.no_grad():
        latent = predictor.system.complete(predictor.system.encode(batch)).parts["latent"].double().numpy()
    design, factors = np.c_[latent, np.ones(900)], cohort.truth["shared"]
    train, test = folded.fold != 0, folded.fold == 0
    weights, *_ = np.linalg.lstsq(design[train], factors[train], rcond=None)
    explained = 1 - ((factors - design @ weights)[test] ** 2).sum() / (factors[test] ** 2).sum()
    assert explained > 0.5


def test_the_packaged_recipe_is_complete() -> None:
    recipe = load_recipe("surv_m2ac")
    assert list(recipe.stages) == ["pretrain", "head"] and recipe.stages["head"].cached
    system = SurvM2AC(INPUTS, BINS, recipe.model)
    assert system.settings["hidden"] == 512 and dense(make_batch().values["genes"]).shape == (24, 40)
