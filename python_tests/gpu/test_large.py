"""More than 2^31 numbers in one tensor, where the memory allows: the last rows are those of a small call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from survcore.ops import discrete_hazard_nll, masked_bce_with_logits, masked_mse

COLUMNS = 1024
ROWS = 2**21 + 1000  # 2^31 numbers and a million more
TAIL = 500


@pytest.fixture
def memory() -> None:
    """Skips where the values, their gradient and the rest would not fit."""
    needed = 4 * ROWS * COLUMNS * 4
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {1e-9 * needed:.0f} GB of free GPU memory")
    yield
    torch.cuda.empty_cache()


def _check(values: Tensor, loss: Callable[[Tensor, slice], Tensor]) -> None:
    """The gradient of a sum over all rows ends as that of a sum over the last ones alone, and begins likewise."""
    whole = values.requires_grad_()
    total = loss(whole, slice(None))
    (gradient,) = torch.autograd.grad(total, whole)
    assert total.isfinite()
    for part in (slice(-TAIL, None), slice(0, TAIL), slice(2**21 - TAIL, 2**21 + TAIL)):
        few = whole.detach()[part].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(few, part), few)
        scale = expected.abs().max()
        # Means over other numbers of rows differ by a factor, which the largest entry gives.
        factor = gradient[part].flatten()[expected.abs().argmax()] / expected.flatten()[expected.abs().argmax()]
        assert factor > 0
        assert ((gradient[part] / factor - expected).abs().max() / scale) < 1e-4


@pytest.mark.usefixtures("memory")
def test_discrete_hazard_nll() -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    logits = torch.randn(ROWS, COLUMNS, device="cuda", generator=generator)
    time_bin = torch.randint(0, COLUMNS, (ROWS,), device="cuda", generator=generator)
    event = torch.randint(0, 2, (ROWS,), device="cuda", generator=generator)
    _check(logits, lambda values, rows: discrete_hazard_nll(values, time_bin[rows], event[rows]))


@pytest.mark.usefixtures("memory")
def test_masked_bce_with_logits() -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    logits = torch.randn(ROWS, COLUMNS, device="cuda", generator=generator)
    target = torch.rand(1000, COLUMNS, device="cuda", generator=generator) < 0.3
    mask = torch.rand(1000, COLUMNS, device="cuda", generator=generator) < 0.7
    repeats = -(-ROWS // 1000)
    target, mask = target.repeat(repeats, 1)[:ROWS], mask.repeat(repeats, 1)[:ROWS]
    _check(logits, lambda values, rows: masked_bce_with_logits(values, target[rows], mask[rows], reduction="mean"))


@pytest.mark.usefixtures("memory")
def test_masked_mse() -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    prediction = torch.randn(ROWS, 1, COLUMNS, device="cuda", generator=generator)
    target = torch.zeros_like(prediction)
    mask = torch.rand(ROWS, 1, device="cuda", generator=generator) < 0.5
    _check(prediction, lambda values, rows: masked_mse(values, target[rows], mask[rows]))
