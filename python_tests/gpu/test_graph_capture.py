"""Forward and backward pass in a CUDA graph, which is replayed with other inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from survcore.testing import OP_CASES, OpCase

CASES = [pytest.param(case, id=case.name) for case in OP_CASES.values()]


def _changed(case: OpCase, arguments: tuple) -> tuple:
    """Other values of the arguments that have a gradient, or of the first where none has."""
    positions = case.differentiable or (0,)
    generator = torch.Generator(device="cuda").manual_seed(3)
    return tuple(
        value + 0.1 * torch.randn(value.shape, generator=generator, device="cuda", dtype=torch.float32).to(value.dtype)
        if position in positions
        else value
        for position, value in enumerate(arguments)
    )


def _write(target: tuple, source: tuple) -> None:
    for into, value in zip(target, source, strict=True):
        if isinstance(into, Tensor) and into is not value:
            into.copy_(value)


def _check(case: OpCase, first: tuple, run_op) -> None:
    second = _changed(case, first)
    expected = [run_op(case, arguments) for arguments in (first, second)]
    held = tuple(value.clone() if isinstance(value, Tensor) and value.is_cuda else value for value in first)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is compiled, allocated or looked up once happens before the capture
        for _ in range(3):
            run_op(case, held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run_op(case, held)
    for arguments, wanted in ((first, expected[0]), (second, expected[1]), (first, expected[0])):
        for result in results:
            result.fill_(7)
        _write(held, arguments)
        graph.replay()
        torch.cuda.synchronize()
        for position, (result, value) in enumerate(zip(results, wanted, strict=True)):
            assert torch.equal(result.nan_to_num(7.0), value.nan_to_num(7.0)), f"result {position}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_replays_equal_calls(case: OpCase, dtype: torch.dtype, own_kernel, on_cuda, run_op) -> None:
    own_kernel(case)
    for arguments in list(case.samples(dtype).values())[:4]:
        if arguments[0].numel():
            _check(case, on_cuda(case, arguments), run_op)


@pytest.mark.parametrize("case", CASES)
def test_replays_of_a_large_case_equal_calls(case: OpCase, own_kernel, on_cuda, run_op) -> None:
    own_kernel(case)
    _check(case, on_cuda(case, case.large(torch.float32)), run_op)
