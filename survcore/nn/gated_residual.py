"""Residual and squeeze-and-excitation blocks over vectors, as Surv-M2AC's encoders stack them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FIRST_SCALE = 1e-6
_REDUCTION = 16


class ScaledResidual(nn.Module):
    """LayerNorm(x + gamma * f(x)), f = Linear, GELU, dropout, Linear, dropout; gamma one learned scale per feature.

    Args:
        width: H.
        expansion: features inside f, as a multiple of H.
        dropout: of both.
        two_layers: with False, f has no second Linear where ``expansion`` is 1, as released with Surv-M2AC.
    """

    def __init__(self, width: int, expansion: int = 1, dropout: float = 0.0, *, two_layers: bool = True) -> None:
        super().__init__()
        inner = width * expansion
        second = nn.Linear(inner, width) if two_layers or inner != width else nn.Identity()
        self.inner = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), second, nn.Dropout(dropout))
        self.scale = nn.Parameter(torch.full((width,), _FIRST_SCALE))
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return self.norm(rows + self.scale * self.inner(rows))


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 relu(W1 x)): features gate each other (Hu et al. 2018); of a vector there is nothing to squeeze.

    Args:
        width: H; the gate has H / 16 features inside.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // _REDUCTION)
        self.gate = nn.Sequential(
            nn.Linear(width, inner, bias=False), nn.ReLU(), nn.Linear(inner, width, bias=False), nn.Sigmoid()
        )

    def forward(self, rows: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return rows * self.gate(rows)
