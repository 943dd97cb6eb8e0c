"""What every public loss does in a training loop: transforms, ensembles, scaling, autocast, graphs of any size."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from survcore import losses, ops


def _losses() -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Every loss as a function of its first input, and such an input."""
    generator = torch.Generator().manual_seed(3)
    time_bin, event = torch.tensor([0, 2, 1, 4, 3, 2]), torch.tensor([1, 0, 1, 1, 0, 1])
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, generator=generator) < 0.6
    others = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    times = time_bin.double() + 1
    return {
        "cox_ph_loss": (lambda x: ops.cox_ph_loss(x, times, event), logits[:, 0].clone()),
        "discrete_hazard_nll": (lambda x: ops.discrete_hazard_nll(x, time_bin, event), logits),
        "deephit_loss": (lambda x: ops.deephit_loss(x, time_bin, event), logits),
        "info_nce": (lambda x: ops.info_nce(x, others.to(x.dtype), temperature=0.2), logits),
        "masked_bce_with_logits": (lambda x: ops.masked_bce_with_logits(x, others > 0, mask, reduction="mean"), logits),
        "masked_mse": (lambda x: ops.masked_mse(x.unsqueeze(2), others.unsqueeze(2), mask), logits),
    }


NAMES = list(_losses())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", NAMES)
def test_differentiable_through_vmap(name: str) -> None:
    """An ensemble: the members' losses by vmap, their gradients by autograd, torch.func.grad and jacrev around it."""
    loss, first = _losses()[name]
    members = torch.stack((first, 2 * first, first - 1))
    expected = torch.stack([torch.func.grad(loss)(member) for member in members])
    actual = torch.func.grad(lambda x: torch.vmap(loss)(x).sum())(members)
    torch.testing.assert_close(actual, expected)
    leaf = members.clone().requires_grad_()
    (3 * torch.vmap(loss)(leaf).sum()).backward()
    torch.testing.assert_close(leaf.grad, 3 * expected)
    jacobian = torch.func.jacrev(torch.vmap(loss))(members)
    torch.testing.assert_close(torch.stack([jacobian[i, i] for i in range(3)]), expected)


@pytest.mark.parametrize("name", NAMES)
def test_scaled_repeated_and_let_go(name: str) -> None:
    loss, first = _losses()[name]
    expected = torch.func.grad(loss)(first)
    leaf = first.clone().requires_grad_()
    value = loss(leaf)
    for factor in (1.0, 3.0, 1.0):
        gradient = torch.autograd.grad(factor * value, leaf, retain_graph=True)[0]
        torch.testing.assert_close(gradient, factor * expected)
        gradient.fill_(torch.nan)  # it is the caller's
    node = weakref.ref(value.grad_fn)
    torch.autograd.grad(3 * value, leaf)
    held = [value for value in vars(node()).values() if isinstance(value, Tensor)]
    assert not held, "what was made for one backward pass is kept after it"
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, leaf)
    with torch.no_grad():
        assert loss(leaf).grad_fn is None
    torch.testing.assert_close(torch.autograd.grad(loss(leaf) + 2 * loss(leaf), leaf)[0], 3 * expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    """A layer computed in half precision: the loss is float32, that of the layer's output, and reaches the weights."""
    loss, first = _losses()[name]
    features = first.reshape(len(first), -1).float()
    layer = torch.nn.Linear(features.shape[1], features.shape[1])
    with torch.autocast("cpu", dtype=dtype):
        output = layer(features)
        assert output.dtype == dtype
        value = loss(output.reshape(first.shape))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(output.float().reshape(first.shape)), rtol=2e-2, atol=1e-3)
    value.backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_for_any_size_in_deterministic_mode(name: str) -> None:
    loss, first = _losses()[name]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.use_deterministic_algorithms(True)
    try:
        leaf = first.clone().requires_grad_()
        gradient = torch.autograd.grad(compiled(leaf), leaf)[0]
        torch.testing.assert_close(gradient, torch.func.grad(loss)(first))
    finally:
        torch.use_deterministic_algorithms(False)
        torch._dynamo.reset()


def test_an_option_may_change_under_compile() -> None:
    (_, logits), time_bin, event = _losses()["deephit_loss"], torch.tensor([0, 2, 1, 4, 3, 2]), torch.ones(6)
    compiled = torch.compile(
        lambda x, sigma: ops.deephit_loss(x, time_bin, event, sigma=sigma), fullgraph=True, backend="aot_eager"
    )
    for sigma in (0.5, 0.3, 0.2):
        torch.testing.assert_close(compiled(logits, sigma), ops.deephit_loss(logits, time_bin, event, sigma=sigma))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.DiscreteHazardNLL(form="x"), "form must be"),
        (lambda: losses.DiscreteHazardNLL(alpha=7), "alpha must be within 0..1, got 7"),
        (lambda: losses.DeepHitLoss(sigma=0), "sigma must be positive"),
        (lambda: losses.MaskedBCEWithLogits(positions="hidden"), "positions must be"),
        (lambda: losses.MaskedBCEWithLogits(reduction="max"), "reduction must be"),
        (lambda: losses.MaskedMSE(positions="hidden"), "positions must be"),
        (lambda: losses.InfoNCE(temperature=0.0), "temperature must be above 0"),
        (lambda: losses.CoxPHLoss(ties="exact"), "ties must be"),
    ],
)
def test_modules_refuse_wrong_options_when_they_are_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_pos_weight_of_the_module_may_be_a_number() -> None:
    logits, target = torch.randn(3, 4), torch.tensor([[1, 0, 1, 0]] * 3)
    module = losses.MaskedBCEWithLogits(pos_weight=2.0, positions="all")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target.float(), pos_weight=torch.tensor(2.0)
    )
    torch.testing.assert_close(module(logits, target), expected)
    assert "pos_weight" in module.state_dict()


def test_a_row_of_weight_zero_may_hold_anything() -> None:
    """A padding row changes nothing, has gradient 0, and is no reason for an error."""
    logits = torch.tensor([[0.3, -1.0], [1.0, 0.5], [torch.nan, torch.nan]], requires_grad=True)
    rows = {
        "time_bin": torch.tensor([0, 1, -1]),
        "event": torch.tensor([1, 0, 1]),
        "weights": torch.tensor([1.0, 2, 0]),
    }
    loss = ops.discrete_hazard_nll(logits, **rows, validate=True)
    loss.backward()
    assert loss.isfinite() and logits.grad[2].tolist() == [0, 0]
    ops.deephit_loss(logits, **rows, validate=True)
    later = torch.tensor([[0.5, torch.nan]])  # a bin that the row does not read
    assert ops.discrete_hazard_nll(later, torch.tensor([0]), torch.tensor([1]), validate=True).isfinite()
    with pytest.raises(ValueError, match="logits must not be NaN, got .* in row 0"):
        ops.discrete_hazard_nll(later, torch.tensor([1]), torch.tensor([1]), validate=True)
