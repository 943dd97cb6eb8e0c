"""Ten runs give the same bits, outputs and gradients, whatever else the GPU does and the memory held before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from survcore.testing import OP_CASES, OpCase

CASES = [pytest.param(case, id=case.name) for case in OP_CASES.values()]


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


def _check(run: Callable[[], list[torch.Tensor]]) -> None:
    first = run()
    junk = []
    for number in range(9):
        # What the allocator hands out next holds something else each time.
        junk = [torch.full_like(value, number + 0.5) for value in first if value.is_floating_point()]
        del junk
        for position, (again, once) in enumerate(zip(run(), first, strict=True)):
            assert _same_bits(again, once), f"result {position} of run {number + 2}"


@pytest.mark.usefixtures("busy_stream")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_small_cases(case: OpCase, dtype: torch.dtype, own_kernel, on_cuda, run_op) -> None:
    own_kernel(case)
    for arguments in case.samples(dtype).values():
        moved = on_cuda(case, arguments)
        _check(lambda moved=moved: run_op(case, moved))


@pytest.mark.usefixtures("busy_stream")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_large_case(case: OpCase, dtype: torch.dtype, own_kernel, on_cuda, run_op) -> None:
    own_kernel(case)
    moved = on_cuda(case, case.large(dtype))
    _check(lambda: run_op(case, moved))
