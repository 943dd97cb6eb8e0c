"""info_nce against the forms in which it is written today, from a training batch to a large one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.functional import normalize as unit_vectors

from survcore.benchmarks.case import BenchmarkCase, Inputs, LeftOut, Work, leaf
from survcore.ops import info_nce
from survcore.ops.info_nce import MOST_KEPT_LOGITS

TEMPERATURE = 0.07
_MOST_LOGITS = 1 << 27  # half a gigabyte in float32, of which eager code holds several


def _inputs(dtype: torch.dtype, device: str, *, rows: int, width: int, groups: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    shape = (groups, rows, width) if groups else (rows, width)
    query = torch.randn(shape, generator=generator)
    key = 0.5 * query + torch.randn(shape, generator=generator)
    return leaf(query, dtype, device), leaf(key, dtype, device)


def _survcore(query: Tensor, key: Tensor) -> Tensor:
    return info_nce(query, key, temperature=TEMPERATURE).mean()


def _logits(query: Tensor, key: Tensor) -> Tensor:
    rows = query.shape[-2]
    if rows * rows * (len(query) if query.dim() == 3 else 1) > _MOST_LOGITS:
        raise LeftOut(f"holds several matrices of {rows} x {rows}")
    return unit_vectors(query, dim=-1) @ unit_vectors(key, dim=-1).mT / TEMPERATURE


def _eager(query: Tensor, key: Tensor) -> Tensor:
    """Two log-sum-exps and the diagonal of the logits: the fastest plain form measured."""
    logits = _logits(query, key)
    both = torch.logsumexp(logits, -1) + torch.logsumexp(logits, -2)
    return (0.5 * both - logits.diagonal(0, -2, -1)).mean()


def _clip(query: Tensor, key: Tensor) -> Tensor:
    """Two cross-entropies of the logits and their transpose, as CLIP's pseudocode and most code after it."""
    logits = _logits(query, key)
    logits = logits if logits.dim() == 3 else logits.unsqueeze(0)
    target = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:-1])
    return 0.5 * (cross_entropy(logits, target) + cross_entropy(logits.mT, target))


def _work(passes: str, query: Tensor, key: Tensor) -> Work:
    """One product makes the logits, and two more the gradients; an exponential serves a logit's row and column.

    Where logits are too many to be kept, both passes make them.
    """
    *groups, rows, width = query.shape
    pairs = rows * rows * (groups[0] if groups else 1)
    both = passes == "both"
    makings = 2 if both and rows * rows > MOST_KEPT_LOGITS else 1
    return Work(
        bytes=(4 if both else 2) * query.nbytes,
        products=(2 * makings + (4 if both else 0)) * pairs * width,
        exponentials=makings * pairs,
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
    providers={"survcore": _survcore, "eager": _eager, "clip": _clip},
    work=_work,
    table=("32 x 128", "256 x 128", "3 groups of 256 x 256", "1024 x 128", "4096 x 128"),
    bars={"4096 x 128": 90.0},
    curve=("256 x 128", "1024 x 128", "2048 x 128", "4096 x 128", "8192 x 128", "16384 x 128"),
    axis="rows",
)
