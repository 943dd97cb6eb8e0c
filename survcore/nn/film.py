"""Modalities that modulate each other feature by feature, and what becomes of them together."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BiFiLM(nn.Module):
    """Bidirectional feature-wise linear modulation (Surv-M2AC, after Perez et al. 2018), for any number of modalities.

    Each modality is normalised and modulated by the others, ``gamma * LN(h) + beta``; gamma and beta are the mean over
    the other modalities of linear maps of theirs, with two modalities exactly the paper's. With one there is nothing to
    modulate with. The released code puts GELU, dropout, a Linear layer and LayerNorm behind the concatenation, where
    the paper shows one projection.

    Args:
        modalities: M.
        width: H of each.
        dropout: behind the concatenation.
    """

    def __init__(self, modalities: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(modalities))
        others = range(modalities) if modalities > 1 else ()
        self.modulate = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in others)
        joined = modalities * width
        self.project = nn.Sequential(
            nn.GELU(), nn.Dropout(dropout), nn.Linear(joined, joined, bias=False), nn.LayerNorm(joined)
        )

    def forward(self, hidden: list[Tensor]) -> Tensor:
        """[..., M H] of M hidden representations [..., H]."""
        normed = [norm(part) for norm, part in zip(self.norms, hidden, strict=True)]
        if self.modulate:
            told = torch.stack([tell(part) for tell, part in zip(self.modulate, normed, strict=True)])
            others = (told.sum(0) - told) / (len(normed) - 1)
            scales, shifts = others.chunk(2, dim=-1)
            normed = [scale * part + shift for scale, part, shift in zip(scales, normed, shifts, strict=True)]
        return self.project(torch.cat(normed, dim=-1))
