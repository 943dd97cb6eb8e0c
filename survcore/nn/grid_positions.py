"""Positions of patches from convolutions over their grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.nn.grid_convolution import depthwise_convolution
from survcore.nn.patches import Patches
from survcore.nn.pieces import RECOMPUTE_ABOVE, recomputed

SIZES = (7, 5, 3)
_HALO = SIZES[0] // 2


class GridPositions(nn.Module):
    """TransMIL's pyramid position encoding (PPEG): x + depth-wise 7 x 7, 5 x 5 and 3 x 3 convolutions of x on the grid.

    The convolutions are linear, so they and the identity are one 7 x 7 convolution, whose kernel is summed first.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in SIZES
        )

    def forward(self, patches: Patches) -> Patches:
        """New tokens of the same grid; without gradients the given ones are overwritten."""
        strips, side = patches.strips, patches.side
        again = len(patches) > RECOMPUTE_ABOVE
        kernel, bias = self._kernel()
        halo = _HALO * side
        before, results = strips[0][:0], []
        for index, strip in enumerate(strips):
            # A strip may be lower than the halo.
            after = torch.cat([following[:halo] for following in strips[index + 1 : index + 1 + _HALO]] or [strip[:0]])
            new = recomputed(_convolved, before, strip, after[:halo], kernel, bias, side, when=again)
            before = torch.cat((before, strip[-halo:]))[-halo:]
            results.append(new.contiguous() if torch.is_grad_enabled() else strip.copy_(new))
        return Patches(results, side)

    def _kernel(self) -> tuple[Tensor, Tensor]:
        """All convolutions and the identity in one: kernel [D, 7, 7] and bias [D]."""
        padded = [functional.pad(layer.weight, 4 * [_HALO - layer.padding[0]]) for layer in self.convolutions]
        identity = torch.zeros_like(padded[0])
        identity[..., _HALO, _HALO] = 1
        kernel, bias = torch.stack([identity, *padded]), torch.stack([layer.bias for layer in self.convolutions])
        return kernel.sum(0).squeeze(1), bias.sum(0)


def _convolved(before: Tensor, strip: Tensor, after: Tensor, kernel: Tensor, bias: Tensor, side: int) -> Tensor:
    """A strip [n, D] convolved, with the grid rows before and after it; zeros beyond the ends of the grid."""
    image = torch.cat((before, strip, after)).T.unflatten(1, (-1, side))
    above, below = _HALO - len(before) // side, _HALO - len(after) // side
    image = functional.pad(image, (_HALO, _HALO, above, below))
    return depthwise_convolution(image, kernel, bias).flatten(1).T
