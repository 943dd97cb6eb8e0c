"""The gate of the benchmarks: what disagrees with the oracle is not timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase
from survcore.benchmarks.runner import run_case


def _with_gradient(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Sum of squares whose gradient is changed."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values: Tensor) -> Tensor:
            ctx.save_for_backward(values)
            return values.square().sum()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return change(2 * gradient * ctx.saved_tensors[0])

    return Changed.apply


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (_with_gradient(lambda gradient: gradient), ""),
        (_with_gradient(lambda gradient: gradient * torch.nan), "wrong: gradient 1 has relative error nan"),
        (_with_gradient(lambda gradient: 1.01 * gradient), "wrong: gradient 1 has relative error 1.0e-02"),
        (lambda values: values.square().sum() * torch.nan, "wrong: loss has relative error nan"),
        (lambda values: values.square().sum().reshape(1), "wrong: loss has shape (1,), expected ()"),
        (lambda values: values.no_such_method(), "failed: AttributeError"),
    ],
)
def test_only_what_agrees_with_the_oracle_is_timed(provider: Callable[[Tensor], Tensor], problem: str) -> None:
    case = BenchmarkCase(
        name="sum_of_squares",
        sizes={"five": {}},
        quick=("five",),
        inputs=lambda dtype, device: (torch.arange(1, 6, dtype=dtype, device=device).requires_grad_(),),
        providers={"survcore": provider, "eager": lambda values: values.square().sum()},
    )
    (results,) = run_case(case, device="cpu", dtype=torch.float32, quick=True)
    ours, eager, _ = results
    assert ours.problem.startswith(problem) and bool(ours.problem) == bool(problem)
    assert (ours.spread is None) == bool(problem) and eager.spread is not None
