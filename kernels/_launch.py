"""The one way in which kernels are launched: tests can look at every launch without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from triton.runtime.jit import KernelInterface


@dataclass(frozen=True)
class Launch:
    """What :func:`launch` was called with."""

    kernel: KernelInterface
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


_recorded: list[Launch] | None = None


def launch(
    kernel: KernelInterface,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int = 4,
    num_stages: int = 2,
    **constants: Any,
) -> None:
    """Launch ``kernel`` on the current device and stream; nothing if the grid is empty.

    Args:
        kernel: a ``@triton.jit`` function.
        grid: programs along up to three axes.
        arguments: tensors, numbers and None, in the order of the kernel's parameters.
        num_warps, num_stages: of a program, and of its pipelined loops.
        constants: its ``tl.constexpr`` parameters.
    """
    if 0 in grid:
        return
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, arguments, constants, num_warps, num_stages))
        return
    kernel[grid](*arguments, **constants, num_warps=num_warps, num_stages=num_stages)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches within the context are listed, not made: what they would write keeps the values it had."""
    global _recorded
    previous, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = previous
