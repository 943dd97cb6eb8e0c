"""Scaling in place by a number that only the device knows, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from survcore.kernels._scale import scale_unless_one_


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 5000])
@pytest.mark.parametrize("factor", [1.0, 0.5, -3.0, 0.0])
def test_scales_in_place(dtype: torch.dtype, size: int, factor: float) -> None:
    values = torch.randn(size).to(dtype)
    expected = values * factor
    assert scale_unless_one_(values, torch.tensor(factor))
    assert torch.equal(values, expected)


def test_shapes_and_factors() -> None:
    values = torch.randn(3, 4, 5)
    expected = values * 2
    assert scale_unless_one_(values, torch.full((1, 1), 2.0, dtype=torch.float64)) and torch.equal(values, expected)
    scale_unless_one_(values, torch.tensor(torch.nan))
    assert values.isnan().all()


def test_others_are_left_alone() -> None:
    values = torch.randn(4, 5)
    before = values.clone()
    assert not scale_unless_one_(values.T, torch.tensor(2.0))
    assert not scale_unless_one_(values, torch.tensor([2.0, 3.0]))
    assert torch.equal(values, before)
