"""What the op's samples do not show of info_nce's kernels: gradients, tiles, blocks, strides, ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from survcore.kernels import info_nce as kernels
from survcore.reference import info_nce as reference
from survcore.testing import assert_close_to_oracle, convert
from survcore.testing.info_nce import info_nce_arguments

FORMS = ["cross_modal", "nt_xent"]


def with_reference_backward(arguments: tuple[Any, ...], grad_loss: Tensor) -> tuple[Tensor, ...]:
    statistics = reference.info_nce(*arguments[:-1])[1]
    return reference.info_nce_backward(grad_loss, *arguments[:4], statistics, *arguments[4:-1])


def check(arguments: tuple[Any, ...]) -> None:
    """Loss, statistics and gradients, the gradients of [G] losses that are weighted differently."""
    arguments = (*arguments[:-1], False)
    found = kernels.info_nce(*arguments)
    exact = reference.info_nce(*convert(arguments, torch.float64))
    plain = reference.info_nce(*convert(arguments, torch.float32))
    for number in (0, 1):
        assert_close_to_oracle(found[number], exact[number], plain[number], torch.float32, f"output {number}")
    grad_loss = torch.linspace(0.5, 1.5, max(found[0].numel(), 1))[: found[0].numel()].reshape(found[0].shape)
    gradients = kernels.info_nce_backward(grad_loss, *arguments[:4], found[1], *arguments[4:-1])
    exact = with_reference_backward(convert(arguments, torch.float64), grad_loss.double())
    plain = with_reference_backward(arguments, grad_loss)
    for number, gradient in enumerate(gradients):
        assert gradient.dtype == arguments[(0, 1, 3)[number]].dtype
        assert_close_to_oracle(gradient, exact[number], plain[number], gradient.dtype, f"gradient {number}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "width"), [(64, 64), (65, 130)])
def test_gradients_around_the_edges_of_tiles(rows: int, width: int, form: str) -> None:
    check(info_nce_arguments(torch.float32, rows, width, form=form, temperature=0.1))


@pytest.mark.parametrize("form", FORMS)
def test_groups_have_masks_and_weights_of_their_own(form: str) -> None:
    query, key, mask, *options = info_nce_arguments(torch.float32, 20, 9, groups=3, masked=True, form=form)
    mask[1] = False
    check((query, key, mask, *options))
    check((query, key, mask[2], *options))


@pytest.mark.parametrize("form", FORMS)
def test_strides(form: str) -> None:
    """Views, a transposed and expanded key, a mask by columns; what masked rows hold stays unread."""
    arguments = info_nce_arguments(torch.float32, 40, 12, groups=2, form=form)
    mask = (torch.arange(80) % 3 > 0).view(40, 2).T
    query = torch.full((2, 80, 24), torch.nan)[:, ::2, :12].copy_(arguments[0])
    key = arguments[1].transpose(-1, -2).contiguous().transpose(-1, -2)
    query.masked_fill_(~mask.unsqueeze(-1), torch.nan)
    check((query, key[:1].expand(2, -1, -1), mask, *arguments[3:]))


@pytest.mark.parametrize("form", FORMS)
def test_small_losses_keep_their_accuracy(form: str) -> None:
    noise = torch.randn(2, 24, 24, generator=torch.Generator().manual_seed(2))
    query = torch.eye(24) + 0.05 * noise[0]
    key = query + 0.05 * noise[1]
    everybody = torch.empty(0, dtype=torch.bool)
    for dtype in (torch.float32, torch.float16):
        inputs = (query.to(dtype), key.to(dtype), everybody, torch.tensor([0.04], dtype=torch.float64))
        loss, statistics, *_ = kernels.info_nce(*inputs, form, True, 0, 1, False)
        exact = reference.info_nce(*convert(inputs, torch.float64), form)
        gradients = kernels.info_nce_backward(torch.ones(()), *inputs, statistics, form, True, 0, 1)
        expected = reference.info_nce_backward(torch.ones(()), *convert(inputs, torch.float64), exact[1], form)
        assert 0 < loss < 1e-6
        torch.testing.assert_close(loss.double(), exact[0], rtol=1e-4, atol=0)
        if dtype == torch.float32:  # in float16 the gradients of such a loss are 0
            for found, wanted in zip(gradients, expected, strict=True):
                assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("order", [1, -1])
def test_logits_may_lie_far_apart(order: int) -> None:
    query, key, *options = info_nce_arguments(torch.float32, 150, 16, normalize=False, temperature=1.0)
    scale = torch.logspace(-4, 2.5, 150)[torch.arange(150) if order == 1 else torch.arange(149, -1, -1)]
    check((query * scale.unsqueeze(1), key, *options))


@pytest.mark.parametrize("form", FORMS)
def test_stripes_and_blocks_are_parts_of_one_problem(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of tiles that are compared one at a time, and weighted in blocks of two by two; one group at a time."""
    monkeypatch.setattr(kernels, "STRIPE", 1)
    monkeypatch.setattr(kernels, "MOST_WEIGHTS", 4 * 64 * 64)
    check(info_nce_arguments(torch.float32, 150 if form == "cross_modal" else 70, 20, masked=True, form=form))
    check(info_nce_arguments(torch.float32, 10, 4, groups=5, form=form))


@pytest.mark.parametrize("form", FORMS)
def test_tile_of_large_batches(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SMALL", kernels.LARGE)
    check(info_nce_arguments(torch.float16, 150, 70, form=form, masked=True))


@pytest.mark.parametrize("form", FORMS)
def test_ranks_add_up_to_one_process(form: str, ranks: int = 3) -> None:
    query, key, mask, temperature, *_ = info_nce_arguments(torch.float32, 66, 8, masked=True)
    inputs = (query, key, mask, temperature)
    _, whole, *_ = kernels.info_nce(*inputs, form, True, 0, 1, False)
    parts = [kernels.info_nce(*inputs, form, True, rank, ranks, False)[1] for rank in range(ranks)]
    statistics = torch.logsumexp(torch.stack(parts), 0)
    torch.testing.assert_close(statistics, whole, rtol=1e-6, atol=1e-6)
    grad_loss = torch.tensor(1.5)
    expected = kernels.info_nce_backward(grad_loss, *inputs, whole, form, True, 0, 1)
    found = [
        kernels.info_nce_backward(grad_loss, *inputs, statistics, form, True, rank, ranks) for rank in range(ranks)
    ]
    for position, wanted in enumerate(expected):
        joined = torch.stack([gradients[position] for gradients in found]).sum(0)
        torch.testing.assert_close(joined, wanted, rtol=1e-4, atol=1e-6)


def test_float64_is_left_to_the_reference() -> None:
    arguments = info_nce_arguments(torch.float64, 4, 3)
    assert kernels.info_nce(*arguments) is NotImplemented
    statistics = reference.info_nce(*arguments)[1]
    backward = (torch.ones(()), *arguments[:4], statistics, *arguments[4:-1])
    assert kernels.info_nce_backward(*backward) is NotImplemented
