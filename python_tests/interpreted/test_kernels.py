"""Triton kernels in Triton's interpreter, on the CPU, against the float64 oracle of their op."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

import survcore.ops  # noqa: F401 (registers the kernels)
from survcore import _library
from survcore.testing import OP_CASES, OpCase, assert_close_to_oracle, convert

# bfloat16 products are wrong in the interpreter, which multiplies their bit patterns.
# Of all arguments together: the interpreter runs one program after the other.
MOST_ENTRIES = {torch.float32: 4_000, torch.float16: 600}
CASES = [case for name, case in OP_CASES.items() if _library.has_triton_kernel(name)]


def _parameters(which: str) -> list[Any]:
    return [
        pytest.param(case, name, dtype, id=f"{case.name}-{name}-{str(dtype).removeprefix('torch.')}")
        for case in CASES
        for dtype, most in MOST_ENTRIES.items()
        for name, arguments in getattr(case, which)(dtype).items()
        if sum(value.numel() for value in arguments if isinstance(value, Tensor)) <= most
    ]


def _tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


def _check(case: OpCase, arguments: tuple[Any, ...], dtype: torch.dtype) -> None:
    kernels = importlib.import_module(f"survcore.kernels.{case.name}")
    result = getattr(kernels, case.name)(*arguments)
    if result is NotImplemented:
        pytest.skip("left to the reference")
    # What the op is given is what the oracle is given: the error is the kernel's, not that of rounding its arguments.
    oracle = _tensors(case.reference(*convert(arguments, torch.float64)))
    reference = _tensors(case.reference(*convert(arguments, torch.float32)))
    for number, found in enumerate(_tensors(result)):
        # Numbers that are given out in float64 have been computed from float32 ones.
        floor = torch.float32 if found.dtype == torch.float64 else found.dtype
        assert_close_to_oracle(found, oracle[number], reference[number], floor, f"output {number}")


@pytest.mark.parametrize(("case", "name", "dtype"), _parameters("samples"))
def test_samples(case: OpCase, name: str, dtype: torch.dtype) -> None:
    _check(case, case.samples(dtype)[name], dtype)


@pytest.mark.parametrize(("case", "name", "dtype"), _parameters("extremes"))
def test_extremes(case: OpCase, name: str, dtype: torch.dtype) -> None:
    _check(case, case.extremes(dtype)[name], dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_values_again(case: OpCase) -> None:
    kernels = importlib.import_module(f"survcore.kernels.{case.name}")
    arguments = case.samples(torch.float32)[next(iter(case.samples(torch.float32)))]
    first, second = (_tensors(getattr(kernels, case.name)(*arguments)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
