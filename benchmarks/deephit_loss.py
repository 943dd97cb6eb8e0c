"""deephit_loss against the same sums over bins in plain PyTorch, the table of all pairs of rows, and pycox."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase, Inputs, LeftOut, Provider, Work, leaf
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
    """What every form in plain PyTorch begins with: the likelihood, F as [B, C], and each row's own column."""

    def __init__(self, logits: Tensor, time_bin: Tensor, event: Tensor) -> None:
        rows, bins = logits.shape[0], logits.shape[-1]
        flat = logits.flatten(1)
        bin_of_column = torch.arange(flat.shape[1], device=logits.device) % bins
        log_p = torch.cat((flat, flat.new_zeros(rows, 1)), 1).log_softmax(1)
        self.observed = event > 0
        self.own = (event - 1).clamp(min=0) * bins + time_bin
        self.cumulative = log_p[:, :-1].exp().view(rows, -1, bins).cumsum(2).flatten(1)
        # The censored row's own bin and those before it; the column beyond the horizon is never among them.
        before = torch.nn.functional.pad(bin_of_column <= time_bin.unsqueeze(1), (0, 1))
        later = log_p.masked_fill(before, -torch.inf).logsumexp(1)
        own = log_p.gather(1, self.own.unsqueeze(1)).squeeze(1)
        self.likelihood = -torch.where(self.observed, own, later).mean()
        self.compared_bins = torch.where(self.observed, time_bin, time_bin + 1).unsqueeze(1)
        self.bin_of_column = bin_of_column


def _eager(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """The ranking term as a sum over bins: exp(F_j / sigma) of the rows compared, times exp(-F_i / sigma)."""
    terms = _Terms(logits, time_bin, event)
    compared = terms.bin_of_column < terms.compared_bins
    # 1 / sigma is small enough for one shift to do.
    sums = torch.where(compared, ((terms.cumulative - 0.5) / SIGMA).exp(), 0.0).sum(0)
    own = terms.cumulative.gather(1, terms.own.unsqueeze(1)).squeeze(1)
    ranking = torch.where(terms.observed, ((0.5 - own) / SIGMA).exp() * sums[terms.own], 0.0).sum()
    return ALPHA * terms.likelihood + (1 - ALPHA) * ranking / len(logits) ** 2


def _pairs(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """The same with a table of all pairs of rows, as it is written in the paper."""
    if len(logits) > MOST_ROWS_OF_PAIRS:
        raise LeftOut(f"a table of {len(logits)} x {len(logits)} pairs")
    terms = _Terms(logits, time_bin, event)
    others = terms.cumulative[:, terms.own]  # [j, i]
    own = terms.cumulative.gather(1, terms.own.unsqueeze(1)).squeeze(1)
    later = (time_bin < terms.compared_bins) & terms.observed
    ranking = torch.where(later, ((others - own) / SIGMA).exp(), 0.0).mean()
    return ALPHA * terms.likelihood + (1 - ALPHA) * ranking


def _compiled_pairs(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    return _compiler()(logits, time_bin, event)


@cache
def _compiler() -> Provider:
    return torch.compile(_pairs, dynamic=False)


def _pycox(logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
    """With the table of pairs that its data loader makes of each batch."""
    if len(logits) > MOST_ROWS_OF_PAIRS:
        raise LeftOut(f"a table of {len(logits)} x {len(logits)} pairs")
    if logits.dim() == 3:
        raise LeftOut("one cause only")
    if logits.dtype != torch.float32:
        raise LeftOut("float32 only")
    loss, pair_rank_mat = _pycox_functions()
    indicator = event.to(logits.dtype)
    pairs = torch.from_numpy(pair_rank_mat(time_bin.numpy(), indicator.numpy()))
    return loss(logits, time_bin, indicator, pairs)


@cache
def _pycox_functions() -> tuple[Callable[..., Tensor], Callable[..., Any]]:
    from pycox.models.data import pair_rank_mat
    from pycox.models.loss import DeepHitSingleLoss

    return DeepHitSingleLoss(ALPHA, SIGMA), pair_rank_mat


def _work(passes: str, logits: Tensor, time_bin: Tensor, event: Tensor) -> Work:
    """Two exponentials per logit and a logarithm per row; the logits must be read again for the gradient."""
    elements, rows = logits.numel(), len(logits)
    logits_bytes = elements * logits.element_size()
    columns_bytes = rows * (time_bin.element_size() + event.element_size())
    sums = 8.0 * elements  # of the softmax, of F, of the likelihood's outcomes and of the rows compared
    if passes == "forward":
        return Work(bytes=logits_bytes + columns_bytes, operations=sums, exponentials=2 * elements + rows)
    return Work(
        bytes=3 * logits_bytes + 2 * columns_bytes,
        operations=2 * sums,
        exponentials=2 * elements + rows,
        held=logits_bytes,
    )


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
        "compiled": _compiled_pairs,
        "pycox": _pycox,
    },
    work=_work,
    table=("32 x 30", "256 x 30", "1024 x 30", "4096 x 30", "4096 x 3 x 30", "1M x 30"),
    bars={"4096 x 30": 0.5},
    curve=("1k x 10", "10k x 10", "100k x 10", "1M x 10", "10M x 10"),
)
