"""discrete_hazard_nll against its reference and the form that common survival packages use."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from survcore.benchmarks.case import BenchmarkCase, Inputs, leaf
from survcore.ops import discrete_hazard_nll
from survcore.reference import discrete_hazard_nll as reference


def _inputs(dtype: torch.dtype, device: str, *, rows: int, bins: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, bins, generator=generator)
    time_bin = torch.randint(0, bins, (rows,), generator=generator)
    event = torch.randint(0, 2, (rows,), generator=generator)
    return leaf(logits, dtype, device), time_bin.to(device), event.to(device)


def _eager(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    return reference.discrete_hazard_nll(logits, time_bin, event, logits.new_empty(0))[0]


def _cross_entropy_cumsum(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """Binary cross-entropy of every bin, summed up to the row's own: the logistic hazard loss as pycox computes it."""
    own = time_bin.unsqueeze(1)
    target = torch.zeros_like(logits).scatter(1, own, event.unsqueeze(1).to(logits.dtype))
    terms = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return terms.cumsum(1).gather(1, own).mean()


CASE = BenchmarkCase(
    name="discrete_hazard_nll",
    sizes={
        "10k x 4": {"rows": 10_000, "bins": 4},
        "100k x 20": {"rows": 100_000, "bins": 20},
        "1M x 20": {"rows": 1_000_000, "bins": 20},
    },
    quick=("10k x 4", "100k x 20"),
    inputs=_inputs,
    providers={"survcore": discrete_hazard_nll, "eager": _eager, "cross_entropy_cumsum": _cross_entropy_cumsum},
)
