"""Tests that need a CUDA device: marked ``gpu``, skipped with a reason where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from survcore import _library
from survcore.testing import OpCase, convert

_FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(absent)


@pytest.fixture
def own_kernel() -> Callable[[OpCase], None]:
    """Skips the test of an op whose kernel on CUDA is plain PyTorch, which promises less."""

    def check(case: OpCase) -> None:
        if _library.kernel_source(case.name, "CUDA") == "reference":
            pytest.skip(f"{case.name} is served by plain PyTorch on CUDA")

    return check


@pytest.fixture
def on_cuda() -> Callable[..., tuple[Any, ...]]:
    """``on_cuda(case, arguments, device)``: the arguments as the public function hands them to the op."""

    def move(case: OpCase, arguments: tuple[Any, ...], device: str = "cuda") -> tuple[Any, ...]:
        names = [argument.name for argument in case.op._schema.arguments]
        # Few numbers that the op reads itself, which the public function makes on the CPU.
        return tuple(
            value if name == "boundaries" else moved
            for name, value, moved in zip(names, arguments, convert(arguments, device=device), strict=True)
        )

    return move


@pytest.fixture
def run_op() -> Callable[..., list[Tensor]]:
    """``run_op(case, arguments, factor)``: outputs, and gradients of ``factor`` times the sum of all that have one."""

    def run(case: OpCase, arguments: tuple[Any, ...], factor: float = 2.0) -> list[Tensor]:
        arguments = tuple(
            value.detach().requires_grad_() if position in case.differentiable else value
            for position, value in enumerate(arguments)
        )
        outputs = case.function(*arguments)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        leaves = [arguments[position] for position in case.differentiable]
        if not leaves:
            return list(outputs)
        losses = [outputs[position] for position in case.differentiable_outputs]
        cotangents = [torch.full_like(loss, factor) for loss in losses]
        gradients = torch.autograd.grad(losses, leaves, cotangents, allow_unused=True, materialize_grads=True)
        return [output.detach() for output in outputs] + list(gradients)

    return run


@pytest.fixture
def busy_stream() -> Iterator[torch.cuda.Stream]:
    """Another stream, on which products run all the while: blocks of a kernel then start in other orders."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        left = torch.randn(2048, 2048, device="cuda")
        for _ in range(200):
            left = left @ left / 2048
    yield stream
    stream.synchronize()
