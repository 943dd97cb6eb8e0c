"""Tiles, wide rows, strides and groups of modalities of masked_bce_with_logits' Triton kernels, in the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from survcore.kernels import _masks
from survcore.kernels import masked_bce_with_logits as kernels
from survcore.reference import masked_bce_with_logits as reference
from survcore.testing import assert_close_to_oracle, convert
from survcore.testing.masked_bce_with_logits import masked_arguments

DTYPE = torch.float32
NONE = torch.empty(0)
NO_MARKS = torch.empty(0, dtype=torch.bool)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What is allocated holds NaN: an entry that is not written, or read before it is, is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _packed(values: Tensor) -> Tensor:
    parts = [
        sum(values[..., j].to(torch.uint8) << j % 8 for j in range(i, min(i + 8, values.shape[-1])))
        for i in range(0, values.shape[-1], 8)
    ]
    return torch.stack(parts, -1)


def _check(arguments: tuple) -> tuple[Tensor, Tensor]:
    loss, gradient = kernels.masked_bce_with_logits(*arguments)
    oracle = reference.masked_bce_with_logits(*convert(arguments, torch.float64))
    plain = reference.masked_bce_with_logits(*arguments)
    assert_close_to_oracle(loss, oracle[0], plain[0], DTYPE, "loss")
    assert_close_to_oracle(gradient, oracle[1], plain[1], DTYPE, "gradient")
    without, none = kernels.masked_bce_with_logits(*arguments[:-1], False)
    assert torch.equal(without, loss) and none.numel() == 0
    return loss, gradient


# Aligned or not, whole and partial wide rows, one tile and several, one view and several.
@pytest.mark.parametrize(
    ("views", "rows", "sizes"),
    [
        (0, 33, (100, 31)),
        (2, 32, (128,)),
        (2, 16, (20, 24)),
        (3, 5, (3,)),
        (1, 130, (1,)),
        (1, 17, (16,)),
        (2, 8, (511, 2)),
    ],
)
def test_sizes(views: int, rows: int, sizes: tuple[int, ...]) -> None:
    _check(masked_arguments(DTYPE, views, rows, sizes, observed=True, weighted=True))
    _check(masked_arguments(DTYPE, views, rows, sizes, shared_mask=True, positions="visible", reduction="mean"))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_many_modalities(reduction: str) -> None:
    """More than one launch's, some of them empty, at the first and the last place of a launch too."""
    sizes = (0, 3, 1, 0, 0, 7, 2, 5, 0, 1, 4, 0, 0, 2, 9, 1, 0, 6, 0)
    arguments = masked_arguments(DTYPE, 2, 5, sizes, observed=True, weighted=True, reduction=reduction)
    loss, gradient = _check(arguments)
    factor = torch.tensor(-1.5) if reduction == "mean" else torch.randn(2, len(sizes))
    expected = reference.masked_bce_with_logits_backward(factor, gradient, arguments[5])
    assert torch.equal(kernels.masked_bce_with_logits_backward(factor, gradient, arguments[5]), expected)


@pytest.mark.parametrize("modalities", [7, 8, 9, 16, 17])
def test_modalities_around_one_launch(modalities: int) -> None:
    _check(masked_arguments(DTYPE, 1, 3, tuple(range(1, modalities + 1))))


@pytest.mark.parametrize("sizes", [(21,), (5, 3, 13), (1000, 33)])
@pytest.mark.parametrize("views", [0, 2])
def test_backward_multiplies(views: int, sizes: tuple[int, ...]) -> None:
    rows = 20 if len(sizes) == 3 else 6
    shape = (2, rows, sum(sizes)) if views else (rows, sum(sizes))
    gradient = torch.randn(shape)
    boundaries = torch.tensor([sum(sizes[:m]) for m in range(len(sizes) + 1)])
    one = torch.tensor(0.75)
    losses = (views or 1, len(sizes))
    for factor in (one, torch.randn(losses), one.expand(losses), torch.randn(losses[::-1]).T):
        expected = reference.masked_bce_with_logits_backward(factor, gradient, boundaries)
        found = kernels.masked_bce_with_logits_backward(factor, gradient, boundaries)
        assert torch.equal(found, expected)
    turned = gradient.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(kernels.masked_bce_with_logits_backward(one, turned, boundaries), one * gradient)


def test_marks_in_any_place() -> None:
    """Slices, expanded views, rows and entries, transposed marks, other integers, packed slices."""
    views, rows, columns = 2, 5, 40
    plain = masked_arguments(DTYPE, views, rows, (27, 13), observed=True)
    logits, target, mask, observed, *rest = plain
    wide = torch.rand(views, rows + 2, columns + 9) < 0.5
    slice_ = wide[:, 1:-1, 4:-5]
    by_patient = (torch.rand(rows) < 0.6).unsqueeze(1).expand(-1, columns)
    bits = _packed(wide)
    forms = {
        "slice": slice_,
        "slice of bits": bits[:, 1:-1, :5],
        "transposed": torch.rand(columns, rows).T > 0.4,
        "of patients": by_patient,
        "of patients, per view": by_patient.expand(views, -1, -1),
        "same for all views": mask[0].expand(views, -1, -1),
        "one row": mask[0, 0].expand(rows, -1),
        "one column": (torch.rand(columns) < 0.5).expand(views, rows, columns),
        "one mark": torch.ones((), dtype=torch.bool).expand(rows, columns),
    }
    for name, form in forms.items():
        for arguments in (
            (logits, target, form, observed, *rest),
            (logits, target, mask, form, *rest),
            (logits, form, mask, NO_MARKS, *rest),
        ):
            try:
                _check(arguments)
            except AssertionError as error:
                raise AssertionError(name) from error
    _check((logits, target.int().T.contiguous().T * 7, mask, observed, *rest))


