"""The public face of discrete_hazard_nll: formulas written out, options, and errors that name the row."""

from __future__ import annotations

import math

import pytest
import torch

from survcore.losses import DiscreteHazardNLL
from survcore.ops import discrete_hazard_nll, hazard_risk, hazard_survival

LOGITS = torch.tensor([[0.2, -1.0, 0.7], [1.5, 0.3, -0.4], [-2.0, 0.1, 0.9]], dtype=torch.float64)
TIME_BIN = torch.tensor([1, 0, 2])
EVENT = torch.tensor([1, 1, 0])


def _log_hazard(row: int, time_bin: int) -> float:
    return math.log(1 / (1 + math.exp(-LOGITS[row, time_bin].item())))


def _log_survival(row: int, bins: int) -> float:
    """log of the probability to survive the first `bins` bins."""
    return sum(math.log(1 - math.exp(_log_hazard(row, j))) for j in range(bins))


def test_likelihood_written_out() -> None:
    expected = [-_log_hazard(0, 1) - _log_survival(0, 1), -_log_hazard(1, 0), -_log_survival(2, 3)]
    loss = discrete_hazard_nll(LOGITS, TIME_BIN, EVENT, reduction="none")
    assert loss.tolist() == pytest.approx(expected, rel=1e-13)
    assert discrete_hazard_nll(LOGITS, TIME_BIN, EVENT).item() == pytest.approx(sum(expected) / 3, rel=1e-13)


def test_mcat_form_with_alpha_and_must_equation_6() -> None:
    event_part = [-_log_hazard(0, 1) - _log_survival(0, 1), -_log_hazard(1, 0), 0.0]
    nll = [event_part[0], event_part[1], -_log_survival(2, 3)]
    expected = sum(0.6 * a + 0.4 * b for a, b in zip(nll, event_part, strict=True))
    assert discrete_hazard_nll(LOGITS, TIME_BIN, EVENT, alpha=0.4, reduction="sum").item() == pytest.approx(expected)
    printed = [-_log_hazard(0, 1), -_log_hazard(1, 0), -_log_survival(2, 3)]
    actual = discrete_hazard_nll(LOGITS, TIME_BIN, EVENT, form="must_eq6", reduction="none")
    assert actual.tolist() == pytest.approx(printed)


def test_censored_at_start_counts_the_bins_before_its_own() -> None:
    loss = discrete_hazard_nll(LOGITS, TIME_BIN, EVENT, censored="start", reduction="none")
    assert loss[2].item() == pytest.approx(-_log_survival(2, 2))


def test_weighted_mean() -> None:
    weights = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    rows = discrete_hazard_nll(LOGITS, TIME_BIN, EVENT, reduction="none")
    weighted = discrete_hazard_nll(LOGITS, TIME_BIN, EVENT, weights=weights)
    assert weighted.item() == pytest.approx(((weights * rows).sum() / 4).item())


def test_survival_and_risk_of_extreme_logits() -> None:
    survival = hazard_survival(torch.tensor([[0.0, 1e4, 0.0], [-1e4, -1e4, -1e4]]))
    assert survival.tolist() == [[0.5, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert hazard_risk(torch.tensor([[-1e4, -1e4, -1e4]])).tolist() == [-3.0]
    assert hazard_risk(LOGITS)[1] > hazard_risk(LOGITS)[2]


def test_module_is_the_function() -> None:
    module = DiscreteHazardNLL(alpha=0.2, reduction="sum")
    assert torch.equal(
        module(LOGITS, TIME_BIN, EVENT), discrete_hazard_nll(LOGITS, TIME_BIN, EVENT, alpha=0.2, reduction="sum")
    )
    assert "alpha=0.2" in repr(module)


def test_empty_batch_keeps_the_graph() -> None:
    logits = torch.empty(0, 4, requires_grad=True)
    loss = discrete_hazard_nll(logits, torch.empty(0, dtype=torch.int64), torch.empty(0))
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": LOGITS[0]}, ValueError, r"logits must be \[B, K\]"),
        ({"logits": LOGITS.long()}, TypeError, "floating"),
        ({"time_bin": TIME_BIN.double()}, TypeError, "indices, not times"),
        ({"event": EVENT[:2]}, ValueError, "event must have one entry per row"),
        ({"weights": torch.ones(3, 1)}, ValueError, "weights must have one entry per row"),
        ({"time_bin": TIME_BIN.to("meta")}, ValueError, "time_bin is on meta, logits on cpu"),
        ({"event": EVENT.to("meta")}, ValueError, "event is on meta, logits on cpu"),
        ({"weights": torch.ones(3, device="meta")}, ValueError, "weights is on meta, logits on cpu"),
        ({"censored": "middle"}, ValueError, "'start' or 'end'"),
        ({"form": "breslow"}, ValueError, "'likelihood' or 'must_eq6'"),
        ({"reduction": "max"}, ValueError, "'mean', 'sum' or 'none'"),
        ({"time_bin": torch.tensor([0, 3, 1]), "validate": True}, ValueError, r"0\.\.2, got 3 in row 1"),
        ({"event": torch.tensor([0, 1, 2]), "validate": True}, ValueError, "got 2 in row 2"),
        ({"logits": LOGITS.index_fill(0, torch.tensor([2]), math.nan), "validate": True}, ValueError, "row 2"),
        (
            {"weights": torch.tensor([1.0, -1.0, -2.0]), "validate": True},
            ValueError,
            r"got -1.0 in row 1 \(of 2 such rows",
        ),
    ],
)
def test_errors_say_what_was_expected_and_where(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"logits": LOGITS, "time_bin": TIME_BIN, "event": EVENT} | change
    with pytest.raises(error, match=message):
        discrete_hazard_nll(**arguments)


