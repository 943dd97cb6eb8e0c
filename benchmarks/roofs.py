"""What the machine reaches with simple code, at the same number of threads as the op.

These are measured rates, not limits of the hardware: a kernel that reads ahead better than the plain read exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from survcore.benchmarks.case import Work
from survcore.benchmarks.timing import fastest


@dataclass(frozen=True)
class Roofs:
    """Rates that a kernel is held against.

    Attributes:
        operations: floating-point operations per second of the best square matrix product.
        bandwidth: bytes per second of the best read, again and again, of a buffer as large as the op's weights.
        reader: which read that was.
    """

    operations: float
    bandwidth: float
    reader: str

    def shares(self, work: Work, seconds: float) -> tuple[float, float]:
        """Shares of ``operations`` and of ``bandwidth`` that a call of so many seconds achieves."""
        return work.operations / seconds / self.operations, work.read_bytes / seconds / self.bandwidth


def matrix_product_rate(dtype: torch.dtype, device: str, seconds: float) -> float:
    """Operations per second of ``torch.matmul``, the best of square matrices of 1024, 1536 and 2048."""

    def rate(size: int) -> float:
        left, right = torch.rand(2, size, size, device=device).to(dtype)
        return 2 * size**3 / fastest(lambda: torch.matmul(left, right), device, seconds)

    return max(rate(size) for size in (1024, 1536, 2048))


def read_rate(size: int, device: str, seconds: float) -> tuple[float, str]:
    """Bytes per second at which ``size`` bytes of float32 are read, and the fastest reader: sum, dot product or max."""
    values = torch.rand(2, max(size // 8, 1), device=device)
    readers = {"sum": values.sum, "dot": lambda: torch.dot(values[0], values[1]), "max": values.amax}
    times = {name: fastest(reader, device, seconds) for name, reader in readers.items()}
    reader = min(times, key=times.__getitem__)
    return values.nbytes / times[reader], reader
