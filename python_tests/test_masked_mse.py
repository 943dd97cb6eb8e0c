"""The public face of masked_mse: impuTMAE's loss written out, marks of patients and patches, errors that say where."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from survcore.losses import MaskedMSE
from survcore.ops import masked_mse, pack_bits

GENERATOR = torch.Generator().manual_seed(4)
PREDICTION = torch.randn(5, 9, 12, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.randn(5, 9, 12, generator=GENERATOR, dtype=torch.float64)
MASK = torch.rand(5, 9, generator=GENERATOR) < 0.5
PRESENT = torch.tensor([True, False, True, True, False])


def _written_out(scored: Tensor) -> float:
    per_patch = (PREDICTION - TARGET).square().mean(-1)
    return ((per_patch * scored).sum() / scored.sum()).item()


def test_imputmae_written_out() -> None:
    """Mean over the masked patches of the patients who have the modality."""
    expected = _written_out(MASK & PRESENT.unsqueeze(1))
    assert masked_mse(PREDICTION, TARGET, MASK, observed=PRESENT).item() == pytest.approx(expected, rel=1e-14)
    by_patch = PRESENT.unsqueeze(1).expand(-1, 9)
    assert masked_mse(PREDICTION, TARGET, MASK, observed=by_patch).item() == pytest.approx(expected, rel=1e-14)


def test_positions_and_bits() -> None:
    assert masked_mse(PREDICTION, TARGET, MASK, positions="visible").item() == pytest.approx(_written_out(~MASK))
    assert masked_mse(PREDICTION, TARGET, positions="all").item() == pytest.approx(_written_out(torch.ones_like(MASK)))
    assert torch.equal(masked_mse(PREDICTION, TARGET, pack_bits(MASK)), masked_mse(PREDICTION, TARGET, MASK))


def test_gradient_scaled_and_repeated() -> None:
    prediction = PREDICTION.clone().requires_grad_()
    expected = 2 * (PREDICTION - TARGET) * MASK.unsqueeze(-1) / (12 * MASK.sum())
    loss = masked_mse(prediction, TARGET, MASK)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(loss, prediction, retain_graph=True)[0], expected)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, prediction)[0], 3 * expected)


def test_absent_patients_are_never_read() -> None:
    prediction = torch.where(PRESENT.view(5, 1, 1), PREDICTION, math.nan).requires_grad_()
    loss = masked_mse(prediction, TARGET, MASK, observed=PRESENT, validate=True)
    loss.backward()
    assert loss.item() == pytest.approx(_written_out(MASK & PRESENT.unsqueeze(1)))
    assert (prediction.grad[~PRESENT] == 0).all()


def test_module_is_the_function_and_compiles() -> None:
    module = MaskedMSE(positions="visible")
    prediction = PREDICTION.clone().requires_grad_()
    expected = masked_mse(prediction, TARGET, MASK, observed=PRESENT, positions="visible")
    assert torch.equal(module(prediction, TARGET, MASK, PRESENT), expected) and "visible" in repr(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    gradient = torch.autograd.grad(compiled(prediction, TARGET, MASK, PRESENT), prediction)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, prediction)[0])
    torch._dynamo.reset()


def test_empty_batch_keeps_the_graph() -> None:
    prediction = torch.empty(0, 3, 4, requires_grad=True)
    loss = masked_mse(prediction, torch.empty(0, 3, 4), torch.empty(0, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0 and prediction.grad.shape == (0, 3, 4)


NAN = TARGET.clone()
NAN[3, 4, 5] = math.nan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prediction": PREDICTION[0]}, ValueError, r"prediction must be \[B, P, L\]"),
        ({"prediction": PREDICTION.long()}, TypeError, "prediction must be floating"),
        ({"target": TARGET.long()}, TypeError, "target must be floating"),
        ({"target": TARGET[:4]}, ValueError, r"shape of the prediction, \(5, 9, 12\), got \(4, 9, 12\)"),
        ({"target": TARGET.to("meta")}, ValueError, "target is on meta, prediction on cpu"),
        ({"mask": MASK[:, :8]}, ValueError, r"mask must have the shape of patches, \(5, 9\).* got \(5, 8\)"),
        ({"mask": MASK.float()}, TypeError, "mask must be bool or uint8"),
        ({"mask": None}, ValueError, "mask may be None"),
        ({"observed": PRESENT[:3]}, ValueError, "observed must have the shape of patches"),
        ({"positions": "hidden"}, ValueError, "'masked', 'visible' or 'all'"),
        ({"target": NAN, "mask": torch.ones_like(MASK), "validate": True}, ValueError, "target .* row 3, patch 4"),
    ],
)
def test_errors_say_what_was_expected_and_where(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"prediction": PREDICTION, "target": TARGET, "mask": MASK} | change
    with pytest.raises(error, match=message):
        masked_mse(**arguments)


CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
NONE = torch.empty(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: PREDICTION[0]}, "prediction must be"),
        ({1: TARGET[:, :3]}, "target must have the shape"),
        ({2: MASK[:3]}, "mask must have the rows"),
        ({3: MASK.to("meta")}, "observed must be on the device"),
        ({4: "hidden"}, "positions must be"),
    ],
)
def test_kernel_checks_its_arguments(change: dict[int, object], message: str) -> None:
    arguments = [PREDICTION, TARGET, MASK, NONE, "masked", True]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.survcore.masked_mse.default.redispatch(CPU, *arguments)
