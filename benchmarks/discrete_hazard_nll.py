"""discrete_hazard_nll against plain PyTorch, pycox's logistic hazard loss and the form of MCAT and PORPOISE."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from survcore.benchmarks.case import Bar, BenchmarkCase, Inputs, LeftOut, OnCuda, Work, leaf
from survcore.ops import discrete_hazard_nll

# Of pycox and the form of MCAT, which take seconds per call above it, and the latter 700 MB per million rows.
MOST_ROWS = 4_000_000


def _inputs(dtype: torch.dtype, device: str, *, rows: int, bins: int) -> Inputs:
    """Hazards of about one in eight, time bins, and events in the logits' dtype, which pycox asks for."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, bins, generator=generator) - 2.0
    time_bin = torch.randint(0, bins, (rows,), generator=generator)
    event = torch.randint(0, 2, (rows,), generator=generator)
    return leaf(logits, dtype, device), time_bin.to(device), event.to(device, dtype)


def _eager(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """Binary cross-entropy with weight 0 after the row's own bin: the fastest form in plain PyTorch."""
    own = time_bin.unsqueeze(1)
    target = torch.zeros_like(logits).scatter_(1, own, event.unsqueeze(1))
    weight = (torch.arange(logits.shape[1], device=logits.device) <= own).to(logits.dtype)
    return binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum") / len(logits)


def _pycox(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    from pycox.models.loss import nll_logistic_hazard

    _refuse_above_most_rows(logits)
    return nll_logistic_hazard(logits, time_bin, event)


def _mcat(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """Survival as a running product of 1 - hazard, its logarithm taken where the row ends, clamped at 1e-7."""
    _refuse_above_most_rows(logits)
    own = time_bin.unsqueeze(1)
    hazard = torch.sigmoid(logits)
    survival = torch.cumprod(1 - hazard, dim=1)
    survival = torch.cat((torch.ones_like(survival[:, :1]), survival), dim=1)

    def log_at(values: Tensor, position: Tensor) -> Tensor:
        return values.gather(1, position).clamp(min=1e-7).log().squeeze(1)

    observed = log_at(survival, own) + log_at(hazard, own)
    censored = log_at(survival, own + 1)
    return -(event * observed + (1 - event) * censored).mean()


def _refuse_above_most_rows(logits: Tensor) -> None:
    if len(logits) > MOST_ROWS:
        raise LeftOut(f"not run above {MOST_ROWS:,} rows")


def _work(passes: str, logits: Tensor, time_bin: Tensor, event: Tensor) -> Work:
    """Every input once, the gradient once; an exponential for each bin that a row reads."""
    moved = sum(value.numel() * value.element_size() for value in (logits, time_bin, event))
    if passes == "both":
        moved += logits.numel() * logits.element_size()
    return Work(bytes=moved, exponentials=float(time_bin.sum() + len(time_bin)))


CASE = BenchmarkCase(
    name="discrete_hazard_nll",
    sizes={
        "32 x 4": {"rows": 32, "bins": 4},
        "256 x 4": {"rows": 256, "bins": 4},
        "1k x 4": {"rows": 1_024, "bins": 4},
        "256 x 20": {"rows": 256, "bins": 20},
        "10k x 4": {"rows": 10_000, "bins": 4},
        "1M x 4": {"rows": 1_000_000, "bins": 4},
        "1k x 20": {"rows": 1_000, "bins": 20},
        "10k x 20": {"rows": 10_000, "bins": 20},
        "100k x 20": {"rows": 100_000, "bins": 20},
        "1M x 20": {"rows": 1_000_000, "bins": 20},
        "10M x 20": {"rows": 10_000_000, "bins": 20},
    },
    quick=("32 x 4", "10k x 4", "100k x 20"),
    inputs=_inputs,
    providers={"survcore": discrete_hazard_nll, "eager": _eager, "pycox": _pycox, "MCAT's form": _mcat},
    work=_work,
    table=("32 x 4", "256 x 4", "1k x 4", "256 x 20", "10k x 4", "10k x 20", "1M x 4", "1M x 20", "10M x 20"),
    bars={"10k x 4": 0.06, "1M x 20": 12.0},
    cuda=OnCuda(quick=("1M x 20",), bars={"10M x 20": Bar(share=0.7)}),
    curve=("1k x 20", "10k x 20", "100k x 20", "1M x 20", "10M x 20"),
)
