"""Who owns the gradient that a forward pass has found: it may be scaled in place where nobody else can see it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from survcore import _library
from survcore.ops import cox_ph_loss, deephit_loss, masked_bce_with_logits, masked_mse
from survcore.ops.masked_mse import _apply


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """As on a device that scales in place; gradients that were."""
    found = []

    def scale_(values: Tensor, factor: Tensor) -> bool:
        if factor.numel() != 1:
            return False
        found.append(values)
        values.mul_(factor)
        return True

    monkeypatch.setattr(_library, "scale_", scale_)
    return found


def _losses() -> dict[str, tuple[Tensor, Tensor]]:
    """(input, loss) of each op with such a gradient."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 5, generator=generator)
    marks = torch.rand(6, 5, generator=generator) < 0.5
    time, event = torch.arange(6), torch.tensor([1, 0, 1, 1, 0, 1])
    inputs = {name: logits.clone().requires_grad_() for name in ("bce", "deephit")}
    inputs["mse"] = torch.randn(2, 3, 5, generator=generator).requires_grad_()
    inputs["cox"] = torch.randn(6, generator=generator).requires_grad_()
    return {
        "bce": (inputs["bce"], masked_bce_with_logits(inputs["bce"], marks, positions="all", reduction="mean")),
        "deephit": (inputs["deephit"], deephit_loss(inputs["deephit"], time % 5, event)),
        "mse": (inputs["mse"], masked_mse(inputs["mse"], torch.zeros(2, 3, 5), positions="all")),
        "cox": (inputs["cox"], cox_ph_loss(inputs["cox"], time, event)),
    }


@pytest.mark.parametrize("name", ["bce", "deephit", "mse", "cox"])
def test_a_scaled_loss_scales_its_gradient_in_place(name: str, scaled: list[Tensor]) -> None:
    value, loss = _losses()[name]
    first = torch.autograd.grad(loss, value, retain_graph=True)[0].clone()
    assert not scaled
    again = torch.autograd.grad(3 * loss, value)[0]
    assert len(scaled) == 1 and again.data_ptr() == scaled[0].data_ptr()
    torch.testing.assert_close(again, 3 * first)
    value, loss = _losses()[name]
    torch.testing.assert_close(torch.autograd.grad(-2 * loss, value)[0], -2 * first)
    assert len(scaled) == 2


def test_factors_per_loss_are_left_to_the_backward_op(scaled: list[Tensor]) -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    losses = masked_bce_with_logits(logits, torch.zeros(3, 4), positions="all", sizes=(1, 3))
    torch.autograd.grad((losses * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum(), logits)
    assert not scaled


def test_a_second_output_that_is_held_is_left_as_it_is(scaled: list[Tensor]) -> None:
    prediction = torch.randn(2, 3, 4, requires_grad=True)
    none = torch.empty(0, dtype=torch.bool)
    loss, gradient = _apply(prediction, torch.zeros(2, 3, 4), none, none, "all", True)
    before = gradient.clone()
    found = torch.autograd.grad(2 * loss, prediction)[0]
    assert not scaled and torch.equal(gradient, before)
    torch.testing.assert_close(found, 2 * before)
    alias = _apply(prediction, torch.zeros(2, 3, 4), none, none, "all", True)[1]
    assert torch.equal(alias, before)


def test_batches_of_factors_and_cpu_tensors_are_not_scaled() -> None:
    values = torch.ones(3)
    assert not _library.scale_(values, torch.tensor(2.0)) and torch.equal(values, torch.ones(3))
    prediction = torch.randn(2, 3, 4, requires_grad=True)
    loss = masked_mse(prediction, torch.zeros(2, 3, 4), positions="all")
    factors = torch.tensor([1.0, 2.0, -1.0])
    batch = torch.autograd.grad(loss, prediction, factors, is_grads_batched=True, retain_graph=True)[0]
    single = torch.autograd.grad(loss, prediction)[0]
    torch.testing.assert_close(batch, factors.view(3, 1, 1, 1) * single)
