"""MUST: protocol, algebra, missing modalities, stages and settings."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from survcore.batch import Batch, ModalityInput, Target
from survcore.errors import DataError
from survcore.models.must import MUST
from survcore.models.must_condition import SharedCondition
from survcore.nn import project

BINS, WIDTH = 4, 16
SMALL: dict[str, Any] = {
    "width": WIDTH,
    "rank": 4,
    "heads": 2,
    "denoiser_layers": 2,
    "denoiser_heads": 2,
    "noise_repeats": 2,
}
INPUTS = (
    ModalityInput("clinical", "vector", 5),
    ModalityInput("omics", "tokens", 12, (("a", (0, 1, 2)), ("b", (2, 3, 4, 5)), ("rest", (6, 7, 8, 9, 10, 11)))),
    ModalityInput("regions", "tokens", 6),
    ModalityInput("mutations", "panel", 7),
)
PATTERNS = [pattern for pattern in itertools.product((True, False), repeat=3) if any(pattern)]


pytestmark = pytest.mark.usefixtures("one_thread")


def make_batch(inputs: tuple[ModalityInput, ...], rows: int = 14, missing: bool = False, seed: int = 0) -> Batch:
    """Random rows, with every availability pattern of three modalities when ``missing``; absent values are NaN."""
    generator = torch.Generator().manual_seed(seed)
    availability = torch.ones(rows, len(inputs), dtype=torch.bool)
    if missing:
        availability = torch.tensor(list(itertools.islice(itertools.cycle(PATTERNS), rows)))[:, : len(inputs)]
    values, observed = {}, {}
    for index, modality in enumerate(inputs):
        owned = availability[:, index]
        if modality.kind == "tokens" and not modality.groups:
            value = torch.randn(rows, 4, modality.width, generator=generator)
            lengths = torch.randint(1, 5, (rows,), generator=generator)
            mask = (torch.arange(4) < lengths[:, None]) & owned[:, None]
            value[~mask] = torch.nan
            observed[modality.name] = mask
        else:
            value = torch.randn(rows, modality.width, generator=generator)
            value[~owned] = torch.nan
        values[modality.name] = value
    time = torch.rand(rows, generator=generator) * 60
    event = torch.randint(0, 2, (rows,), generator=generator)
    target = Target(time, event, (time / 15).long())
    keys = torch.arange(rows) * 7919 - 40
    return Batch(row_key=keys, availability=availability, values=values, observed=observed, target=target)


def select(batch: Batch, index: Tensor) -> Batch:
    target = batch.target
    assert target is not None
    return Batch(
        row_key=batch.row_key[index],
        availability=batch.availability[index],
        values={name: value[index] for name, value in batch.values.items()},
        observed={name: value[index] for name, value in batch.observed.items()},
        target=Target(target.time[index], target.event[index], target.time_bin[index]),
    )


def make_system(inputs: tuple[ModalityInput, ...] = INPUTS[:3], fitted: bool = True, **settings: Any) -> MUST:
    system = MUST(inputs, BINS, SMALL | settings).eval()
    if fitted and "diffusion" in system.stages():
        with torch.no_grad():
            batch = make_batch(inputs, rows=40, seed=9)
            system.start_stage("diffusion", system.latents(batch), batch.availability)
    return system


def predict(system: MUST, batch: Batch, **options: Any) -> Tensor:
    with torch.no_grad():
        return system.predict(system.complete(system.encode(batch), **options))["hazard_logits"]


def grads_of(system: MUST, batch: Batch, stage: str) -> set[str]:
    system.zero_grad(set_to_none=True)
    system.losses(batch, stage).loss.backward()
    return {
        name for name, parameter in system.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


@pytest.mark.parametrize("fill", ["own", "zeros", "mean"])
def test_predictions_do_not_depend_on_the_other_rows(fill: str) -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    together = predict(system, batch, fill=fill, draws=2, steps=3)
    assert together.shape == (14, BINS) and together.isfinite().all()
    order = torch.randperm(14)
    torch.testing.assert_close(predict(system, select(batch, order), fill=fill, draws=2, steps=3), together[order])
    for row in range(14):
        alone = predict(system, select(batch, torch.tensor([row])), fill=fill, draws=2, steps=3)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["warm_up", "joint"])
def test_absent_values_are_never_read(stage: str) -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    garbage = {name: torch.where(value.isnan(), 1e6, value) for name, value in batch.values.items()}
    other = replace(batch, values=garbage)
    torch.testing.assert_close(predict(system, other, draws=1, steps=2), predict(system, batch, draws=1, steps=2))
    for parts in (batch, other):
        system.zero_grad()
        losses = system.losses(parts, stage)
        losses.loss.backward()
        assert losses.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)
    torch.testing.assert_close(system.losses(batch, stage).loss, losses.loss)


def test_parts_lie_in_their_subspaces() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    with torch.no_grad():
        basis = system.subspace.basis
        encoded = system.encode(batch)
        completed = system.complete(encoded, draws=3, steps=3)
    nothing = {"rtol": 0.0, "atol": 1e-4}
    for specific in (encoded.parts["specific"], completed.parts["specific"], completed.parts["draws"]):
        torch.testing.assert_close(project(specific, basis), torch.zeros_like(specific), **nothing)
    for shared in (encoded.parts["cross"], encoded.parts["shared"], encoded.parts["recovered"]):
        torch.testing.assert_close(project(shared, basis), shared, **nothing)
    assert encoded.parts["specific"][batch.availability].abs().sum(-1).min() > 0


def test_shared_part_is_the_mean_of_the_cross_parts_or_recovered() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    with torch.no_grad():
        parts, basis = system.encode(batch).parts, system.subspace.basis
        whole, _, cross = system.encoder(batch)
    for row, owned in enumerate(batch.availability.tolist()):
        available = [m for m in range(3) if owned[m]]
        if len(available) == 3:
            expected = torch.stack([project(cross[m, n, row], basis) for m, n in system.encoder.pairs]).mean(0)
        else:
            remainders = [whole[m, row] - parts["specific"][row, m] for m in available]
            expected = project(torch.stack(remainders), basis).mean(0)
        torch.testing.assert_close(parts["shared"][row], expected, rtol=1e-4, atol=1e-5)


def test_the_recovered_part_can_stay_unprojected() -> None:
    system, batch = make_system(project_recovered=False), make_batch(INPUTS[:3], missing=True)
    with torch.no_grad():
        parts = system.encode(batch).parts
    alone = batch.availability.sum(1) == 1
    expected = (parts["whole"] - parts["specific"])[alone].sum(1)
    torch.testing.assert_close(parts["shared"][alone], expected)


def test_fills_replace_only_what_is_absent_and_only_the_specific_part() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    owned = batch.availability
    with torch.no_grad():
        encoded = system.encode(batch)
        filled = {fill: system.complete(encoded, fill=fill, draws=3, steps=4) for fill in ("own", "zeros", "mean")}
    for fill, completed in filled.items():
        assert completed.fill == fill
        torch.testing.assert_close(completed.completed, ~owned)
        torch.testing.assert_close(completed.parts["shared"], encoded.parts["shared"])
        torch.testing.assert_close(completed.parts["specific"][owned], encoded.parts["specific"][owned])
    assert not filled["zeros"].parts["specific"][~owned].any()
    for index, model in enumerate(system.diffusion):
        mean = filled["mean"].parts["specific"][~owned[:, index], index]
        torch.testing.assert_close(mean, model.mean.expand_as(mean))
    draws = filled["own"].parts["draws"]
    assert draws.shape == (14, 3, 3, WIDTH)
    torch.testing.assert_close(draws.mean(1), filled["own"].parts["specific"])
    absent_draws = draws.transpose(1, 2)[~owned]
    assert (absent_draws[:, 0] - absent_draws[:, 1]).abs().amax(1).min() > 1e-3


def test_draws_follow_the_seed_and_one_sampler_call_serves_a_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    first = predict(system, batch, seed=1, draws=2, steps=3)
    torch.testing.assert_close(predict(system, batch, seed=1, draws=2, steps=3), first)
    missing = ~batch.availability.all(1)
    second = predict(system, batch, seed=2, draws=2, steps=3)
    torch.testing.assert_close(second[~missing], first[~missing])
    assert (second[missing] - first[missing]).abs().amax(1).min() > 1e-6
    calls: list[int] = []
    for model in system.diffusion:
        original = model.draw
        monkeypatch.setattr(model, "draw", lambda c, *a, _o=original, **k: calls.append(len(c)) or _o(c, *a, **k))
    predict(system, batch, draws=2, steps=3)
    assert calls == (~batch.availability).sum(0).tolist()


def test_a_row_without_any_modality_is_drawn_from_nothing() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], rows=2)
    batch.availability[0] = False
    with torch.no_grad():
        encoded = system.encode(batch)
    assert not encoded.parts["shared"][0].any() and not encoded.parts["whole"][0].any()
    assert predict(system, batch, draws=1, steps=2).isfinite().all()


def test_filling_in_needs_the_diffusion_stage() -> None:
    system, batch = make_system(fitted=False), make_batch(INPUTS[:3], missing=True)
    assert predict(system, batch, fill="zeros").isfinite().all()
    for fill in ("own", "mean"):
        with pytest.raises(DataError, match="'clinical' is absent in .* the stage 'diffusion' has not run"):
            predict(system, batch, fill=fill)
    with pytest.raises(ValueError, match="own, zeros, mean"):
        predict(system, batch, fill="median")


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_each_stage_reaches_all_its_parameters_and_no_other(count: int) -> None:
    inputs = INPUTS[:count]
    system, batch = make_system(inputs, fitted=False), make_batch(inputs)
    assert system.stages() == (("warm_up", "joint", "diffusion") if count > 1 else ("warm_up", "joint"))
    for stage in system.stages():
        if stage == "diffusion":
            with torch.no_grad():
                latents = system.latents(batch)
                for model in system.diffusion:
                    # The modulation starts at zero, where the gradients of the time layers are zero.
                    for parameter in model.denoiser.parameters():
                        parameter.add_(0.1 * torch.randn_like(parameter))
            system.start_stage(stage, latents, batch.availability)
            batch = Batch(row_key=batch.row_key, availability=batch.availability, latents=latents)
        trained = {id(parameter) for parameter in system.stage_parameters(stage)}
        assert grads_of(system, batch, stage) == {n for n, p in system.named_parameters() if id(p) in trained}
    frozen = {id(parameter) for stage in system.stages() for parameter in system.stage_parameters(stage)}
    assert frozen == {id(parameter) for parameter in system.parameters()}


@pytest.mark.parametrize("settings", [{}, {"basis": "free"}, {"expansion": 2}, {"likelihood": "must_eq6"}])
def test_joint_loss_is_the_weighted_sum_of_its_parts(settings: dict[str, Any]) -> None:
    system, batch = make_system(**settings), make_batch(INPUTS[:3], missing=True)
    losses = system.losses(batch, "joint")
    parts = losses.parts
    assert set(parts) == {"survival", "decomposition", "shared", "orthogonality"}
    expected = parts["survival"] + 0.01 * (parts["decomposition"] + parts["shared"]) + 0.5 * parts["orthogonality"]
    torch.testing.assert_close(losses.loss, expected)
    assert losses.risk is not None and losses.risk.shape == (14,)
    complete = batch.availability.all(1)
    alone = batch.availability.sum(1) == 1
    assert complete.any() and alone.any()
    only = system.losses(select(batch, alone.nonzero().squeeze(1)), "joint")
    torch.testing.assert_close(only.loss, only.parts["survival"])


def test_case_weights_enter_the_survival_loss() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3])
    weights = torch.zeros(14)
    weights[3] = 2.0
    alone = select(batch, torch.tensor([3]))
    for stage in ("warm_up", "joint"):
        weighted = system.losses(replace(batch, weights=weights), stage).parts["survival"]
        torch.testing.assert_close(weighted, system.losses(alone, stage).parts["survival"])


@pytest.mark.parametrize("condition", ["shared", "recovered"])
def test_diffusion_loss_uses_the_rows_that_own_the_modality(condition: str) -> None:
    system = make_system(diffusion_condition=condition)
    batch = make_batch(INPUTS[:3], missing=True)
    with torch.no_grad():
        latents = system.latents(batch)
        cached = Batch(row_key=batch.row_key, availability=batch.availability, latents=latents)
        losses = system.losses(cached, "diffusion", seed=4)
        assert set(losses.parts) == {"diffusion/clinical", "diffusion/omics", "diffusion/regions"}
        torch.testing.assert_close(losses.loss, sum(losses.parts.values()))
        rows = batch.availability[:, 1].nonzero().squeeze(1)
        some = {name: value[rows] for name, value in latents.items()}
        again = Batch(row_key=batch.row_key[rows], availability=batch.availability[rows], latents=some)
        same = system.losses(again, "diffusion", seed=4).parts["diffusion/omics"]
        torch.testing.assert_close(same, losses.parts["diffusion/omics"])


def standardised(rows: torch.Tensor) -> torch.Tensor:
    """By variances to which ten rows of their mean are added."""
    variance = rows.double().var(0, correction=0)
    variance = (len(rows) * variance + 10 * variance.mean()) / (len(rows) + 10)
    return ((rows - rows.double().mean(0)) / variance.sqrt()).float()


def test_training_conditions_are_standardised_and_show_any_of_the_other_modalities() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], rows=70, missing=True)
    with torch.no_grad():
        latents = system.latents(batch)
    owned = batch.availability
    system.start_stage("diffusion", latents, owned)
    standard = torch.zeros_like(latents["recovered"])
    for m in range(3):
        rows = latents["recovered"][owned[:, m], m]
        standard[owned[:, m], m] = standardised(rows)
    cached = Batch(row_key=batch.row_key, availability=owned, latents=latents)
    given = torch.stack([system._training_condition(cached, 1, seed) for seed in range(8)])
    assert torch.equal(given[3], system._training_condition(cached, 1, 3))
    both, single = owned[:, 0] & owned[:, 2], owned.sum(1) == 1
    choices = torch.stack((standard[:, 0], standard[:, 2], standard[:, [0, 2]].mean(1)))
    fits = (given[:, None] - choices[None]).abs().amax(-1) < 1e-4
    assert fits[:, :, both].any(1).all() and fits[:, :, both].any(0).any(1).all()
    torch.testing.assert_close(given[0, owned[:, 0] & ~owned[:, 2]], standard[owned[:, 0] & ~owned[:, 2], 0])
    # A row that owns nothing else keeps its own part.
    torch.testing.assert_close(given[0, single], standard[single].sum(1))


def test_conditions_as_the_paper_prints_them() -> None:
    system = make_system(diffusion_condition="shared", condition_scale="none")
    batch = make_batch(INPUTS[:3], missing=True)
    with torch.no_grad():
        latents = system.latents(batch)
    system.start_stage("diffusion", latents, batch.availability)
    cached = Batch(row_key=batch.row_key, availability=batch.availability, latents=latents)
    torch.testing.assert_close(system._training_condition(cached, 1, 0), latents["shared"])
    scaled = make_system(diffusion_condition="shared")
    scaled.start_stage("diffusion", latents, batch.availability)
    torch.testing.assert_close(scaled._training_condition(cached, 1, 0), standardised(latents["shared"]))


@pytest.mark.parametrize("rows", [1, 2, 3, 400])
def test_conditions_from_few_rows_blow_up_no_later_row(rows: int) -> None:
    scales = torch.logspace(-1, 1, 64)
    parts = 1000 + scales * torch.randn(2000, 64)
    condition = SharedCondition(1, 64)
    condition.fit(parts[:rows], parts[:rows, None], torch.ones(rows, 1, dtype=torch.bool))
    seen = condition.of_shared(parts[1000:])
    assert torch.equal(condition.of_recovered(parts[1000:, None], torch.ones(1000, 1, dtype=torch.bool)), seen)
    assert 0.3 < seen[:, scales > 1].std() < (10 if rows == 1 else 6)
    if rows == 400:
        assert 0.8 < seen[:, scales > 1].std() < 1.2


def test_rows_that_own_nothing_else_do_not_choose_a_denoiser() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], rows=70, missing=True)
    with torch.no_grad():
        latents = system.latents(batch)
    system.start_stage("diffusion", latents, batch.availability)
    accompanied = (batch.availability.sum(1) > 1).nonzero().squeeze(1)
    assert 0 < len(accompanied) < 70

    def loss(rows: torch.Tensor) -> float:
        return system.losses(
            Batch(
                row_key=batch.row_key[rows],
                availability=batch.availability[rows],
                latents={name: part[rows] for name, part in latents.items()},
            ),
            "diffusion",
        ).loss.item()

    everyone = torch.arange(70)
    assert loss(everyone) == pytest.approx(loss(accompanied), rel=1e-5)
    assert loss(torch.tensor([row for row in range(70) if row not in accompanied])) > 0
    system.train()
    assert loss(everyone) != pytest.approx(loss(accompanied), rel=1e-3)


def test_losses_depend_on_seed_and_row_only() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    order = torch.randperm(14)
    for stage in ("warm_up", "joint"):
        loss = system.losses(batch, stage, seed=5).loss
        torch.testing.assert_close(system.losses(select(batch, order), stage, seed=5).loss, loss)
    other_seed = system.losses(batch, "warm_up", seed=6).loss
    assert other_seed != system.losses(batch, "warm_up", seed=5).loss


def test_stages_learn_a_toy_problem() -> None:
    inputs = INPUTS[:2]
    system = make_system(inputs, fitted=False, token_dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    batch = make_batch(inputs, rows=32)
    signal = batch.values["clinical"][:, 0] + batch.values["omics"][:, 3]
    rank = signal.argsort().argsort()
    target = Target(rank.float() + 1, torch.ones(32, dtype=torch.int64), rank // 8)
    batch = replace(batch, target=target)
    gained = {}
    for stage in system.stages():
        if stage == "diffusion":
            with torch.no_grad():
                latents = system.latents(batch)
            system.start_stage(stage, latents, batch.availability)
            batch = Batch(row_key=batch.row_key, availability=batch.availability, latents=latents)
        optimizer = torch.optim.AdamW(system.stage_parameters(stage), lr=3e-3)
        before = system.losses(batch, stage, seed=100)
        for step in range(80):
            optimizer.zero_grad()
            system.losses(batch, stage, seed=step).loss.backward()
            optimizer.step()
        after = system.losses(batch, stage, seed=100)
        gained[stage] = (after.loss / before.loss).item()
        if stage == "joint":
            assert after.parts["survival"] < 0.8 * before.parts["survival"]
            assert after.parts["decomposition"] < 0.5 * before.parts["decomposition"]
    assert gained["warm_up"] < 0.7 and gained["joint"] < 0.5 and gained["diffusion"] < 0.95


def test_one_modality_needs_no_other() -> None:
    inputs = INPUTS[1:2]
    system, batch = make_system(inputs), make_batch(inputs)
    assert not system.diffusion and not system.encoder.cross
    assert predict(system, batch).shape == (14, BINS)
    assert system.diagnostics(batch) == {}
    batch.availability[0] = False
    with pytest.raises(DataError, match="the model knows no other modality"):
        predict(system, batch)


def test_diagnostics_are_the_cosines_of_the_paper() -> None:
    system, batch = make_system(INPUTS[:2]), make_batch(INPUTS[:2], missing=True)
    found = system.diagnostics(batch)
    assert set(found) == {
        "cos(specific clinical, specific omics)",
        "cos(shared clinical<-omics, shared omics<-clinical)",
        "cos(whole clinical, whole omics)",
        "cos(whole clinical, specific clinical + shared)",
        "cos(whole omics, specific omics + shared)",
    }
    with torch.no_grad():
        parts = system.encode(batch).parts
    both = batch.availability.all(1)
    rebuilt = parts["specific"][both, 0] + parts["cross"][both, 1, 0]
    expected = torch.nn.functional.cosine_similarity(parts["whole"][both, 0], rebuilt).mean().item()
    assert found["cos(whole clinical, specific clinical + shared)"] == pytest.approx(expected, abs=1e-5)
    assert all(-1.0001 <= value <= 1.0001 for value in found.values())


def test_a_saved_system_predicts_the_same() -> None:
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    again = MUST(INPUTS[:3], BINS, system.settings).eval()
    again.load_state_dict(system.state_dict())
    torch.testing.assert_close(predict(again, batch, draws=2, steps=3), predict(system, batch, draws=2, steps=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 8}, "has no setting 'widht'; it has: .*width"),
        ({"rank": 17}, r"rank must lie in 1\.\.16"),
        ({"rank": "4"}, "'rank' of must must be of type int, got '4'"),
        ({"heads": True}, "'heads' of must must be of type int"),
        ({"heads": 3}, "width 16 is not a multiple of heads 3"),
        ({"basis": "round"}, "'basis' must be one of orthonormal, free"),
        ({"denoiser_attention": "full"}, "prefix, joint"),
        ({"head_dropout": 1.0}, r"'head_dropout' must lie in \[0, 1\)"),
        ({"layers": 0}, "'layers' must be at least 1"),
        ({"shared_weight": -1}, "'shared_weight' must not be negative"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MUST(INPUTS[:2], BINS, SMALL | settings)


def test_unknown_kinds_and_stages_are_named() -> None:
    with pytest.raises(ValueError, match="'scan' is of kind 'volume'"):
        MUST((ModalityInput("scan", "volume", 4),), BINS, SMALL)
    system, batch = make_system(INPUTS[:1]), make_batch(INPUTS[:1])
    for call in (lambda: system.losses(batch, "diffusion"), lambda: system.stage_parameters("pretrain")):
        with pytest.raises(ValueError, match="has no stage .*; it has: warm_up, joint"):
            call()
    with pytest.raises(ValueError, match="needs a target"):
        system.losses(replace(batch, target=None), "joint")


def test_predictions_show_the_denoisers_what_training_showed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every pattern of three modalities: the mean of the standardised recovered parts that are there."""
    system, batch = make_system(), make_batch(INPUTS[:3], missing=True)
    given: dict[str, Tensor] = {}

    def drawing(model: Any) -> Any:
        def draw(condition: Tensor, keys: Tensor, **options: Any) -> Tensor:
            given[model.name] = condition
            return condition.new_zeros(len(keys), options["draws"], WIDTH)

        return draw

    for model in system.diffusion:
        monkeypatch.setattr(model, "draw", drawing(model))
    with torch.no_grad():
        encoded = system.encode(batch)
        system.complete(encoded, draws=2)
    owned, recovered = batch.availability, encoded.parts["recovered"]
    statistics = system.condition
    for m, name in enumerate(system.modalities):
        rows = (~owned[:, m]).nonzero().squeeze(1).tolist()
        for place, row in enumerate(rows):
            shown = [n for n in range(3) if owned[row, n]]
            standard = [
                (recovered[row, n] - statistics.recovered_mean[n]) / statistics.recovered_deviation[n] for n in shown
            ]
            torch.testing.assert_close(given[name][place, 0], torch.stack(standard).mean(0))
            assert torch.equal(given[name][place, 1], system.encoder.class_token(m))


def test_condition_noise_is_added_in_training() -> None:
    batch, seen = make_batch(INPUTS[:2]), {}
    for noise in (0.0, 0.5):
        torch.manual_seed(0)
        system = make_system(INPUTS[:2], condition_noise=noise)
        with torch.no_grad():
            latents = system.latents(batch)
            system.start_stage("diffusion", latents, batch.availability)
            cached = Batch(row_key=batch.row_key, availability=batch.availability, latents=latents)
            conditions: list[Tensor] = []
            system.diffusion[0].loss = lambda latents, condition, *_, found=conditions, **__: (  # type: ignore[method-assign]
                found.append(condition) or condition.sum()
            )
            system.losses(cached, "diffusion", seed=1)
        seen[noise] = conditions[0][:, 0]
    added = seen[0.5] - seen[0.0]
    assert 0.3 < added.std() < 0.7 and abs(added.mean()) < 0.15
