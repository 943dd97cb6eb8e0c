"""What a benchmark of an op consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]
Provider = Callable[..., Tensor]


class LeftOut(Exception):
    """Raised by a provider where it has nothing to offer: what a rival does not serve, or takes too long for."""


@dataclass(frozen=True)
class Work:
    """What one call must do, whoever does it.

    Attributes:
        operations: floating-point operations of its matrix products.
        read_bytes: bytes of weights that it reads at least.
        weight_bytes: bytes that these weights take up.
    """

    operations: float
    read_bytes: float
    weight_bytes: int


@dataclass(frozen=True)
class BenchmarkCase:
    """One op against its rivals: forward and backward, or forward alone if no input requires a gradient.

    Attributes:
        name: the op.
        sizes: name -> keyword arguments of ``inputs``; the first is the one that context and latency are measured at.
        quick: names of the sizes that a quick run takes.
        inputs: ``(dtype, device, **size)`` -> arguments of every provider, tensors or tuples of them; those that
            require a gradient are leaves.
        providers: name -> function of the inputs that returns a scalar loss, or [rows, D] if there is no gradient.
            "survcore" is ours, "eager" the same in plain PyTorch; "compiled" is added by the runner where there is
            "eager" and the case has none of its own.
        context: more providers, which are no rivals: they are timed at the first size, among themselves.
        oracle: the provider whose result in float64 the others must agree with.
        oracles: provider -> another oracle of its own.
        work: function of the inputs; what survcore does is held against the machine's roofs. None: it is not.
        dtype: of the floating inputs where that is not for the caller to choose.
        latency: providers that are timed alone, call by call, on an idle machine and beside a busy neighbour.
    """

    name: str
    sizes: dict[str, dict[str, int]]
    quick: tuple[str, ...]
    inputs: Callable[..., Inputs]
    providers: dict[str, Provider]
    context: dict[str, Provider] = field(default_factory=dict)
    oracle: str = "eager"
    oracles: dict[str, str] = field(default_factory=dict)
    work: Callable[..., Work] | None = None
    dtype: torch.dtype | None = None
    latency: tuple[str, ...] = ()


def leaf(value: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """``value`` as a leaf that collects a gradient."""
    return value.to(device, dtype).requires_grad_()


def leaves(inputs: Inputs) -> list[Tensor]:
    """The inputs that require a gradient."""
    return [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every tensor changed, in tuples too."""
    if isinstance(value, Tensor):
        return change(value)
    if not isinstance(value, tuple):
        return value
    parts = [mapped(change, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