def _leaf() -> torch.Tensor:
    return LOGITS.clone().requires_grad_()


def _saved(loss: torch.Tensor) -> torch.Tensor | None:
    """The gradient that the graph of a loss has ready."""
    return loss.grad_fn.gradient


def test_gradient_is_made_where_it_will_be_asked_for() -> None:
    """A loss that nobody differentiates costs no memory beyond itself."""
    assert _saved(discrete_hazard_nll(_leaf(), TIME_BIN, EVENT)).shape == LOGITS.shape
    assert _saved(discrete_hazard_nll(_leaf(), TIME_BIN, EVENT, reduction="none")) is None
    with torch.no_grad():
        assert discrete_hazard_nll(_leaf(), TIME_BIN, EVENT).grad_fn is None
    assert discrete_hazard_nll(LOGITS, TIME_BIN, EVENT).grad_fn is None
    op = torch.ops.survcore.discrete_hazard_nll.default
    assert op(LOGITS, TIME_BIN, EVENT, NO_WEIGHTS, *OPTIONS)[2].shape == (0, 3)


def test_gradient_is_given_away_and_found_again() -> None:
    logits = _leaf()
    loss = discrete_hazard_nll(logits, TIME_BIN, EVENT)
    made = _saved(loss).data_ptr()
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    assert first.data_ptr() == made and _saved(loss) is None
    expected = first.clone()
    first.zero_()  # as its new owner may
    assert torch.equal(torch.autograd.grad(loss, logits)[0], expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)])
@pytest.mark.parametrize("factor", [-0.3, 0.0, 7.0])
def test_gradient_of_a_scaled_loss(factor: float, weights: torch.Tensor | None) -> None:
    logits = _leaf()
    plain = torch.autograd.grad(discrete_hazard_nll(logits, TIME_BIN, EVENT, weights=weights), logits)[0]
    scaled = torch.autograd.grad(factor * discrete_hazard_nll(logits, TIME_BIN, EVENT, weights=weights), logits)[0]
    torch.testing.assert_close(scaled, factor * plain, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("bins", [1, 4, 20, 64, 65])
@pytest.mark.parametrize("rows", [1, 7, 16, 37, 512, 1030])
def test_rows_that_count_alike_and_others_agree(rows: int, bins: int) -> None:
    """Weights of 1 take the general kernel, none the one for rows that count alike."""
    generator = torch.Generator().manual_seed(rows + bins)
    time_bin = torch.randint(0, bins, (rows,), generator=generator)
    event = torch.randint(0, 2, (rows,), generator=generator).bool()
    logits = 3.0 * torch.randn(rows, bins, generator=generator)
    results = []
    for weights in (None, torch.ones(rows)):
        leaf = logits.clone().requires_grad_()
        loss = discrete_hazard_nll(leaf, time_bin, event, weights=weights, censored="start")
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for alike, other in zip(*results, strict=True):
        torch.testing.assert_close(alike, other, rtol=2e-6, atol=0.0)


def test_half_precision_gradients_do_not_underflow() -> None:
    """Scaled up for float16 before it is rounded to float16, as a gradient scaler relies on."""
    logits = torch.full((1, 2), -12.0, dtype=torch.float16, requires_grad=True)
    arguments = (torch.tensor([1]), torch.tensor([0]))
    (2.0**16 * discrete_hazard_nll(logits, *arguments)).backward()
    expected = 2.0**16 * math.exp(-12.0)
    assert logits.grad.dtype == torch.float16
    assert logits.grad.flatten().tolist() == pytest.approx([expected] * 2, rel=2e-3)


CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
OPTIONS = ("end", "likelihood", 0.0, "mean", False)
NO_WEIGHTS = torch.empty(0, dtype=torch.float64)


@pytest.mark.parametrize(("position", "name"), [(1, "time_bin"), (2, "event"), (3, "weights")])
def test_kernel_refuses_tensors_of_two_devices(position: int, name: str) -> None:
    """Called past the public function; its pointers would be another device's."""
    arguments = [LOGITS, TIME_BIN, EVENT, NO_WEIGHTS]
    arguments[position] = arguments[position].to("meta")
    with pytest.raises(RuntimeError, match=f"{name} must be on the device of logits"):
        torch.ops.survcore.discrete_hazard_nll.default.redispatch(CPU, *arguments, *OPTIONS)


@pytest.mark.parametrize(
    ("grad_loss", "divisor", "message"),
    [
        (torch.ones((), device="meta"), torch.ones(()), "grad_loss must be on the device of logits"),
        (torch.ones(()), torch.ones((), device="meta"), "divisor must be on the device of logits"),
        (torch.ones(2), torch.ones(()), "grad_loss must have the shape of the loss"),
    ],
)
def test_backward_kernel_checks_its_arguments(grad_loss: torch.Tensor, divisor: torch.Tensor, message: str) -> None:
    arguments = (grad_loss, LOGITS, TIME_BIN, EVENT, NO_WEIGHTS, divisor)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.survcore.discrete_hazard_nll_backward.default.redispatch(CPU, *arguments, *OPTIONS[:-1])
