"""Functions of NumPy arrays as providers of a benchmark, and their work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survcore.benchmarks.case import LeftOut, Provider, Work


def numpy_provider(function: Callable[..., Any], most_rows: int | None = None) -> Provider:
    """A function of arrays that returns a number or an array; left out where the first array has more rows.

    Beyond that number of rows it takes too long, or too much memory, to wait for.
    """

    def provider(first: np.ndarray, *others: np.ndarray) -> Tensor:
        if most_rows is not None and len(first) > most_rows:
            raise LeftOut(f"not run above {most_rows:,} rows")
        return torch.as_tensor(np.asarray(function(first, *others), dtype=np.float64))

    return provider


def read_once(_passes: str, *arrays: np.ndarray) -> Work:
    """Every array read once: what a metric takes at least, sorts and all else left out."""
    return Work(sum(array.nbytes for array in arrays))
