"""Triton kernels of low_rank_decompose beyond its OpCase: the gradients, sizes around a tile, runs of tiles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from survcore.kernels import low_rank_decompose as kernels
from survcore.reference import low_rank_decompose as reference
from survcore.testing import assert_close_to_oracle, convert
from survcore.testing.low_rank_decompose import low_rank_arguments

# Modalities, rows, width, rank: around a tile of 32 rows and 32 columns, around 16 coordinates, and one row.
SIZES = [(1, 5, 6, 2), (2, 1, 3, 1), (2, 32, 32, 16), (2, 33, 33, 17), (2, 31, 70, 15), (3, 2, 64, 33), (4, 2, 5, 3)]
Inputs = tuple[Tensor, ...]


def upstream_of(inputs: Inputs) -> Inputs:
    """Gradients of the three results."""
    generator = torch.Generator().manual_seed(3)
    _, whole, specific, cross, _ = inputs
    of_parts = (torch.randn(part.shape, generator=generator).to(part.dtype) for part in (specific, cross))
    return (*of_parts, torch.tensor([0.7, 1.3, 0.5]))


def backward(upstream: Inputs, inputs: Inputs) -> Inputs:
    specific_hat, cross_hat, _ = kernels.low_rank_decompose(*inputs)
    return kernels.low_rank_decompose_backward(*upstream, *inputs, specific_hat, cross_hat)


def check_backward(upstream: Inputs, inputs: Inputs) -> None:
    """The error allowed is that of the reference, given the same values, in float32."""

    def expected(dtype: torch.dtype) -> Inputs:
        arguments = convert((*upstream, *inputs), dtype)
        parts = reference.low_rank_decompose(*arguments[3:])[:2]
        return reference.low_rank_decompose_backward(*arguments, *parts)

    names = ("basis", "whole", "specific", "cross")
    results = zip(names, backward(upstream, inputs), expected(torch.float64), expected(torch.float32), strict=True)
    for name, found, oracle, narrow in results:
        assert found.dtype == inputs[0].dtype
        assert_close_to_oracle(found, oracle, narrow, found.dtype, f"gradient of {name}")


def check_forward(inputs: Inputs) -> None:
    oracle = reference.low_rank_decompose(*convert(inputs, torch.float64))
    narrow = reference.low_rank_decompose(*convert(inputs, torch.float32))
    for found, exact, rounded in zip(kernels.low_rank_decompose(*inputs), oracle, narrow, strict=True):
        assert_close_to_oracle(found, exact, rounded, found.dtype, "result")


@pytest.mark.parametrize(
    ("dtype", "modalities", "rows", "width", "rank"),
    [*((torch.float32, *size) for size in SIZES), (torch.float16, 2, 33, 33, 17)],
)
def test_sizes(dtype: torch.dtype, modalities: int, rows: int, width: int, rank: int) -> None:
    inputs = low_rank_arguments(dtype, modalities, rows, width, rank, 0.3)
    check_forward(inputs)
    check_backward(upstream_of(inputs), inputs)


@pytest.mark.parametrize("absent", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_absent_gradients(absent: tuple[int, ...]) -> None:
    inputs = low_rank_arguments(torch.float32, 2, 9, 12, 3, 0.3)
    upstream = tuple(
        gradient.new_empty(0) if position in absent else gradient
        for position, gradient in enumerate(upstream_of(inputs))
    )
    oracle = reference.low_rank_decompose_backward(
        *convert((*upstream, *inputs), torch.float64), *reference.low_rank_decompose(*inputs)[:2]
    )
    for found, exact in zip(backward(upstream, inputs), oracle, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=2e-6)


def test_programs_with_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_TILE", 16)
    monkeypatch.setattr(kernels, "_MOST_ROW_PROGRAMS", 2)
    monkeypatch.setattr(kernels, "_MOST_BASIS_PROGRAMS", 8)
    monkeypatch.setattr(kernels, "_COUNTED_ROWS", 32)
    # Four tiles of rows for two programs per part, the last of which has one and a half.
    inputs = low_rank_arguments(torch.float32, 2, 55, 16, 5, 0.3)
    check_forward(inputs)
    check_backward(upstream_of(inputs), inputs)


def test_tiles_that_do_not_fill_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_TILE", 16)
    monkeypatch.setattr(kernels, "_MOST_BASIS_PROGRAMS", 8)
    inputs = low_rank_arguments(torch.float32, 2, 33, 8, 2, 0.3)
    check_backward(upstream_of(inputs), inputs)


def test_what_a_row_lacks_is_never_read() -> None:
    inputs = low_rank_arguments(torch.float32, 3, 6, 12, 3, 0.5)
    basis, whole, specific, cross, availability = inputs
    owned = availability.T
    pair = owned.unsqueeze(1) & owned & ~torch.eye(3, dtype=torch.bool).unsqueeze(-1)

    def poison(values: Tensor, read: Tensor) -> Tensor:
        return values.masked_fill(~read.unsqueeze(-1), torch.nan)

    poisoned = (basis, poison(whole, owned & pair.any(0)), poison(specific, owned), poison(cross, pair), availability)
    to_specific, to_cross, to_losses = upstream_of(inputs)
    poisoned_upstream = (poison(to_specific, owned), poison(to_cross, pair), to_losses)
    parts = kernels.low_rank_decompose(*inputs)
    for clean, dirty in zip(parts, kernels.low_rank_decompose(*poisoned), strict=True):
        assert torch.equal(clean, dirty)
    expected = kernels.low_rank_decompose_backward(to_specific, to_cross, to_losses, *inputs, *parts[:2])
    found = kernels.low_rank_decompose_backward(*poisoned_upstream, *poisoned, *parts[:2])
    for clean, dirty in zip(expected, found, strict=True):
        assert torch.equal(clean, dirty)
    for gradient, read in zip(found[1:], (owned & pair.any(0), owned, pair), strict=True):
        assert not gradient[~read].any()


def test_inputs_that_are_not_contiguous() -> None:
    inputs = low_rank_arguments(torch.float32, 2, 9, 12, 3, 0.3)
    upstream = upstream_of(inputs)
    upstream = (upstream[0][:, :1, :1].expand_as(upstream[0]), *upstream[1:])
    turned = tuple(tensor.mT.contiguous().mT for tensor in inputs)
    assert not any(tensor.is_contiguous() for tensor in turned)
    dense = tuple(gradient.contiguous() for gradient in upstream)
    for plain, found in zip(kernels.low_rank_decompose(*inputs), kernels.low_rank_decompose(*turned), strict=True):
        assert torch.equal(plain, found)
        assert found.is_contiguous()
    for plain, found in zip(backward(dense, inputs), backward(upstream, turned), strict=True):
        assert torch.equal(plain, found)
        assert found.is_contiguous()


@pytest.mark.parametrize("rows", [0, 6])
def test_nobody_available(rows: int) -> None:
    inputs = low_rank_arguments(torch.float32, 3, rows, 8, 2, 1.1)
    for result in (*kernels.low_rank_decompose(*inputs), *backward(upstream_of(inputs), inputs)):
        assert not result.any()


def test_vanishing_parts_have_subgradient_zero() -> None:
    basis, whole, specific, cross, availability = low_rank_arguments(torch.float32, 2, 3, 8, 2, 0.0)
    inputs = (basis, whole, torch.zeros_like(specific), cross, availability)
    absent = basis.new_empty(0)
    assert kernels.low_rank_decompose(*inputs)[2][2] == 0
    for gradient in backward((absent, absent, torch.tensor([0.0, 0.0, 1.0])), inputs):
        assert not gradient.any()


def test_gradients_have_the_same_bits_again() -> None:
    inputs = low_rank_arguments(torch.float32, 2, 20, 12, 3, 0.2)
    upstream = upstream_of(inputs)
    assert all(map(torch.equal, backward(upstream, inputs), backward(upstream, inputs)))


@pytest.mark.parametrize(("dtype", "width", "rank"), [(torch.float64, 8, 2), (torch.float32, 8, 200)])
def test_left_to_the_reference(dtype: torch.dtype, width: int, rank: int) -> None:
    inputs = low_rank_arguments(dtype, 2, 3, width, rank, 0.0)
    assert kernels.low_rank_decompose(*inputs) is NotImplemented
    parts = reference.low_rank_decompose(*inputs)[:2]
    assert kernels.low_rank_decompose_backward(*upstream_of(inputs), *inputs, *parts) is NotImplemented
