"""Scales a gradient in place by a number that only the device knows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from survcore.kernels._launch import launch


@triton.jit
def _scale_kernel(
    gradient,  # [size]
    factor,  # one number
    size,
    BLOCK: tl.constexpr,
):
    """gradient *= factor, and nothing at all where the factor is 1, which it is for a loss that nothing was done to.

    One launch. Each program reads the factor and goes on, if at all, over every so many-th block: two passes over the
    gradient's bytes, or none.
    """
    number = tl.load(factor)
    if number != 1.0:
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, tl.num_programs(0).to(tl.int64) * BLOCK):
            position = start + tl.arange(0, BLOCK)
            inside = position < size
            tl.store(gradient + position, tl.load(gradient + position, mask=inside) * number, mask=inside)


def scale_unless_one_(gradient: Tensor, factor: Tensor) -> bool:
    """Multiply a gradient by one number of the same device, in place; False, and nothing done, where it is not dense.

    Args:
        gradient: floating, contiguous.
        factor: floating, one number.
    """
    if not gradient.is_contiguous() or factor.numel() != 1 or not gradient.is_floating_point():
        return False
    size = gradient.numel()
    block = 2048
    launch(_scale_kernel, (min(triton.cdiv(size, block), 2048),), gradient, factor, size, BLOCK=block)
    return True
