"""The public face of deephit_loss: the formula written out, its peer, options, and errors that name the row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from survcore.losses import DeepHitLoss
from survcore.ops import deephit_loss
from survcore.reference import deephit_loss as reference
from survcore.testing import assert_close_to_oracle, convert
from survcore.testing.deephit_loss import CASE, deephit_arguments

LOGITS = torch.tensor([[0.2, -1.0, 0.7], [1.5, 0.3, -0.4], [-2.0, 0.1, 0.9], [0.4, 0.6, -0.5]], dtype=torch.float64)
TIME_BIN = torch.tensor([1, 0, 1, 2])
EVENT = torch.tensor([1, 1, 0, 0])
TWO_CAUSES = torch.stack((LOGITS, LOGITS.flip(0) - 0.3), 1)
CAUSE = torch.tensor([2, 1, 0, 2])


def _written_out(
    logits: Tensor, time_bin: Tensor, event: Tensor, weights: Tensor, sigma: float = 0.1
) -> tuple[float, float]:
    """Likelihood and ranking term in plain loops, logits [B, R, K]."""
    rows, causes, bins = logits.shape
    likelihood = ranking = 0.0
    p, cumulative = [], []
    for row in range(rows):
        exponentials = logits[row].exp()
        p.append((exponentials / (exponentials.sum() + 1.0)).tolist())
        cumulative.append([[sum(cause[: bin_ + 1]) for bin_ in range(bins)] for cause in p[-1]])
    for i in range(rows):
        k, cause, weight = int(time_bin[i]), int(event[i]) - 1, weights[i].item()
        if cause < 0:
            likelihood -= weight * math.log(1.0 - sum(cumulative[i][r][k] for r in range(causes)))
            continue
        likelihood -= weight * math.log(p[i][cause][k])
        for j in range(rows):
            if time_bin[j] > k or (time_bin[j] == k and event[j] == 0):
                difference = cumulative[i][cause][k] - cumulative[j][cause][k]
                ranking += weight * math.exp(-difference / sigma)
    total = weights.sum().item()
    return likelihood / total, ranking / (rows * total)


@pytest.mark.parametrize(("logits", "event"), [(LOGITS, EVENT), (LOGITS.unsqueeze(1), EVENT), (TWO_CAUSES, CAUSE)])
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.0015])  # the last one leaves the range of plain exponentials
def test_formula_written_out(logits: Tensor, event: Tensor, sigma: float) -> None:
    scale = 1.0 if sigma > 0.01 else 0.01
    for weights in (torch.ones(4, dtype=torch.float64), torch.tensor([0.5, 2.0, 0.0, 1.5], dtype=torch.float64)):
        of_causes = scale * (logits if logits.dim() == 3 else logits.unsqueeze(1))
        likelihood, ranking = _written_out(of_causes, TIME_BIN, event, weights, sigma)
        for alpha in (0.0, 0.2, 1.0):
            loss = deephit_loss(scale * logits, TIME_BIN, event, alpha=alpha, sigma=sigma, weights=weights)
            assert loss.item() == pytest.approx(alpha * likelihood + (1 - alpha) * ranking, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("samples", "extremes") for name in getattr(CASE, kind)(torch.float64)],
)
def test_ranking_over_bins_is_that_over_pairs(kind: str, name: str, dtype: torch.dtype) -> None:
    """The form that serves devices without a kernel, beside the one that is the oracle."""
    arguments = getattr(CASE, kind)(dtype)[name]
    actual = reference.deephit_loss(*arguments)
    pairs = reference.deephit_loss_over_pairs(*arguments)
    oracle = reference.deephit_loss_over_pairs(*convert(arguments, torch.float64))
    for what, a, p, o in zip(("loss", "gradient"), actual, pairs, oracle, strict=True):
        assert a.dtype == p.dtype
        assert_close_to_oracle(a, o, p, dtype, what)


def test_without_weights_all_are_one() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    assert torch.equal(deephit_loss(LOGITS, TIME_BIN, EVENT), deephit_loss(LOGITS, TIME_BIN, EVENT, weights=ones))
    # A factor of all weights cancels.
    weighted = deephit_loss(LOGITS, TIME_BIN, EVENT, weights=3 * ones)
    assert weighted.item() == pytest.approx(deephit_loss(LOGITS, TIME_BIN, EVENT).item(), rel=1e-14)


@pytest.mark.parametrize("rows", [30, 700])
def test_equals_pycox(rows: int) -> None:
    """On logits where its constant under the logarithms does not count."""
    losses = pytest.importorskip("pycox.models.loss")
    pair_rank_mat = pytest.importorskip("pycox.models.data").pair_rank_mat
    logits, time_bin, event, *_ = deephit_arguments(torch.float32, rows, 12)
    pairs = torch.from_numpy(pair_rank_mat(time_bin.numpy(), event.float().numpy()))
    gradients = []
    for loss in (
        lambda x: losses.DeepHitSingleLoss(0.2, 0.1)(x, time_bin, event.float(), pairs),
        lambda x: deephit_loss(x, time_bin, event, alpha=0.2, sigma=0.1),
    ):
        x = logits.clone().requires_grad_()
        value = loss(x)
        gradients.append((value.item(), torch.autograd.grad(value, x)[0]))
    assert gradients[1][0] == pytest.approx(gradients[0][0], rel=1e-5)
    torch.testing.assert_close(gradients[1][1], gradients[0][1], rtol=1e-4, atol=1e-7)


def test_competing_risks_equal_pycox() -> None:
    losses = pytest.importorskip("pycox.models.loss")
    pair_rank_mat = pytest.importorskip("pycox.models.data").pair_rank_mat
    logits, time_bin, event, *_ = deephit_arguments(torch.float32, 200, 12, 3)
    pairs = torch.from_numpy(pair_rank_mat(time_bin.numpy(), event.numpy()))
    expected = losses.DeepHitLoss(0.2, 0.1)(logits, time_bin, event, pairs).item()
    assert deephit_loss(logits, time_bin, event).item() == pytest.approx(expected, rel=1e-5)


def test_likelihood_is_exact_where_probabilities_vanish() -> None:
    """pycox adds 1e-7 under the logarithm: at most 16.1 there."""
    logits = torch.tensor([[60.0, 0.0, 1.0], [400.0, 0.0, 0.0]], requires_grad=True)
    loss = deephit_loss(logits, torch.tensor([1, 0]), torch.tensor([1, 0]), alpha=1.0)
    assert loss.item() == pytest.approx((60.0 + 400.0 - math.log(3.0)) / 2, rel=1e-6)
    loss.backward()
    third = 1 / 6
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.5, 0.0], [0.5, -third, -third]]))


@pytest.mark.parametrize("sigma", [0.1, 0.025, 0.01])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_likelihood_gradient_beside_a_far_larger_ranking_gradient(dtype: torch.dtype, sigma: float) -> None:
    """A row censored where its probability is 1: its place in the ranking cannot change, its likelihood can."""
    logits = torch.tensor([[40.0, 0.0], [-40.0, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    deephit_loss(logits, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), alpha=0.2, sigma=sigma).backward()
    # The loss of the first row is x_0 - log(exp(x_1) + 1).
    assert logits.grad[0, 0].item() == pytest.approx(0.2 / 3, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("nothing", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("bins", "event", "alpha", "sigma"),
    [
        ([0, 1, 2, -1], [1, 0, 1, 0], 0.2, 0.1),
        ([0, 1, 2, 0], [1, 0, 1, 1], 0.2, 0.1),
        ([1, 2, 2, 0], [1, 0, 1, 0], 0.2, 0.1),
        ([0, 1, 2, 2], [1, 0, 1, 0], 1.0, 0.1),
        ([0, 1, 2, 2], [0, 0, 0, 1], 0.2, 0.1),
        ([0, 1, 2, -1], [1, 0, 1, 0], 0.2, 0.001),
        ([0, 1, 2, 0], [1, 0, 1, 1], 0.2, 0.001),
        ([0, 1, 2, 2], [1, 0, 1, 0], 1.0, 0.001),
    ],
    ids=["padding", "first_bin", "before_events", "likelihood", "no_events", "steep_padding", "steep_first", "steep"],
)
def test_row_that_takes_part_in_nothing_is_not_read(
    bins: list[int], event: list[int], alpha: float, sigma: float, nothing: float, dtype: torch.dtype
) -> None:
    """Without weight, and compared with no event: whatever it holds, the loss and all gradients are the same."""
    logits = 0.01 * LOGITS.to(dtype)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=dtype)
    results = []
    for value in (0.0, nothing):
        x = logits.clone()
        x[3] = value
        x.requires_grad_()
        loss = deephit_loss(x, torch.tensor(bins), torch.tensor(event), alpha=alpha, sigma=sigma, weights=weights)
        loss.backward()
        assert (x.grad[3] == 0).all()
        assert x.grad[:3].isfinite().all() and x.grad[:3].any()
        results.append((loss.item(), x.grad))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_row_moved_by_a_constant_does_not_change_with_the_horizon_far_away() -> None:
    logits, time_bin, event, *_ = deephit_arguments(torch.float64, 50, 7)
    event = torch.ones_like(event)  # a censored row's loss has the mass beyond the horizon in it
    low, high = (deephit_loss(logits + shift, time_bin, event) for shift in (60.0, 160.0))
    assert low.item() == pytest.approx(high.item(), rel=1e-13)


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_gradient_of_a_scaled_loss_and_of_a_second_backward(factor: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = deephit_loss(logits, TIME_BIN, EVENT)
    once = torch.autograd.grad(factor * loss, logits, retain_graph=True)[0]
    again = torch.autograd.grad(factor * loss, logits)[0]
    single = torch.autograd.grad(deephit_loss(logits, TIME_BIN, EVENT), logits)[0]
    assert torch.equal(once, again)
    torch.testing.assert_close(once, factor * single, rtol=1e-14, atol=0.0)


def test_half_precision_gradient_survives_loss_scaling() -> None:
    """Entries below half precision's smallest number, but for the factor that scales the loss."""
    logits, time_bin, event, *_ = deephit_arguments(torch.float16, 4000, 8, alpha=1.0)
    logits.requires_grad_()
    loss = deephit_loss(logits, time_bin, event, alpha=1.0)
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(65536.0 * loss, logits)
    exact = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(deephit_loss(exact, time_bin, event, alpha=1.0), exact)
    assert gradient.dtype == torch.float16
    torch.testing.assert_close(gradient.double(), 65536.0 * expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (0, 2, 4)])
