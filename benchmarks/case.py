"""What a benchmark of an op consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class BenchmarkCase:
    """One op against its rivals, forward and backward.

    Attributes:
        name: the op.
        sizes: name -> keyword arguments of ``inputs``.
        quick: names of the sizes that a quick run takes.
        inputs: ``(dtype, device, **size)`` -> arguments of every provider; those that require a gradient are leaves.
        providers: name -> function of the inputs that returns a scalar loss. "survcore" is the op, "eager" its
            reference in plain PyTorch, which also makes the oracle; "compiled" is added by the runner.
    """

    name: str
    sizes: dict[str, dict[str, int]]
    quick: tuple[str, ...]
    inputs: Callable[..., Inputs]
    providers: dict[str, Callable[..., Tensor]]


def leaf(value: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """``value`` as a leaf that collects a gradient."""
    return value.to(device, dtype).requires_grad_()
