"""Depth-wise convolution over a grid or a sequence whose kernel has a fast gradient on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Columns of the grid per matrix product: wider ones compute more than the gradient needs, narrower ones are slow.
_COLUMNS = 32


def depthwise_convolution(image: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Every channel convolved with a kernel of its own, without padding: [D, H - h + 1, W - w + 1].

    Args:
        image: [D, H, W]; a sequence has H = 1.
        kernel: [D, h, w].
        bias: [D], or None.
    """
    if image.device.type != "cpu":
        return _convolved(image, kernel, bias)
    # Reading and writing the image takes the time: narrower products gain nothing, and few CPUs have them.
    with torch.autocast("cpu", enabled=False):
        return _DepthwiseConvolution.apply(image.to(kernel.dtype), kernel, bias)


class _DepthwiseConvolution(torch.autograd.Function):
    """PyTorch's own gradient of the kernel takes 5 to 20 times as long as the convolution itself on a CPU."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        # The convolution of channels that lie beside each other is slower.
        return _convolved(image.contiguous(), kernel, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        image, kernel, bias = inputs
        ctx.save_for_backward(image, kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        image, kernel = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_image = of_kernel = of_bias = None
        if ctx.needs_input_grad[0]:
            above, left = kernel.shape[1] - 1, kernel.shape[2] - 1
            padded = functional.pad(gradient, (left, left, above, above))
            of_image = _convolved(padded, kernel.flip(1, 2))
        if ctx.needs_input_grad[1]:
            of_kernel = _kernel_gradient(image.contiguous(), gradient, *kernel.shape[1:])
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((1, 2))
        return of_image, of_kernel, of_bias


def _convolved(image: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.conv2d(image.unsqueeze(0), kernel.unsqueeze(1), bias, groups=len(kernel)).squeeze(0)


def _kernel_gradient(image: Tensor, gradient: Tensor, high: int, wide: int) -> Tensor:
    """sum over h and w of image[d, h + i, w + j] gradient[d, h, w], [D, i, j].

    For each i the product over h of all columns of the image with all columns of the gradient is a matrix per channel,
    whose j-th diagonal sums to the entry (i, j).
    """
    if len(gradient[0]) == high == 1:
        image, gradient = _folded(image, gradient, wide)
    channels, height, width = gradient.shape
    total = None
    for start in range(0, width, _COLUMNS):
        columns = gradient[:, :, start : start + _COLUMNS]
        count = columns.shape[2]
        reached = count + wide - 1
        sums = []
        for i in range(high):
            rows = image[:, i : i + height, start : start + reached]
            products = torch.bmm(rows.transpose(1, 2), columns)
            diagonals = products.as_strided((channels, wide, count), (reached * count, count, count + 1))
            sums.append(diagonals.sum(-1))
        part = torch.stack(sums, dim=1)
        total = part if total is None else total + part
    return gradient.new_zeros(channels, high, wide) if total is None else total


def _folded(image: Tensor, gradient: Tensor, wide: int) -> tuple[Tensor, Tensor]:
    """A sequence as a grid of rows of ``_COLUMNS``, each with as many neighbours as it reaches, for the same sum."""
    missing = -gradient.shape[2] % _COLUMNS
    image, gradient = functional.pad(image, (0, missing)), functional.pad(gradient, (0, missing))
    return image.squeeze(1).unfold(1, _COLUMNS + wide - 1, _COLUMNS).contiguous(), gradient.unflatten(
        2, (-1, _COLUMNS)
    ).squeeze(1)