def test_empty_batch_keeps_the_graph(shape: tuple[int, ...]) -> None:
    logits = torch.empty(shape, requires_grad=True)
    loss = deephit_loss(logits, torch.empty(0, dtype=torch.int64), torch.empty(0))
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.shape == shape


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    logits = LOGITS.clone().requires_grad_()
    with torch.no_grad():
        assert not deephit_loss(logits, TIME_BIN, EVENT).requires_grad
    none = torch.empty(0, dtype=torch.float64)
    _, gradient = torch.ops.survcore.deephit_loss.default(LOGITS, TIME_BIN, EVENT, none, 0.2, 0.1, False)
    assert gradient.shape == (0, 3)


def test_module_is_the_function() -> None:
    module = DeepHitLoss(alpha=0.4, sigma=0.2)
    weights = torch.tensor([0.5, 2.0, 1.0, 1.5], dtype=torch.float64)
    for event, logits in ((EVENT, LOGITS), (CAUSE, TWO_CAUSES)):
        expected = deephit_loss(logits, TIME_BIN, event, alpha=0.4, sigma=0.2, weights=weights)
        assert torch.equal(module(logits, TIME_BIN, event, weights), expected)
    assert "alpha=0.4, sigma=0.2" in repr(module)
    with pytest.raises(ValueError, match="sigma must be positive"):
        DeepHitLoss(sigma=0.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": LOGITS[0]}, ValueError, r"logits must be \[B, K\] or \[B, R, K\].*got shape \(3,\)"),
        ({"logits": LOGITS[:, :0]}, ValueError, "R, K >= 1"),
        ({"logits": LOGITS.long()}, TypeError, "floating"),
        ({"time_bin": TIME_BIN.double()}, TypeError, "indices, not times"),
        ({"event": EVENT[:2]}, ValueError, r"event must have one entry per row of logits, \[4\]"),
        ({"weights": torch.ones(4, 1)}, ValueError, "weights must have one entry per row"),
        ({"time_bin": TIME_BIN.to("meta")}, ValueError, "time_bin is on meta, logits on cpu"),
        ({"event": EVENT.to("meta")}, ValueError, "event is on meta, logits on cpu"),
        ({"weights": torch.ones(4, device="meta")}, ValueError, "weights is on meta, logits on cpu"),
        ({"alpha": 1.5}, ValueError, r"alpha must be within 0\.\.1, got 1\.5"),
        ({"alpha": math.nan}, ValueError, "alpha must be within"),
        ({"sigma": 0.0}, ValueError, "sigma must be positive and finite, got 0.0"),
        ({"sigma": math.inf}, ValueError, "sigma must be positive and finite"),
        ({"time_bin": torch.tensor([0, 3, 1, 1]), "validate": True}, ValueError, r"0\.\.2, got 3 in row 1"),
        ({"event": torch.tensor([0, 1, 2, 1]), "validate": True}, ValueError, r"0 \(censored\) or 1, got 2 in row 2"),
        (
            {"logits": TWO_CAUSES, "event": torch.tensor([0.0, 2.0, math.nan, 0.5]), "validate": True},
            ValueError,
            r"cause in 1\.\.2, got nan in row 2 \(of 2 such rows of 4\)",
        ),
        (
            {"logits": TWO_CAUSES.index_fill(0, torch.tensor([2]), math.nan), "validate": True},
            ValueError,
            "logits must not be NaN.*row 2",
        ),
        (
            {"weights": torch.tensor([1.0, -1.0, -2.0, 0.0]), "validate": True},
            ValueError,
            r"got -1.0 in row 1 \(of 2 such rows",
        ),
    ],
)
def test_errors_say_what_was_expected_and_where(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"logits": LOGITS, "time_bin": TIME_BIN, "event": EVENT} | change
    with pytest.raises(error, match=message):
        deephit_loss(**arguments)


