"""Tiles, wide rows and forms of marks of masked_mse's Triton kernels, in the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from survcore.kernels import masked_mse as kernels
from survcore.ops import pack_bits
from survcore.reference import masked_mse as reference
from survcore.testing import assert_close_to_oracle, convert
from survcore.testing.masked_mse import patch_arguments

DTYPE = torch.float32


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What is allocated holds NaN: an entry that is not written, or read before it is, is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _check(arguments: tuple) -> None:
    found = kernels.masked_mse(*arguments)
    oracle = reference.masked_mse(*convert(arguments, torch.float64))
    plain = reference.masked_mse(*arguments)
    for what, *of_output in zip(("loss", "gradient"), found, oracle, plain, strict=True):
        assert_close_to_oracle(*of_output, DTYPE, what)
    without, none = kernels.masked_mse(*arguments[:-1], False)
    assert torch.equal(without, found[0]) and none.numel() == 0


# More patches than a block of the counting pass, aligned and not, rows of one patch and of many.
@pytest.mark.parametrize(
    ("rows", "patches", "length"), [(1, 1, 1), (7, 300, 2), (3, 17, 16), (2, 16, 64), (5, 1, 130), (1, 40, 48)]
)
def test_sizes(rows: int, patches: int, length: int) -> None:
    _check(patch_arguments(DTYPE, rows, patches, length, observed=True))
    _check(patch_arguments(DTYPE, rows, patches, length, positions="visible"))
    _check(patch_arguments(DTYPE, rows, patches, length, positions="all"))


def test_marks_in_any_place() -> None:
    rows, patches = 9, 21
    prediction, target, mask, _, *rest = patch_arguments(DTYPE, rows, patches, 5)
    wide = torch.rand(rows + 2, patches + 9) < 0.5
    patients = (torch.rand(rows) < 0.6).unsqueeze(1).expand(-1, patches)
    for observed in (
        wide[1:-1, 4:-5],
        pack_bits(wide)[1:-1, :3],
        pack_bits(wide[:rows, :patches]),
        wide[:patches, :rows].T if wide.shape[0] >= patches else (torch.rand(patches, rows) < 0.5).T,
        patients,
        mask[0].expand(rows, -1),
        patients.to(torch.uint8) * 4,
    ):
        _check((prediction, target, mask, observed, *rest))
        _check((prediction, target, observed, mask, *rest))


def test_values_in_any_place() -> None:
    prediction, target, *rest = patch_arguments(DTYPE, 4, 6, 10)
    _check((prediction.transpose(0, 2).contiguous().transpose(0, 2), target, *rest))
    _check((prediction, target.expand(4, 6, 10).transpose(1, 2).contiguous().transpose(1, 2), *rest))
    _check((prediction, target.half(), *rest))
    _check((prediction, target.double(), *rest))


def test_values_of_other_patches_are_not_read() -> None:
    prediction, target, mask, none, *rest = patch_arguments(DTYPE, 4, 6, 16)
    hidden = mask.unsqueeze(-1)
    poisoned = prediction.where(hidden, torch.nan), target.where(hidden, torch.inf)
    found = kernels.masked_mse(*poisoned, mask, none, *rest)
    for one, other in zip(found, kernels.masked_mse(prediction, target, mask, none, *rest), strict=True):
        assert torch.equal(one, other)


def test_float64_is_left_to_the_reference() -> None:
    assert kernels.masked_mse(*patch_arguments(torch.float64, 1, 2, 3)) is NotImplemented
