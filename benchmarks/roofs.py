"""What the machine reaches with simple code, at the same number of threads as the op.

These are measured rates, not limits of the hardware: a kernel whose data stay in a cache, or whose exponentials are
cheaper than PyTorch's, exceeds them.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from survcore.benchmarks.case import Work
from survcore.benchmarks.timing import fastest

# Bytes read and written by a copy, and sizes of square products, which a GPU needs larger.
_COPIES = {"cpu": tuple(2**power for power in range(18, 29, 2)), "cuda": tuple(2**power for power in range(18, 33, 2))}
_PRODUCTS = {"cpu": (1024, 1536, 2048), "cuda": (2048, 4096, 8192)}


@dataclass(frozen=True)
class Roofs:
    """Rates that a kernel is held against.

    Attributes:
        copies: (bytes, bytes per second) of copies of rising size; bytes read and written both count.
        operations: fused multiply-adds in registers, in floating-point operations per second; None: not measured.
        products: floating-point operations per second of the best square matrix product.
        exponentials: per second, by ``torch.exp`` of values that lie in a cache; None: not measured (on a GPU it waits
            for memory).
    """

    copies: tuple[tuple[int, float], ...]
    operations: float | None
    products: float
    exponentials: float | None

    def copy_rate(self, size: float) -> float:
        """Bytes per second of a copy of that many bytes, between those measured by their logarithms."""
        (below, rate), *others = self.copies
        for above, next_rate in others:
            if size <= above:
                share = max(0.0, math.log(size / below) / math.log(above / below)) if size > 0 else 0.0
                return rate ** (1 - share) * next_rate**share
            below, rate = above, next_rate
        return rate

    def floor(self, work: Work) -> tuple[float, str]:
        """Seconds that the work takes at least at these rates, and which of them it is that sets the floor."""
        times = {
            "bytes": work.bytes / self.copy_rate(work.bytes if work.held is None else work.held),
            "operations": work.operations / self.operations if self.operations else 0.0,
            "products": work.products / self.products,
            "exponentials": work.exponentials / self.exponentials if self.exponentials else 0.0,
        }
        roof = max(times, key=times.__getitem__)
        return times[roof], roof


def measure_roofs(dtype: torch.dtype, device: str, seconds: float) -> Roofs:
    """The rates of this machine, about ``seconds`` for each; operations and exponentials in float32 or float64."""
    real = torch.float64 if dtype == torch.float64 else torch.float32
    operations, exponentials = None, None
    if device == "cpu":
        values = torch.rand(2**18, dtype=real)
        results = torch.empty_like(values)
        exponentials = values.numel() / fastest(lambda: torch.exp(values, out=results), device, seconds)
        operations = _operation_rate(real, seconds)
    return Roofs(copy_rates(device, seconds), operations, product_rate(dtype, device, seconds), exponentials)


def copy_rates(device: str, seconds: float) -> tuple[tuple[int, float], ...]:
    """(bytes, bytes per second) of copies; bytes read and written both count."""
    return tuple((size, _copy_rate(size, device, seconds)) for size in _COPIES[device])


def product_rate(dtype: torch.dtype, device: str, seconds: float) -> float:
    """Floating-point operations per second of the best square matrix product."""

    def rate(size: int) -> float:
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        return 2 * size**3 / fastest(lambda: torch.matmul(left, right), device, seconds)

    return max(rate(size) for size in _PRODUCTS[device])


def _copy_rate(size: int, device: str, seconds: float) -> float:
    source, target = torch.rand(2, size // 8, device=device)
    return size / fastest(lambda: target.copy_(source), device, seconds)


def _operation_rate(real: torch.dtype, seconds: float) -> float:
    from survcore import _roofs

    measure = _roofs.fma_rate_double if real == torch.float64 else _roofs.fma_rate_float
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(measure, [seconds] * threads))
