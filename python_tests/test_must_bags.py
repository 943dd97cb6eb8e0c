"""MUST where a modality is a bag of patches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from survcore.batch import Bags, Batch, ModalityInput, Target
from survcore.models import must_encoder
from survcore.models.must import MUST
from survcore.nn import TransMIL
from survcore.nn.pieces import recomputed

FEATURES = 9
INPUTS = (
    ModalityInput("slide", "bag", FEATURES),
    ModalityInput("rna", "vector", 5),
    ModalityInput("regions", "tokens", 6),
)
PATTERNS = torch.tensor([pattern for pattern in itertools.product((True, False), repeat=3) if any(pattern)])
SMALL: dict[str, Any] = {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1, "denoiser_heads": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


def bag_of(row: int, size: int) -> Tensor:
    return torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(row))


def make_batch(availability: Tensor, sizes: int | list[int] = 30, dtype: torch.dtype = torch.float32) -> Batch:
    rows = len(availability)
    sizes = [sizes] * rows if isinstance(sizes, int) else sizes
    generator = torch.Generator().manual_seed(1)
    bags = [bag_of(row, size).to(dtype) if availability[row, 0] else None for row, size in enumerate(sizes)]
    observed = (torch.arange(4) < torch.randint(1, 5, (rows, 1), generator=generator)) & availability[:, 2:]
    values: dict[str, Any] = {
        "slide": Bags.of(bags),
        "rna": torch.randn(rows, 5, generator=generator),
        "regions": torch.randn(rows, 4, 6, generator=generator).masked_fill(~observed.unsqueeze(-1), torch.nan),
    }
    time = torch.rand(rows, generator=generator) * 60
    target = Target(time, torch.arange(rows) % 2, (time / 15).long())
    return Batch(torch.arange(rows) * 31, availability, values, {"regions": observed}, target)


def make_system(inputs: tuple[ModalityInput, ...] = INPUTS, **settings: Any) -> MUST:
    torch.manual_seed(0)
    system = MUST(inputs, 4, SMALL | settings).eval()
    with torch.no_grad():
        batch = make_batch(torch.ones(12, 3, dtype=torch.bool))
        system.start_stage("diffusion", system.latents(batch), batch.availability)
    return system


def encode(system: MUST, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        return system.encode(batch).parts


def predict(system: MUST, batch: Batch, **options: Any) -> Tensor:
    with torch.no_grad():
        return system.predict(system.complete(system.encode(batch), **options))["hazard_logits"]


def with_bags(batch: Batch, bags: list[Tensor | None]) -> Batch:
    return replace(batch, values={**batch.values, "slide": Bags.of(bags)})


@pytest.mark.parametrize("fill", ["own", "zeros", "mean"])
def test_every_pattern_is_predicted_alone_as_among_others(fill: str) -> None:
    system, batch = make_system(), make_batch(PATTERNS, sizes=[1, 2, 30, 9, 50, 3, 7])
    together = predict(system, batch, fill=fill, draws=2, steps=3)
    assert together.shape == (7, 4) and together.isfinite().all()
    for row in range(7):
        alone = predict(system, batch.take(slice(row, row + 1)), fill=fill, draws=2, steps=3)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_half_precision_is_widened(dtype: torch.dtype) -> None:
    system, batch = make_system(), make_batch(PATTERNS[:4], dtype=dtype)
    wide = with_bags(batch, [batch.values["slide"][row].float() for row in range(4)])
    torch.testing.assert_close(predict(system, batch), predict(system, wide), rtol=0, atol=0)


def test_predicts_and_trains_under_autocast() -> None:
    system, batch = make_system(), make_batch(PATTERNS)
    expected = predict(system, batch, draws=2, steps=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(system, batch, draws=2, steps=3)
        losses = system.losses(batch, "joint")
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())
    losses.loss.backward()
    gradients = [parameter.grad for parameter in system.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_permuted_patches_touch_only_what_reads_the_slide() -> None:
    system, batch = make_system(), make_batch(torch.ones(3, 3, dtype=torch.bool), sizes=20)
    bags = [batch.values["slide"][row] for row in range(3)]
    bags[1] = bags[1].flip(0)
    before, after = encode(system, batch), encode(system, with_bags(batch, bags))
    for name in ("whole", "specific"):
        assert torch.equal(before[name][:, 1:], after[name][:, 1:])
    assert torch.equal(before["cross"][:, 1:, 1:], after["cross"][:, 1:, 1:])
    for part in (before, after):
        assert torch.equal(part["shared"][0], before["shared"][0])
        assert torch.equal(part["shared"][2], before["shared"][2])
    # The grid, the landmarks and the convolution over tokens follow the order of the patches.
    assert not torch.allclose(before["whole"][1, 0], after["whole"][1, 0])
    assert not torch.allclose(before["cross"][1, 1, 0], after["cross"][1, 1, 0])


def test_without_its_positions_a_small_bag_has_no_order() -> None:
    system, batch = make_system(), make_batch(torch.ones(1, 3, dtype=torch.bool), sizes=4)
    for module in system.modules():
        if isinstance(module, TransMIL):
            for convolution in (module.first.residual, module.second.residual, *module.positions.convolutions):
                torch.nn.init.zeros_(convolution.weight)
    permuted = with_bags(batch, [batch.values["slide"][0][[2, 0, 3, 1]]])
    before, after = encode(system, batch), encode(system, permuted)
    for name, part in before.items():
        torch.testing.assert_close(after[name], part, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["warm_up", "joint"])
def test_rows_encoded_again_have_the_same_gradients(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = make_system().train(), make_batch(PATTERNS, sizes=[3, 40, 30, 9, 50, 3, 7])
    found, calls = [], []

    def counted(function: Any, *arguments: Any, when: bool) -> Any:
        # The devices whose random draws are repeated are those of the tensors among the arguments.
        assert any(isinstance(argument, Tensor) for argument in arguments)
        calls.append(when)
        return recomputed(function, *arguments, when=when)

    monkeypatch.setattr(must_encoder, "recomputed", counted)
    for kept in (0, 10**9):
        monkeypatch.setattr(must_encoder, "_KEPT_PATCHES", kept)
        system.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        losses = system.losses(batch, stage)
        losses.loss.backward()
        found.append([losses.loss.detach(), *(p.grad for p in system.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10 and calls == 4 * [True] + 4 * [False]
    for again, held in zip(*found, strict=True):
        assert again.isfinite().all()
        torch.testing.assert_close(again, held)


def test_a_row_is_read_when_its_turn_comes() -> None:
    held: list[int] = []

    def reader(row: int) -> Any:
        def read() -> Tensor:
            held.append(row)
            return bag_of(row, 10)

        return read

    system = make_system()
    batch = make_batch(torch.tensor([[True, True, False], [False, True, False], [True, False, False]]))
    batch = replace(batch, values={**batch.values, "slide": Bags([reader(0), None, reader(2)], [10, 0, 10])})
    encode(system, batch)
    assert held == [0, 2]


def test_a_batch_may_be_empty_or_own_no_bag() -> None:
    system = make_system()
    nothing = encode(system, make_batch(torch.ones(0, 3, dtype=torch.bool)))
    assert nothing["whole"].shape == (0, 3, 16) and nothing["cross"].shape == (0, 3, 3, 16)
    batch = make_batch(torch.tensor([[False, True, True], [False, True, False]]))
    parts = encode(system, batch)
    assert parts["whole"][:, 1].any(1).all() and not parts["whole"][:, 0].any()


def test_two_bags_attend_to_each_other() -> None:
    inputs = (ModalityInput("slide", "bag", FEATURES), ModalityInput("frozen", "bag", FEATURES))
    torch.manual_seed(0)
    system = MUST(inputs, 4, SMALL).eval()
    availability = torch.tensor([[True, True], [True, False]])
    bags = {"slide": Bags.of([bag_of(0, 30), bag_of(1, 20)]), "frozen": Bags.of([bag_of(2, 25), None])}
    parts = encode(system, Batch(torch.arange(2), availability, bags))
    assert parts["cross"][0, 0, 1].abs().sum() > 0 and parts["cross"][0, 1, 0].abs().sum() > 0
    assert not parts["cross"][1].any() and parts["shared"][1].any()


def test_only_the_rarest_modality() -> None:
    system = make_system()
    batch = make_batch(torch.tensor([[False, False, True]]))
    with torch.no_grad():
        encoded = system.encode(batch)
        completed = system.complete(encoded, draws=2, steps=3)
    assert completed.completed.tolist() == [[True, True, False]]
    assert completed.parts["specific"].abs().sum(-1).gt(0).all() and encoded.parts["shared"].any()
    assert system.predict(completed)["risk"].isfinite().all()


def test_condition_without_class_token() -> None:
    system = make_system(condition_class_token=False)
    batch = make_batch(PATTERNS)
    assert predict(system, batch, draws=1, steps=2).isfinite().all()
    assert system._condition(0, torch.zeros(3, 16)).shape == (3, 1, 16)
    with torch.no_grad():
        latents = system.latents(batch)
    losses = system.losses(replace(batch, latents=latents), "diffusion")
    losses.loss.backward()
    # The class token is no part of the condition and stays out of the graph.
    assert all(system.encoder.class_token(index).grad is None for index in range(3))