def test_floating_targets_and_logits_in_any_place() -> None:
    logits, target, *rest = masked_arguments(DTYPE, 2, 9, (27, 13), targets="floating")
    for form in (target.T.contiguous().T, target.double(), target.expand(2, -1, -1), torch.rand(2, 9, 40)):
        _check((logits, form, *rest))
    _check((logits[..., 1:], target[:, 1:], *_cut(rest)))
    turned = logits.transpose(0, 2).contiguous().transpose(0, 2)
    found = kernels.masked_bce_with_logits(turned, target, *rest)
    for one, other in zip(found, kernels.masked_bce_with_logits(logits, target, *rest), strict=True):
        assert torch.equal(one, other)


def test_weights_in_any_place() -> None:
    logits, target, mask, observed, weight, *rest = masked_arguments(DTYPE, 2, 5, (8, 4), weighted=True)
    other = torch.rand(2 * len(weight) + 1)
    for form in (other[1::2], other.flip(0)[: 2 * len(weight) : 2], torch.full((1,), 2.0).expand(len(weight))):
        _check((logits, target, mask, observed, form, *rest))


def _cut(rest: list) -> list:
    """The other arguments for all columns but the first, of one modality."""
    mask, observed, weight, _, *options = rest
    return [mask[..., 1:], observed, weight, torch.empty(0, dtype=torch.int64), *options]


def test_float64_is_left_to_the_reference() -> None:
    arguments = masked_arguments(torch.float64, 1, 3, (4,))
    assert kernels.masked_bce_with_logits(*arguments) is NotImplemented
    assert kernels.masked_bce_with_logits_backward(arguments[0], arguments[0], NONE) is NotImplemented


def test_tails_keep_their_relative_accuracy() -> None:
    logits = torch.tensor([[-60.0, -20.0, -5.0, 60.0]])
    for column in range(4):
        single = logits[:, column : column + 1]
        target = torch.tensor([[column == 3]])
        arguments = (single, target, NO_MARKS, NO_MARKS, NONE, torch.empty(0, dtype=torch.int64), "all", "none", True)
        loss, gradient = kernels.masked_bce_with_logits(*arguments)
        oracle = reference.masked_bce_with_logits(*convert(arguments, torch.float64))
        assert loss.item() == pytest.approx(oracle[0].item(), rel=1e-5)
        assert gradient.item() == pytest.approx(oracle[1].item(), rel=1e-5)


def test_sums_of_many_partial_ones() -> None:
    groups, partials = 3, 2500
    workspace = torch.rand(groups * (1 + partials), dtype=torch.float64)
    losses = workspace[:groups] * workspace[groups:].view(groups, partials).sum(1)
    found = torch.empty(groups)
    _masks.finish(workspace, found, groups, partials)
    torch.testing.assert_close(found, losses.float(), rtol=1e-6, atol=0)
    total = torch.empty(())
    _masks.finish(workspace, total, groups, partials)
    torch.testing.assert_close(total, losses.sum().float(), rtol=1e-6, atol=0)


@triton.jit
def _sum_kernel(counts, result, first, groups, partials, GROUPS: tl.constexpr):
    total = _masks.summed_counts(counts, first, groups, partials, GROUPS)
    tl.store(result + tl.arange(0, GROUPS), total)


def test_counts_of_many_programs() -> None:
    counts = torch.randint(0, 2**31 - 1, (5, 600), dtype=torch.int32)
    result = torch.empty(4, dtype=torch.int64)
    _sum_kernel[(1,)](counts, result, 2, 5, 600, GROUPS=4)
    assert result.tolist() == [*counts.long().sum(1)[2:].tolist(), 0]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("rows", [1, 15, 16, 4096, 1_000_003])
@pytest.mark.parametrize("columns", [1, 7, 128, 1181, 20_000, 1 << 26, (1 << 26) + 1])
def test_plan_covers_everything(views: int, rows: int, columns: int) -> None:
    plan = _masks.plan(views, rows, columns, 512, 4096, 16)
    assert plan.wide == plan.fold * columns < 2**31 and plan.wide_rows == -(-rows // plan.fold)
    assert plan.tiles * 512 >= min(plan.wide, plan.entries) > (plan.tiles - 1) * 512
    assert plan.blocks * plan.rows >= plan.wide_rows > (plan.blocks - 1) * plan.rows and plan.blocks <= 65535
