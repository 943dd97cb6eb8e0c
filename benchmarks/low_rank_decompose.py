"""low_rank_decompose against its reference, at a training batch and at a whole cohort."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase, Inputs, OnCuda, Work, leaf
from survcore.ops import low_rank_decompose
from survcore.reference import low_rank_decompose as reference


def _inputs(dtype: torch.dtype, device: str, *, modalities: int, rows: int, width: int, rank: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(width, rank, generator=generator) / width**0.5
    whole, specific = torch.randn(2, modalities, rows, width, generator=generator)
    cross = torch.randn(modalities, modalities, rows, width, generator=generator)
    availability = torch.rand(rows, modalities, generator=generator) < 0.8
    leaves = (leaf(value, dtype, device) for value in (basis, whole, specific, cross))
    return (*leaves, availability.to(device))


def _survcore(basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor) -> Tensor:
    parts = low_rank_decompose(basis, whole, specific, cross, availability)
    return parts.decomposition_loss + parts.shared_loss + 0.5 * parts.orthogonality_loss


def _eager(basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor) -> Tensor:
    losses = reference.low_rank_decompose(basis, whole, specific, cross, availability)[2]
    return losses[0] + losses[1] + 0.5 * losses[2]


def _work(passes: str, basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor) -> Work:
    """Two products with the basis per part that a row owns, and their two gradients; every part read, and written."""
    width, rank = basis.shape
    own = availability.double()
    parts = int((own.sum(1) ** 2).sum())
    read = whole.nbytes + specific.nbytes + cross.nbytes
    written = specific.nbytes + cross.nbytes
    forward, products = read + written, 4.0 * parts * width * rank
    return Work(forward, products=products) if passes == "forward" else Work(2 * forward + read, products=3 * products)


CASE = BenchmarkCase(
    name="low_rank_decompose",
    sizes={
        "2 modalities x 32": {"modalities": 2, "rows": 32, "width": 256, "rank": 64},
        "4 modalities x 256": {"modalities": 4, "rows": 256, "width": 256, "rank": 64},
        "2 modalities x 4096": {"modalities": 2, "rows": 4096, "width": 256, "rank": 64},
    },
    quick=("2 modalities x 32", "4 modalities x 256"),
    inputs=_inputs,
    providers={"survcore": _survcore, "eager": _eager},
    work=_work,
    cuda=OnCuda(quick=("2 modalities x 4096",)),
)
