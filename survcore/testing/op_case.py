"""What a generic test needs to know of an op, and the tolerances of all ops."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Error allowed to a kernel in a dtype: twice the error of the reference in that dtype plus this floor, both against the
# reference in float64 and relative to its largest absolute value.
FLOORS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

Arguments = tuple[Any, ...]
Make = Callable[[torch.dtype], dict[str, Arguments]]


@dataclass(frozen=True)
class OpCase:
    """How to test one op.

    Attributes:
        name: the op's name, without namespace.
        reference: its plain PyTorch definition, with the op's schema.
        reference_backward: likewise for the backward op; None for an op without gradient.
        samples: dtype -> named ordinary arguments, on the CPU, finite and away from kinks.
        extremes: dtype -> named arguments at the edges of the contract: empty, infinite, out of range, absent.
        large: dtype -> arguments large enough that several threads share them.
        differentiable: positions of the arguments that have a gradient.
        differentiable_outputs: positions of the outputs that have one.
    """

    name: str
    reference: Callable[..., Any]
    reference_backward: Callable[..., Any] | None
    samples: Make
    extremes: Make
    large: Callable[[torch.dtype], Arguments]
    differentiable: tuple[int, ...]
    differentiable_outputs: tuple[int, ...]

    @property
    def op(self) -> Any:
        """``torch.ops.survcore.<name>``, default overload."""
        importlib.import_module("survcore.ops")
        return getattr(torch.ops.survcore, self.name).default

    @property
    def function(self) -> Callable[..., Any]:
        """The op with its gradient, if it has one, as the public function calls it."""
        return importlib.import_module(f"survcore.ops.{self.name}").__dict__.get("_apply", self.op)

    def backward_arguments(
        self, arguments: Arguments, outputs: tuple[Tensor, ...], cotangents: Iterable[Tensor]
    ) -> Arguments:
        """Arguments of the backward op, matched by the names in the two schemas."""
        names = [argument.name for argument in self.op._schema.arguments]
        output_names = [output.name for output in self.op._schema.returns]
        known = dict(zip(names, arguments, strict=True)) | dict(zip(output_names, outputs, strict=True))
        backward = getattr(torch.ops.survcore, f"{self.name}_backward").default
        gradients = iter(cotangents)
        return tuple(
            next(gradients) if argument.name.startswith("grad_") else known[argument.name]
            for argument in backward._schema.arguments
        )


def tolerance(oracle: Tensor, reference: Tensor, dtype: torch.dtype) -> float:
    """Absolute error allowed to a kernel, given float64 oracle and the reference computed in ``dtype``."""
    finite = oracle.isfinite() & reference.isfinite()
    if not finite.any():
        return 0.0
    error = (reference.double() - oracle)[finite].abs().max().item()
    return 2.0 * error + FLOORS[dtype] * oracle[finite].abs().max().item()


def assert_close_to_oracle(actual: Tensor, oracle: Tensor, reference: Tensor, dtype: torch.dtype, what: str) -> None:
    """Raise AssertionError unless ``actual`` is as good as plain code in ``dtype``, NaN and infinities included."""
    actual, oracle, reference = (tensor.detach().cpu() for tensor in (actual, oracle, reference))
    assert actual.shape == oracle.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    assert torch.equal(actual.isnan(), oracle.isnan()), f"{what}: NaN in other places than the reference"
    # Where the narrower dtype overflows, the reference in that dtype says so.
    infinite = reference.isinf()
    assert torch.equal(actual.double()[infinite], reference.double()[infinite]), f"{what}: infinities differ"
    finite = oracle.isfinite() & ~infinite
    error = (actual.double() - oracle)[finite].abs().max().item() if finite.any() else 0.0
    allowed = tolerance(oracle, reference, dtype)
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g} in {dtype}"


def convert(arguments: Arguments, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Arguments:
    """The arguments with their floating tensors in ``dtype`` and all tensors on ``device``."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype) if dtype is not None and value.is_floating_point() else value.to(device)

    return tuple(one(value) for value in arguments)
