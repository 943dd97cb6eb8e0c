"""masked_mse against the ways in which masked autoencoders write their reconstruction loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from survcore.benchmarks.case import Bar, BenchmarkCase, Inputs, LeftOut, OnCuda, Work, leaf
from survcore.ops import masked_mse

_LARGEST_EAGER = 1 << 28  # values whose temporaries fit common memories


def _inputs(dtype: torch.dtype, device: str, *, rows: int, patches: int, length: int) -> Inputs:
    """Half of the patches masked, as impuTMAE has it."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(rows, patches, length, generator=generator)
    target = torch.randn(rows, patches, length, generator=generator)
    mask = torch.rand(rows, patches, generator=generator) < 0.5
    return leaf(prediction, dtype, device), target.to(device, dtype), mask.to(device)


def _eager(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean per patch, times the mask, as masked autoencoders have it."""
    if prediction.numel() > _LARGEST_EAGER:
        raise LeftOut("its temporaries need several GB")
    return (mse_loss(prediction, target, reduction="none").mean(-1) * mask).sum() / mask.sum()


def _boolean_indexing(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    if prediction.numel() > _LARGEST_EAGER:
        raise LeftOut("its temporaries need several GB")
    return mse_loss(prediction[mask], target[mask])


def _work(passes: str, prediction: Tensor, target: Tensor, mask: Tensor) -> Work:
    scored = mask.sum().item() * prediction.shape[2]
    gradients = prediction.numel() * prediction.element_size() if passes == "both" else 0
    bytes_read = scored * (prediction.element_size() + target.element_size()) + mask.numel()
    return Work(bytes_read + gradients, operations=4 * scored)


# RNA in 32 patches of 512 values, DNA methylation in 26 of 1024, whole slides in 256 of 768, MRI in 64 of 4096.
CASE = BenchmarkCase(
    name="masked_mse",
    sizes={
        "24 x RNA": {"rows": 24, "patches": 32, "length": 512},
        "24 x methylation": {"rows": 24, "patches": 26, "length": 1024},
        "24 x slide": {"rows": 24, "patches": 256, "length": 768},
        "24 x MRI": {"rows": 24, "patches": 64, "length": 4096},
        "96 x RNA": {"rows": 96, "patches": 32, "length": 512},
        "384 x RNA": {"rows": 384, "patches": 32, "length": 512},
        "1536 x RNA": {"rows": 1536, "patches": 32, "length": 512},
        "6144 x RNA": {"rows": 6144, "patches": 32, "length": 512},
    },
    quick=("24 x RNA", "24 x slide"),
    inputs=_inputs,
    providers={"survcore": masked_mse, "eager": _eager, "x[mask]": _boolean_indexing},
    work=_work,
    cuda=OnCuda(bars={"6144 x RNA": Bar(share=0.7)}),
    table=("24 x RNA", "24 x methylation", "24 x slide", "24 x MRI"),
    curve=("24 x RNA", "96 x RNA", "384 x RNA", "1536 x RNA", "6144 x RNA"),
)
