"""info_nce against the forms in which it is written today, from a training batch to a large one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.functional import normalize as unit_vectors

from survcore.benchmarks.case import Bar, BenchmarkCase, Inputs, LeftOut, OnCuda, Work, leaf
from survcore.ops import info_nce

TEMPERATURE = 0.07
_MOST_ROWS = 8192  # of the slower forms
_MOST_LOGITS = 1 << 28  # a gigabyte in float32, of which eager code holds several


def _inputs(dtype: torch.dtype, device: str, *, rows: int, width: int, groups: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    shape = (groups, rows, width) if groups else (rows, width)
    query = torch.randn(shape, generator=generator)
    key = 0.5 * query + torch.randn(shape, generator=generator)
    return leaf(query, dtype, device), leaf(key, dtype, device)


def _survcore(query: Tensor, key: Tensor) -> Tensor:
    return info_nce(query, key, temperature=TEMPERATURE).mean()


def _fits(query: Tensor) -> None:
    rows = query.shape[-2]
    if rows * rows * (len(query) if query.dim() == 3 else 1) > _MOST_LOGITS:
        raise LeftOut(f"holds several matrices of {rows} x {rows}")


def _eager(query: Tensor, key: Tensor) -> Tensor:
    """Logits of unit vectors are at most 1 / temperature: shifted by it, one exponential serves a row and a column.

    The fastest plain form; it underflows at small temperatures.
    """
    _fits(query)
    query, key = unit_vectors(query, dim=-1) / TEMPERATURE, unit_vectors(key, dim=-1)
    terms = (query @ key.mT - 1 / TEMPERATURE).exp()
    others = 0.5 * (terms.sum(-1).log() + terms.sum(-2).log()) + 1 / TEMPERATURE
    return (others - (query * key).sum(-1)).mean()


def _log_sum_exp(query: Tensor, key: Tensor) -> Tensor:
    """Two log-sum-exps and the diagonal of the logits: right at every temperature."""
    if query.shape[-2] > _MOST_ROWS:
        raise LeftOut(f"not run above {_MOST_ROWS} rows")
    logits = _logits(query, key)
    both = torch.logsumexp(logits, -1) + torch.logsumexp(logits, -2)
    return (0.5 * both - logits.diagonal(0, -2, -1)).mean()


def _logits(query: Tensor, key: Tensor) -> Tensor:
    _fits(query)
    return unit_vectors(query, dim=-1) @ unit_vectors(key, dim=-1).mT / TEMPERATURE


def _clip(query: Tensor, key: Tensor) -> Tensor:
    """Two cross-entropies of the logits and their transpose, as CLIP's pseudocode and most code after it."""
    if query.shape[-2] > _MOST_ROWS:
        raise LeftOut(f"not run above {_MOST_ROWS} rows")
    logits = _logits(query, key)
    logits = logits if logits.dim() == 3 else logits.unsqueeze(0)
    target = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:-1])
    return 0.5 * (cross_entropy(logits, target) + cross_entropy(logits.mT, target))


def _work(passes: str, query: Tensor, key: Tensor) -> Work:
    """One product makes the logits, two more the gradients; an exponential serves a logit's row and column."""
    *groups, rows, width = query.shape
    pairs = rows * rows * (groups[0] if groups else 1)
    both = passes == "both"
    return Work(
        bytes=(4 if both else 2) * query.nbytes, products=(6 if both else 2) * pairs * width, exponentials=pairs
    )


CASE = BenchmarkCase(
    name="info_nce",
    sizes={
        "32 x 128": {"rows": 32, "width": 128},
        "256 x 128": {"rows": 256, "width": 128},
        "3 groups of 256 x 256": {"groups": 3, "rows": 256, "width": 256},
        "10 groups of 32 x 128": {"groups": 10, "rows": 32, "width": 128},
        "1024 x 128": {"rows": 1024, "width": 128},
        "1024 x 512": {"rows": 1024, "width": 512},
        "2048 x 128": {"rows": 2048, "width": 128},
        "4096 x 128": {"rows": 4096, "width": 128},
        "8192 x 128": {"rows": 8192, "width": 128},
        "16384 x 128": {"rows": 16384, "width": 128},
    },
    quick=("32 x 128", "1024 x 128"),
    inputs=_inputs,
    providers={"survcore": _survcore, "eager": _eager, "log-sum-exp": _log_sum_exp, "clip": _clip},
    work=_work,
    table=("32 x 128", "256 x 128", "3 groups of 256 x 256", "1024 x 128", "4096 x 128"),
    bars={"4096 x 128": 90.0},
    # Half the rate of a matrix product over the 8 B^2 D operations of the kernels, whose backward pass makes the logits
    # again, is .375 over the 6 that ``work`` counts.
    cuda=OnCuda(
        sizes={"16384 x 512": {"rows": 16384, "width": 512}},
        quick=("4096 x 128",),
        bars={("16384 x 512", "bfloat16"): Bar(share=0.375)},
    ),
    curve=("256 x 128", "1024 x 128", "2048 x 128", "4096 x 128", "8192 x 128", "16384 x 128"),
    axis="rows",
)
