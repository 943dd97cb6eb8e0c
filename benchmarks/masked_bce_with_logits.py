"""masked_bce_with_logits against the ways in which masked reconstruction losses are written today."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from survcore.benchmarks.case import Bar, BenchmarkCase, Inputs, LeftOut, OnCuda, Work, leaf
from survcore.ops import masked_bce_with_logits

_COLUMNS = 1181  # Surv-M2AC's genes and clinical features, with the outcome's two
_LARGEST_EAGER = 1 << 17  # rows whose temporaries, of 5 KB each, fit common memories


def _inputs(dtype: torch.dtype, device: str, *, rows: int) -> Inputs:
    """Logits, binary targets as they are stored (bool), and a mask of 70 %."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, _COLUMNS, generator=generator)
    target = torch.rand(rows, _COLUMNS, generator=generator) < 0.3
    mask = torch.rand(rows, _COLUMNS, generator=generator) < 0.7
    # The others take targets in the type of the logits; they are made outside the measured time.
    return leaf(logits, dtype, device), target.to(device), target.to(device, dtype), mask.to(device)


def _survcore(logits: Tensor, target: Tensor, _: Tensor, mask: Tensor) -> Tensor:
    return masked_bce_with_logits(logits, target, mask, reduction="mean")


def _survcore_floating_target(logits: Tensor, _: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return masked_bce_with_logits(logits, target, mask, reduction="mean")


def _eager(logits: Tensor, _: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The mask as weight: the fastest plain form."""
    _fits(logits)
    return binary_cross_entropy_with_logits(logits, target, weight=mask, reduction="sum") / (mask.sum() + 1e-8)


def _times_mask(logits: Tensor, _: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """All entries' losses times the mask, as Surv-M2AC's released code has it."""
    _fits(logits)
    terms = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (terms * mask).sum() / (mask.sum() + 1e-8)


def _boolean_indexing(logits: Tensor, _: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    _fits(logits)
    return binary_cross_entropy_with_logits(logits[mask], target[mask])


def _fits(logits: Tensor) -> None:
    if logits.shape[0] > _LARGEST_EAGER:
        raise LeftOut("its temporaries need several GB")


def _work(passes: str, logits: Tensor, target: Tensor, _: Tensor, mask: Tensor) -> Work:
    entries = logits.numel()
    marks = target.element_size() + mask.element_size()
    gradients = logits.element_size() if passes == "both" else 0
    return Work(entries * (logits.element_size() + marks + gradients), exponentials=int(mask.sum()))


CASE = BenchmarkCase(
    name="masked_bce_with_logits",
    sizes={
        "32 x 1181": {"rows": 32},
        "256 x 1181": {"rows": 256},
        "1024 x 1181": {"rows": 1024},
        "4096 x 1181": {"rows": 4096},
        "16k x 1181": {"rows": 16_384},
        "100k x 1181": {"rows": 100_000},
    },
    quick=("32 x 1181", "1024 x 1181"),
    inputs=_inputs,
    providers={
        "survcore": _survcore,
        "survcore, floating target": _survcore_floating_target,
        "eager": _eager,
        "times mask": _times_mask,
        "x[mask]": _boolean_indexing,
    },
    work=_work,
    bars={"4096 x 1181": 3.0},
    cuda=OnCuda(quick=("4096 x 1181",), bars={"100k x 1181": Bar(share=0.7)}),
    table=("32 x 1181", "256 x 1181", "1024 x 1181", "4096 x 1181"),
    curve=("32 x 1181", "256 x 1181", "1024 x 1181", "4096 x 1181", "16k x 1181", "100k x 1181"),
)
