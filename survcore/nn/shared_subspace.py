"""The learned low-rank subspace that modalities share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

BASES = ("orthonormal", "free")


class SharedSubspace(nn.Module):
    """Owner of the basis B [D, r] of the projection P = B B^T (MUST, eq. 8).

    P is idempotent, as the paper's algebra needs, only where B's columns are orthonormal; "free" is the printed form.

    Args:
        width: D.
        rank: r, at most D.
        basis: "orthonormal" (held so while training) or "free".
    """

    def __init__(self, width: int, rank: int, basis: str = "orthonormal") -> None:
        super().__init__()
        if not 0 < rank <= width:
            raise ValueError(f"rank must lie in 1..{width} (the width), got {rank}")
        if basis not in BASES:
            raise ValueError(f"basis must be one of {', '.join(BASES)}, got {basis!r}")
        self.basis = nn.Parameter(nn.init.orthogonal_(torch.empty(width, rank)))
        if basis == "orthonormal":
            # Of torch's maps this one has the cheapest backward for a tall matrix.
            parametrizations.orthogonal(self, "basis", orthogonal_map="cayley")

    def exact(self) -> Tensor:
        """The basis computed in its own type under autocast too: products in half precision are not orthonormal."""
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return self.basis


def project(values: Tensor, basis: Tensor) -> Tensor:
    """P x = (x B) B^T for values [..., D] and basis [D, r]; P itself is never formed."""
    return (values @ basis) @ basis.T
