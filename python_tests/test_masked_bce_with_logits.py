"""The public face of masked_bce_with_logits: Surv-M2AC's loss written out, forms of marks, errors that say where."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from survcore.losses import MaskedBCEWithLogits
from survcore.ops import masked_bce_with_logits, pack_bits
from survcore.reference.masked_bce_with_logits import marks

SIZES = (11, 3)
GENERATOR = torch.Generator().manual_seed(3)
LOGITS = torch.randn(2, 6, 14, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.rand(6, 14, generator=GENERATOR) < 0.4
MASK = torch.rand(2, 6, 14, generator=GENERATOR) < 0.5
OBSERVED = torch.rand(6, 14, generator=GENERATOR) < 0.8
WEIGHT = 1 + torch.rand(14, generator=GENERATOR, dtype=torch.float64)


def test_surv_m2ac_written_out() -> None:
    """Per view: the genes' sum over their masked entries, with weights, plus that of the clinical features, without."""
    weight = torch.cat((WEIGHT[:11], torch.ones(3, dtype=torch.float64)))
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for view in range(2):
        for m, part in enumerate((slice(0, 11), slice(11, 14))):
            terms = binary_cross_entropy_with_logits(
                LOGITS[view, :, part], TARGET[:, part].double(), pos_weight=weight[part], reduction="none"
            )
            mask = MASK[view, :, part].double()
            expected[view, m] = (terms * mask).sum() / (mask.sum() + 1e-8)
    losses = masked_bce_with_logits(LOGITS, TARGET, MASK, pos_weight=weight, sizes=SIZES)
    torch.testing.assert_close(losses, expected, rtol=1e-13, atol=0)
    total = masked_bce_with_logits(LOGITS, TARGET, MASK, pos_weight=weight, sizes=SIZES, reduction="mean")
    assert total.item() == pytest.approx(expected.mean(0).sum().item(), rel=1e-13)


