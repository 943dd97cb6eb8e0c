"""The learned low-rank subspace that modalities share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from survcore.kept import Kept

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
        self._kept = Kept()

    def train(self, mode: bool = True) -> SharedSubspace:
        self._kept.forget()
        return super().train(mode)

    def _apply(self, *arguments: Any, **options: Any) -> SharedSubspace:
        self._kept.forget()  # to(), half(), ...: in place, which the parameters do not show
        return super()._apply(*arguments, **options)

    def exact(self) -> Tensor:
        """The basis computed in its own type under autocast too: products in half precision are not orthonormal.

        Where no gradient is asked for it is computed once for the weights as they are: a solution of D x D equations.
        """
        entries = None if torch.is_grad_enabled() else self._kept.entries(self)
        if entries is None:
            return self._computed()
        if "basis" not in entries:
            entries["basis"] = self._computed()
        return entries["basis"]

    def _computed(self) -> Tensor:
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return self.basis


def project(values: Tensor, basis: Tensor) -> Tensor:
    """P x = (x B) B^T for values [..., D] and basis [D, r]; P itself is never formed."""
    return (values @ basis) @ basis.T