@pytest.mark.parametrize("event", [EVENT, EVENT.bool(), EVENT.float(), EVENT.int()])
def test_validation_passes_what_is_valid(event: Tensor) -> None:
    checked = deephit_loss(LOGITS, TIME_BIN, event, weights=torch.ones(4), validate=True)
    assert torch.equal(checked, deephit_loss(LOGITS, TIME_BIN, EVENT))


CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
NO_WEIGHTS = torch.empty(0, dtype=torch.float64)


@pytest.mark.parametrize(("position", "name"), [(1, "time_bin"), (2, "event"), (3, "weights")])
def test_kernel_refuses_tensors_of_two_devices(position: int, name: str) -> None:
    """Called past the public function; its pointers would be another device's."""
    arguments = [LOGITS, TIME_BIN, EVENT, NO_WEIGHTS]
    arguments[position] = arguments[position].to("meta")
    with pytest.raises(RuntimeError, match=f"{name} must be on the device of logits"):
        torch.ops.survcore.deephit_loss.default.redispatch(CPU, *arguments, 0.2, 0.1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOGITS[0], TIME_BIN, EVENT, NO_WEIGHTS, 0.2, 0.1), r"logits must be \[rows, bins\]"),
        ((LOGITS, TIME_BIN[:2], EVENT, NO_WEIGHTS, 0.2, 0.1), "one entry per row"),
        ((LOGITS, TIME_BIN, EVENT, torch.ones(3), 0.2, 0.1), "weights must have one entry per row"),
        ((LOGITS, TIME_BIN, EVENT, NO_WEIGHTS, 2.0, 0.1), "alpha must be within"),
        ((LOGITS, TIME_BIN, EVENT, NO_WEIGHTS, 0.2, -1.0), "sigma must be positive"),
    ],
)
def test_kernel_checks_its_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.survcore.deephit_loss.default(*arguments, True)


def test_backward_kernel_checks_its_arguments() -> None:
    with pytest.raises(RuntimeError, match="grad_loss must be a scalar"):
        torch.ops.survcore.deephit_loss_backward.default(torch.ones(2), LOGITS)