@pytest.mark.parametrize("observed", [None, OBSERVED])
def test_positions_take_all_entries_apart(observed: Tensor | None) -> None:
    seen = torch.ones_like(MASK) if observed is None else observed.expand_as(MASK)
    counts = {"masked": (MASK & seen).sum((1, 2)), "visible": (~MASK & seen).sum((1, 2)), "all": seen.sum((1, 2))}
    sums = {
        positions: masked_bce_with_logits(LOGITS, TARGET, MASK, observed=observed, positions=positions)[:, 0] * count
        for positions, count in counts.items()
    }
    torch.testing.assert_close(sums["masked"] + sums["visible"], sums["all"], rtol=1e-7, atol=0)
    without_mask = masked_bce_with_logits(LOGITS, TARGET, observed=observed, positions="all")
    assert torch.equal(without_mask, masked_bce_with_logits(LOGITS, TARGET, MASK, observed=observed, positions="all"))


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 64, 1181])
def test_bits_are_as_good_as_bytes(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    logits = torch.randn(2, 5, columns, generator=generator)
    target, observed = (torch.rand(5, columns, generator=generator) < 0.5 for _ in range(2))
    mask = torch.rand(2, 5, columns, generator=generator) < 0.7
    bits = [pack_bits(value) for value in (target, mask, observed)]
    assert bits[0].dtype == torch.uint8 and bits[0].shape == (5, -(-columns // 8))
    assert torch.equal(marks(bits[1], columns), mask)
    expected = masked_bce_with_logits(logits, target, mask, observed=observed)
    assert torch.equal(masked_bce_with_logits(logits, bits[0], bits[1], observed=bits[2]), expected)
    assert torch.equal(masked_bce_with_logits(logits, target, bits[1], observed=observed), expected)


def test_lowest_bit_is_the_first_column() -> None:
    assert pack_bits(torch.tensor([[1, 0, 0, 0, 0, 0, 0, 1, 0, 2]])).tolist() == [[129, 2]]


def test_soft_targets_are_those_of_torch() -> None:
    target = torch.rand(6, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = LOGITS[0].clone().requires_grad_()
    loss = masked_bce_with_logits(logits, target, positions="all", pos_weight=WEIGHT, reduction="mean")
    expected = binary_cross_entropy_with_logits(logits, target, pos_weight=WEIGHT)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0], rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_both_tails_keep_their_relative_accuracy(dtype: torch.dtype, weighted: bool) -> None:
    """A product of 1 + e^x would lose what lies far below 1."""
    logits = torch.full((3, 40), -60.0, dtype=dtype, requires_grad=True)
    weight = torch.ones(40, dtype=dtype) if weighted else None
    loss = masked_bce_with_logits(logits, torch.zeros(3, 40), positions="all", pos_weight=weight, reduction="mean")
    assert loss.item() == pytest.approx(math.exp(-60), rel=1e-5)
    loss.backward()
    assert logits.grad.sum().item() == pytest.approx(math.exp(-60), rel=1e-5)
    huge = masked_bce_with_logits(-logits.detach() * 200, torch.zeros(3, 40, dtype=torch.bool), positions="all")
    assert huge.item() == pytest.approx(12_000)


def test_gradients_of_scaled_single_and_repeated_losses() -> None:
    logits = LOGITS.clone().requires_grad_()
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    losses = masked_bce_with_logits(logits, TARGET, MASK, sizes=SIZES)
    first = torch.autograd.grad((losses * weights).sum(), logits, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad((losses * weights).sum(), logits)[0], first)
    for view in range(2):
        for m, part in enumerate((slice(0, 11), slice(11, 14))):
            single = LOGITS[view, :, part].clone().requires_grad_()
            loss = masked_bce_with_logits(single, TARGET[:, part], MASK[view, :, part])
            expected = torch.autograd.grad(loss, single, weights[view, m].reshape(1, 1))[0]
            torch.testing.assert_close(first[view, :, part], expected, rtol=1e-12, atol=1e-15)
    assert not masked_bce_with_logits(LOGITS, TARGET, MASK).requires_grad
    with torch.no_grad():
        assert torch.equal(masked_bce_with_logits(logits, TARGET, MASK, sizes=SIZES), losses)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_has_a_float32_loss_and_its_own_gradient(half: torch.dtype) -> None:
    logits = LOGITS.to(half).requires_grad_()
    loss = masked_bce_with_logits(logits, TARGET, MASK, reduction="mean")
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.dtype == half
    assert loss.item() == pytest.approx(
        masked_bce_with_logits(logits.detach().float(), TARGET, MASK, reduction="mean").item()
    )


@pytest.mark.usefixtures("threads_restored")
def test_same_bits_with_any_number_of_threads() -> None:
    logits = torch.randn(2, 300, 1181, generator=torch.Generator().manual_seed(0))
    target, mask = torch.rand(300, 1181) < 0.3, torch.rand(2, 300, 1181) < 0.7
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(masked_bce_with_logits(logits, target, mask, sizes=(1165, 16)))
    assert torch.equal(*found)


def test_module_is_the_function_and_compiles() -> None:
    module = MaskedBCEWithLogits(sizes=SIZES, pos_weight=WEIGHT)
    logits = LOGITS.clone().requires_grad_()
    expected = masked_bce_with_logits(logits, TARGET, MASK, sizes=SIZES, pos_weight=WEIGHT, reduction="mean")
    assert torch.equal(module(logits, TARGET, MASK), expected)
    assert "sizes=(11, 3)" in repr(module) and list(module.state_dict()) == ["pos_weight"]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    gradient = torch.autograd.grad(compiled(logits, TARGET, MASK), logits)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    torch._dynamo.reset()


def test_empty_batch_keeps_the_graph() -> None:
    logits = torch.empty(2, 0, 14, requires_grad=True)
    loss = masked_bce_with_logits(logits, TARGET[:0], MASK[:, :0], sizes=SIZES)
    loss.sum().backward()
    assert loss.tolist() == [[0, 0], [0, 0]] and logits.grad.shape == (2, 0, 14)


NAN = LOGITS.clone()
NAN[1, 2, 3] = math.nan
ALL = torch.ones_like(MASK)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": LOGITS[0, 0]}, ValueError, r"logits must be \[V, B, D\] or \[B, D\]"),
        ({"logits": LOGITS.long()}, TypeError, "logits must be floating, got torch.int64"),
        ({"target": TARGET[:5]}, ValueError, r"target must have the shape of logits, \(2, 6, 14\), or of one view"),
        ({"mask": MASK[..., :13]}, ValueError, r"mask must have .* got \(2, 6, 13\) of torch.bool"),
        ({"mask": MASK[..., :2]}, ValueError, r"packed bits: 2 columns of uint8\), got \(2, 6, 2\) of torch.bool"),
        ({"mask": MASK.float()}, TypeError, "mask must be bool or uint8, got torch.float32"),
        ({"mask": None}, ValueError, "mask may be None for positions 'all' only, got positions 'masked'"),
        ({"observed": OBSERVED.long()}, TypeError, "observed must be bool or uint8, got torch.int64"),
        ({"observed": OBSERVED.T}, ValueError, "observed must have the shape"),
        ({"target": TARGET.to("meta")}, ValueError, "target is on meta, logits on cpu"),
        ({"mask": MASK.to("meta")}, ValueError, "mask is on meta, logits on cpu"),
        ({"pos_weight": WEIGHT.to("meta")}, ValueError, "pos_weight is on meta, logits on cpu"),
        ({"pos_weight": WEIGHT[:11]}, ValueError, r"one per column of logits, \[14\], got shape \(11,\)"),
        ({"sizes": (11, 4)}, ValueError, r"sizes must be the columns of each modality, 14 in all, got \(11, 4\)"),
        ({"sizes": (15, -1)}, ValueError, "sizes must be"),
        ({"sizes": ()}, ValueError, "sizes must be"),
        ({"positions": "hidden"}, ValueError, "'masked', 'visible' or 'all', got 'hidden'"),
        ({"reduction": "sum"}, ValueError, "'none' or 'mean', got 'sum'"),
        ({"logits": NAN, "mask": ALL, "validate": True}, ValueError, "got nan in view 1, row 2, column 3"),
        (
            {"target": TARGET + 0.5, "mask": ALL, "validate": True},
            ValueError,
            r"target must be within 0\.\.1 where it is scored, got 1.5 in view 0",
        ),
        ({"pos_weight": -WEIGHT, "validate": True}, ValueError, "pos_weight must be at least 0, got -1.* in column 0"),
    ],
)
def test_errors_say_what_was_expected_and_where(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"logits": LOGITS, "target": TARGET, "mask": MASK} | change
    with pytest.raises(error, match=message):
        masked_bce_with_logits(**arguments)


def test_what_is_not_scored_need_not_be_valid() -> None:
    mask = ALL.clone()
    mask[1, 2, 3] = False
    masked_bce_with_logits(NAN, TARGET, mask, validate=True)


CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
NONE = torch.empty(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: LOGITS[0, 0]}, "logits must be"),
        ({1: TARGET[:5]}, "target must have the rows"),
        ({1: TARGET[:5].double()}, "target must have the shape of the logits"),
        ({2: MASK[:1]}, "mask must have the rows"),
        ({2: MASK[..., :2]}, "mask must have the columns"),
        ({2: MASK.to("meta")}, "mask must be on the device of logits"),
        ({2: NONE}, "mask may be left out"),
        ({3: OBSERVED[:, :3]}, "observed must have the columns"),
        ({4: WEIGHT[:3]}, "pos_weight must have one entry per column"),
        ({5: torch.tensor([0, 20])}, "boundaries must rise from 0 to the number of columns"),
        ({5: torch.tensor([0, 12, 3, 14])}, "boundaries must rise"),
        ({5: torch.tensor([-1, 14])}, "boundaries must rise"),
        ({6: "hidden"}, "positions must be"),
        ({7: "sum"}, "reduction must be"),
    ],
)
def test_kernel_checks_its_arguments(change: dict[int, object], message: str) -> None:
    """Called past the public function; it would read beyond its arguments."""
    arguments = [LOGITS, TARGET, MASK, NONE, NONE, torch.tensor([0, 11, 14]), "masked", "none", True]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.survcore.masked_bce_with_logits.default.redispatch(CPU, *arguments)


