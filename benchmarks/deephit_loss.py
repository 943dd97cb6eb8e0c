"""deephit_loss against the same sums over bins in plain PyTorch, the table of all pairs of rows, and pycox."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase, Inputs, LeftOut, OnCuda, Provider, Work, leaf
from survcore.ops import deephit_loss

ALPHA, SIGMA = 0.2, 0.1
# Of the forms that make a table of all pairs: it takes gigabytes, and minutes, beyond.
MOST_ROWS_OF_PAIRS = 16_384


def _inputs(dtype: torch.dtype, device: str, *, rows: int, bins: int, causes: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    shape = (rows, bins) if causes == 1 else (rows, causes, bins)
    logits = torch.randn(shape, generator=generator)
    time_bin = torch.randint(bins, (rows,), generator=generator)
    event = torch.randint(causes + 1, (rows,), generator=generator)
    return leaf(logits, dtype, device), time_bin.to(device), event.to(device)


def _survcore(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    return deephit_loss(logits, time_bin, event, alpha=ALPHA, sigma=SIGMA)


class _Terms:
    """What every form in plain PyTorch begins with: the likelihood, F as [B, R, K], and each row's own column."""

    def __init__(self, logits: Tensor, time_bin: Tensor, event: Tensor) -> None:
        rows, bins = logits.shape[0], logits.shape[-1]
        flat = logits.flatten(1)
        p = torch.cat((flat, flat.new_zeros(rows, 1)), 1).softmax(1)
        by_cause = p[:, :-1].view(rows, -1, bins)
        bin_of = torch.arange(bins, device=logits.device)
        own_bin = time_bin.view(-1, 1, 1)
        self.observed = event > 0
        self.own = (event - 1).clamp(min=0) * bins + time_bin
        self.cumulative = by_cause.cumsum(2)
        own = self.own.unsqueeze(1)
        later = (by_cause * (bin_of > own_bin)).sum((1, 2)) + p[:, -1]
        self.likelihood = -torch.where(self.observed, p.gather(1, own).squeeze(1), later).log().mean()
        self.of_own = self.cumulative.flatten(1).gather(1, own).squeeze(1)
        # Compared at bins before the own one, after censoring at that too.
        self.compared_before = torch.where(self.observed, time_bin, time_bin + 1)


def _eager(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """The ranking term as a sum over bins: exp(F_j / sigma) of the rows compared, times exp(-F_i / sigma)."""
    terms = _Terms(logits, time_bin, event)
    compared = torch.arange(logits.shape[-1], device=logits.device) < terms.compared_before.view(-1, 1, 1)
    # 1 / sigma is small enough for one shift to do.
    sums = (((terms.cumulative - 0.5) / SIGMA).exp() * compared).sum(0).flatten()
    ranking = (((0.5 - terms.of_own) / SIGMA).exp() * sums[terms.own] * terms.observed).sum()
    return ALPHA * terms.likelihood + (1 - ALPHA) * ranking / len(logits) ** 2


def _pairs(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """The same with a table of all pairs of rows, as it is written in the paper."""
    _refuse_above_most_rows(logits)
    terms = _Terms(logits, time_bin, event)
    others = terms.cumulative.flatten(1)[:, terms.own]  # [j, i]
    later = (time_bin < terms.compared_before.unsqueeze(1)) & terms.observed
    ranking = torch.where(later, ((others - terms.of_own) / SIGMA).exp(), 0.0).mean()
    return ALPHA * terms.likelihood + (1 - ALPHA) * ranking


def _refuse_above_most_rows(logits: Tensor) -> None:
    if len(logits) > MOST_ROWS_OF_PAIRS:
        raise LeftOut(f"a table of {len(logits)} x {len(logits)} pairs")


def _compiled_pairs(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    return _compiler()(logits, time_bin, event)


@cache
def _compiler() -> Provider:
    return torch.compile(_pairs, dynamic=False)


def _pycox(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """With the table of pairs that its data loader makes of each batch."""
    _refuse_above_most_rows(logits)
    if logits.dtype != torch.float32:
        raise LeftOut("float32 only")
    single, several, pair_rank_mat = _pycox_functions()
    if logits.dim() == 2:
        indicator = event.to(logits.dtype)
        pairs = torch.from_numpy(pair_rank_mat(time_bin.numpy(), indicator.numpy()))
        return single(logits, time_bin, indicator, pairs)
    pairs = torch.from_numpy(pair_rank_mat(time_bin.numpy(), (event > 0).to(logits.dtype).numpy()))
    return several(logits, time_bin, event, pairs)


@cache
def _pycox_functions() -> tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Any]]:
    from pycox.models.data import pair_rank_mat
    from pycox.models.loss import DeepHitLoss, DeepHitSingleLoss

    return DeepHitSingleLoss(ALPHA, SIGMA), DeepHitLoss(ALPHA, SIGMA), pair_rank_mat


def _work(passes: str, logits: Tensor, time_bin: Tensor, event: Tensor) -> Work:
    """An exponential per logit, one per bin that a row is compared at, two per row.

    The gradient needs the sums over all rows first: the logits are read twice for it.
    """
    causes = logits.shape[1] if logits.dim() == 3 else 1
    compared = causes * int((time_bin + (event == 0)).clamp(max=logits.shape[-1]).sum())
    columns = time_bin.nbytes + event.nbytes
    exponentials = logits.numel() + compared + 2 * len(logits)
    if passes == "forward":
        return Work(logits.nbytes + columns, operations=4.0 * logits.numel(), exponentials=exponentials)
    bytes_moved = 3 * logits.nbytes + 2 * columns
    return Work(bytes_moved, operations=8.0 * logits.numel(), exponentials=exponentials, held=logits.nbytes)


CASE = BenchmarkCase(
    name="deephit_loss",
    sizes={
        "32 x 30": {"rows": 32, "bins": 30},
        "256 x 30": {"rows": 256, "bins": 30},
        "1024 x 30": {"rows": 1_024, "bins": 30},
        "4096 x 30": {"rows": 4_096, "bins": 30},
        "4096 x 2 x 30": {"rows": 4_096, "bins": 30, "causes": 2},
        "4096 x 3 x 30": {"rows": 4_096, "bins": 30, "causes": 3},
        "1M x 30": {"rows": 1_000_000, "bins": 30},
        "1k x 10": {"rows": 1_000, "bins": 10},
        "10k x 10": {"rows": 10_000, "bins": 10},
        "100k x 10": {"rows": 100_000, "bins": 10},
        "1M x 10": {"rows": 1_000_000, "bins": 10},
        "10M x 10": {"rows": 10_000_000, "bins": 10},
    },
    quick=("32 x 30", "1024 x 30"),
    inputs=_inputs,
    providers={
        "survcore": _survcore,
        "eager": _eager,
        "all pairs": _pairs,
        "all pairs, compiled": _compiled_pairs,
        "pycox": _pycox,
    },
    work=_work,
    table=("32 x 30", "256 x 30", "1024 x 30", "4096 x 30", "4096 x 3 x 30", "1M x 30"),
    bars={"4096 x 30": 0.5},
    cuda=OnCuda(quick=("4096 x 30",)),
    curve=("1k x 10", "10k x 10", "100k x 10", "1M x 10", "10M x 10"),
)
