"""Self-attention over the patches of one bag, summed up by a class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from survcore.nn.grid_positions import GridPositions
from survcore.nn.nystrom import NystromLayer
from survcore.nn.patches import Patches


class TransMIL(nn.Module):
    """TransMIL (Shao et al. 2021): class token and patches, Nystrom layer, grid positions, Nystrom layer, LayerNorm.

    The counterpart of :class:`survcore.nn.ClassTokenAttention` for bags, one bag at a time. Without gradients a bag
    needs one buffer of its tokens, which the layers overwrite.

    Args:
        width: D.
        heads, landmarks, dropout: of the :class:`NystromLayer` layers.
    """

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.first = NystromLayer(width, heads, landmarks, dropout)
        self.positions = GridPositions(width)
        self.second = NystromLayer(width, heads, landmarks, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Patches, key_mask: None = None) -> tuple[Tensor, Patches]:
        """Class output [1, D] and updated tokens; the given ones are overwritten where there are no gradients.

        ``key_mask`` is there for the sake of a common signature: a bag has no padding.
        """
        token, patches = self._first(patches)
        token, *strips = self.second([token, *patches.strips])
        if torch.is_grad_enabled():
            return self.norm(token), Patches([self.norm(strip) for strip in strips], patches.side)
        for strip in strips:
            strip.copy_(self.norm(strip))
        return self.norm(token), Patches(strips, patches.side)

    def pool(self, patches: Patches, key_mask: None = None, *, overwrite: bool = False) -> Tensor:
        """The class output [1, D] alone: the last layer then computes one row.

        The given tokens stay as they are, or with ``overwrite`` serve as the buffer of the layers.
        """
        token, patches = self._first(patches if overwrite else patches.copy())
        return self.norm(self.second([token, *patches.strips], first_only=True)[0])

    def _first(self, patches: Patches) -> tuple[Tensor, Patches]:
        # A copy: the parameter must not be overwritten.
        token = self.class_token.unsqueeze(0).clone()
        token, *strips = self.first([token, *patches.strips])
        return token, self.positions(Patches(strips, patches.side))