def test_backward_kernel_checks_its_arguments() -> None:
    backward = torch.ops.survcore.masked_bce_with_logits_backward.default
    with pytest.raises(RuntimeError, match="grad_loss must have the shape of the loss"):
        backward(torch.ones(3, 2), LOGITS, torch.tensor([0, 11, 14]))


@pytest.mark.parametrize("target", [torch.tensor([[True]]), torch.tensor([[1.0]])])
@pytest.mark.parametrize("logit", [-torch.inf, -1e30, torch.inf, 0.0])
def test_positives_of_weight_zero_are_worth_nothing(logit: float, target: torch.Tensor) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = masked_bce_with_logits(logits, target, positions="all", pos_weight=0.0, reduction="mean")
    loss.backward()
    assert loss.item() == 0 and logits.grad.item() == 0


@pytest.mark.parametrize("sizes", [(2.5, 2.5), 5, ("a",)])
def test_sizes_are_whole_numbers(sizes: object) -> None:
    with pytest.raises(TypeError, match="sizes must be whole numbers"):
        masked_bce_with_logits(torch.zeros(2, 5), torch.zeros(2, 5), positions="all", sizes=sizes)


def test_observed_patients() -> None:
    logits, target = torch.randn(2, 3, 4), torch.rand(3, 4) < 0.5
    observed = torch.tensor([True, False, True])
    whole = masked_bce_with_logits(logits, target, positions="all", observed=observed[:, None].expand(3, 4))
    assert torch.equal(masked_bce_with_logits(logits, target, positions="all", observed=observed), whole)
    with pytest.raises(ValueError, match=r"observed must have the shape of logits, .*got \(2,\)"):
        masked_bce_with_logits(logits, target, positions="all", observed=observed[:2])
    with pytest.raises(TypeError, match="pos_weight must be a number"):
        masked_bce_with_logits(logits, target, positions="all", pos_weight="a")
