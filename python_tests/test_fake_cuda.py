"""Every op on fake CUDA tensors, where there is no GPU: dispatch, shapes, types, devices, and graphs of them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import survcore.ops  # noqa: F401 (loads and registers the ops)
from survcore import _library
from survcore.testing import OP_CASES, OpCase

CASES = [pytest.param(case, id=case.name) for case in OP_CASES.values()]
BACKWARD = [parameter for parameter in CASES if parameter.values[0].differentiable]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def _fake(value: Any) -> Any:
    """A fake CUDA tensor of the same shape, strides and type; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


def _as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _facts(tensors: tuple[Tensor, ...]) -> list[tuple[Any, ...]]:
    return [(tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors]


def _backward_arguments(case: OpCase, arguments: tuple, outputs: tuple[Tensor, ...]) -> tuple:
    """With gradients of ones."""
    cotangents = [torch.ones_like(outputs[position]) for position in case.differentiable_outputs]
    return case.backward_arguments(arguments, outputs, cotangents)


@pytest.mark.parametrize("name", _library.op_names())
def test_every_op_is_served_on_cuda(name: str) -> None:
    assert _library.has_kernel(name, "CUDA")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_cpu(case: OpCase, dtype: torch.dtype) -> None:
    for arguments in case.samples(dtype).values():
        expected = _facts(_as_tuple(case.op(*arguments)))
        with FakeTensorMode():
            outputs = _as_tuple(case.op(*map(_fake, arguments)))
            assert _facts(outputs) == expected
            assert all(output.device == torch.device("cuda", 0) for output in outputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", BACKWARD)
def test_gradients_are_those_of_the_cpu(case: OpCase, dtype: torch.dtype) -> None:
    backward = getattr(torch.ops.survcore, f"{case.name}_backward").default
    for arguments in list(case.samples(dtype).values())[:4]:
        outputs = _as_tuple(case.op(*arguments))
        expected = _facts(_as_tuple(backward(*_backward_arguments(case, arguments, outputs))))
        with FakeTensorMode():
            moved = tuple(map(_fake, arguments))
            gradients = _as_tuple(backward(*_backward_arguments(case, moved, _as_tuple(case.op(*moved)))))
            assert _facts(gradients) == expected
            assert all(gradient.device.type == "cuda" for gradient in gradients)


@pytest.mark.parametrize("case", BACKWARD)
def test_graph_holds_the_ops_themselves(case: OpCase) -> None:
    """What is traced for a GPU is one node for the forward pass, not what its kernel is made of."""
    arguments = next(iter(case.samples(torch.float32).values()))
    with FakeTensorMode() as mode:
        moved = tuple(map(_fake, arguments))
        tensors = [value for value in moved if isinstance(value, Tensor)]

        def call(*values: Tensor) -> tuple[Tensor, ...]:
            given = iter(values)
            return _as_tuple(case.op(*(next(given) if isinstance(value, Tensor) else value for value in moved)))

        with mode:
            graph = make_fx(call)(*tensors)
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert case.op in called
    assert not [target for target in called if "aten.mm" in str(target) or "aten.exp" in str(target)]


@pytest.mark.parametrize(
    ("kernel", "served_by"),
    [
        (lambda *arguments: ("kernel", *arguments), "kernel"),
        (lambda *_: NotImplemented, "reference"),
        (None, "reference"),
    ],
    ids=["serves", "declines", "does not load"],
)
def test_triton_kernel_or_reference(kernel: Any, served_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs on the device of the first CUDA tensor; the reference serves what it declines."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: current.append(device) or nullcontext())
    monkeypatch.setattr(_library, "_triton_kernel", {"some_op": kernel}.__getitem__)
    serve = _library._triton_or(lambda *arguments: ("reference", *arguments), "some_op")
    with FakeTensorMode():
        arguments = (torch.ones(2), None, torch.ones(3, device="cuda:1"), torch.ones(4, device="cuda:0"), "sum")
    assert serve(*arguments) == (served_by, *arguments)
    assert current == ([torch.device("cuda", 1)] if kernel else [])
