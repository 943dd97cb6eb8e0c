"""A whole model and every loss on a GPU against the processor: what the ops are called with is made there too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from survcore import losses
from survcore.batch import Bags, Batch, ModalityInput, Target
from survcore.models.must import MUST
from survcore.ops import RiskSets

FEATURES, GENES, ROWS = 12, 7, 6
INPUTS = (ModalityInput("slide", "bag", FEATURES), ModalityInput("rna", "vector", GENES))
# Rows with both modalities, without the slide, and without RNA.
AVAILABILITY = torch.tensor([[True, True], [True, False], [False, True]] * (ROWS // 3))
# Bags below, at and above the 16 landmarks.
SIZES = (5, 40, 0, 16, 130, 0)
# Of the largest absolute value.
ALLOWED = {"float32": 1e-4, "bfloat16": 5e-2}


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32, as on the processor."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    bags = [
        torch.randn(size, FEATURES, generator=generator) if owned else None
        for size, owned in zip(SIZES, AVAILABILITY[:, 0].tolist(), strict=True)
    ]
    rna = torch.randn(ROWS, GENES, generator=generator).masked_fill(~AVAILABILITY[:, 1:], torch.nan)
    target = Target(60 * torch.rand(ROWS, generator=generator), torch.arange(ROWS) % 2, torch.arange(ROWS) % 4)
    return Batch(torch.arange(ROWS) * 31, AVAILABILITY, {"slide": Bags.of(bags), "rna": rna}, target=target)


def make_model() -> MUST:
    """Untrained, with the statistics that drawing needs."""
    settings = {"width": 32, "rank": 8, "heads": 2, "landmarks": 16, "denoiser_layers": 2, "denoiser_heads": 2}
    model = MUST(INPUTS, 4, settings).eval()
    parts = {name: torch.randn(24, 2, 32) for name in ("specific", "recovered")}
    latents = parts | {"shared": torch.randn(24, 32)}
    model.start_stage("diffusion", latents, torch.ones(24, 2, dtype=torch.bool))
    return model


def close(found: Tensor, expected: Tensor, allowed: float, what: str) -> None:
    """Within ``allowed`` of the largest absolute value."""
    expected = expected.detach().double().cpu()
    error = (found.detach().double().cpu() - expected).abs().max()
    assert error <= allowed * expected.abs().max() + 1e-7, f"{what}: off by {error:.1e}"  # NaN is not close


def losses_of(model: MUST, batch: Batch, stage: str) -> dict[str, Tensor]:
    """The loss of a stage and the gradients of all parameters that it reaches."""
    loss = model.losses(batch, stage, seed=3).loss
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss.detach()} | gradients


@pytest.mark.parametrize("stage", ["warm_up", "joint", "diffusion"])
def test_losses_and_gradients_of_must(stage: str, device: str = "cuda") -> None:
    batch, model = make_batch(), make_model()
    if stage == "diffusion":
        with torch.no_grad():
            # The modulation starts at zero, where the gradients of the time layers are zero.
            for parameter in model.diffusion.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            batch = Batch(batch.row_key, batch.availability, latents=model.latents(batch))
    other = copy.deepcopy(model).to(device)
    expected, found = losses_of(model, batch, stage), losses_of(other, batch.to(device), stage)
    assert found.keys() == expected.keys() and len(found) > 10
    largest = max(value.abs().max().item() for name, value in expected.items() if name != "loss")
    close(found["loss"], expected["loss"], 1e-5, "loss")
    for name, value in expected.items():
        assert found[name].device.type == device
        # Some are differences of far larger sums.
        error = (found[name].cpu() - value).abs().max().item()
        assert error <= 1e-3 * value.abs().max().item() + 1e-5 * largest, f"{name}: off by {error:.1e}"


@torch.no_grad()
def predict(model: MUST, batch: Batch, dtype: torch.dtype | None = None) -> Tensor:
    device = batch.availability.device.type
    lower: AbstractContextManager = torch.autocast(device, dtype) if dtype else nullcontext()
    with lower:
        return model.predict(model.complete(model.encode(batch), draws=3, steps=10))["hazard_logits"]


@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
def test_prediction_of_must_with_missing_modalities(mode: str, device: str = "cuda") -> None:
    batch, model = make_batch(), make_model()
    expected = predict(model, batch)
    found = predict(model.to(device), batch.to(device), torch.bfloat16 if mode == "bfloat16" else None)
    assert found.device.type == device and found.shape == (ROWS, 4)
    close(found, expected, ALLOWED[mode], "hazard logits")


def loss_cases() -> dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]]:
    """Every loss module, and its arguments: the first has the gradient."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows, bins = 70, 9
    time = torch.randint(1, 30, (rows,), generator=generator).float()
    time_bin, event = torch.randint(0, bins, (rows,), generator=generator), torch.arange(rows) % 3 > 0
    mask = torch.rand(rows, bins, generator=generator) < 0.5
    return {
        "CoxPHLoss": (losses.CoxPHLoss(), (normal(rows), time, event)),
        "CoxPHLoss of risk sets": (losses.CoxPHLoss(ties="breslow"), (normal(rows), RiskSets.from_times(time, event))),
        "DeepHitLoss": (losses.DeepHitLoss(), (normal(rows, bins), time_bin, event.long())),
        "DiscreteHazardNLL": (losses.DiscreteHazardNLL(), (normal(rows, bins), time_bin, event)),
        "InfoNCE": (losses.InfoNCE(temperature=0.2), (normal(rows, 16), normal(rows, 16))),
        "MaskedBCEWithLogits": (
            losses.MaskedBCEWithLogits(pos_weight=torch.linspace(0.5, 2, bins)),
            (normal(2, rows, bins), normal(rows, bins) > 0, mask.expand(2, rows, bins)),
        ),
        "MaskedMSE": (losses.MaskedMSE(), (normal(rows, bins, 5), normal(rows, bins, 5), mask)),
    }


def evaluated(module: Callable[..., Tensor], arguments: tuple[Any, ...], device: str) -> tuple[Tensor, Tensor]:
    """The loss and twice the gradient of its first argument."""
    first, *others = (value.to(device) if hasattr(value, "to") else value for value in arguments)
    first = first.detach().requires_grad_()
    loss = copy.deepcopy(module).to(device)(first, *others)
    (2 * loss).backward()
    return loss, first.grad


def test_every_loss_has_a_case() -> None:
    modules = {name for name, value in vars(losses).items() if isinstance(value, type) and name[0].isupper()}
    named = {name.split()[0] for name in loss_cases()}
    assert {name for name in modules if issubclass(getattr(losses, name), torch.nn.Module)} == named


@pytest.mark.parametrize("name", list(loss_cases()))
def test_loss_and_gradient(name: str, device: str = "cuda") -> None:
    module, arguments = loss_cases()[name]
    expected, found = (evaluated(module, arguments, where) for where in ("cpu", device))
    assert all(value.device.type == device for value in found)
    close(found[0], expected[0], 1e-5, "loss")
    close(found[1], expected[1], 1e-4, "gradient")
