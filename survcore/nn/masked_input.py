"""The first layer over the columns of a table, where a learned value stands for each entry that is not there."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.batch import SparsePanel, dense


class MaskedInput(nn.Module):
    """Linear layer over the entries of a table, where hidden and missing entries take a learned token per column.

    It is additive over columns, so a panel of zeros and ones need not become dense: the rows of its weights that belong
    to active columns are summed (Surv-M2AC's panels have some 13 of 1,165).

    Args:
        columns: d.
        width: H.
    """

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        # [d, H]: the sum over active columns reads whole rows. Bounds and the token's scale as released with Surv-M2AC.
        bound = 1 / math.sqrt(max(1, columns))
        self.weight = nn.Parameter(torch.empty(columns, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.token = nn.Parameter(1e-2 * torch.randn(columns))

    def forward(self, values: Tensor | SparsePanel, observed: Tensor | None = None) -> Tensor:
        """[..., H] of values [..., d], whose entries are read where ``observed`` [..., d] is True, by default all."""
        if isinstance(values, SparsePanel) and not torch.is_grad_enabled():
            return self._gathered(values, observed)
        values = dense(values)
        if observed is not None:
            values = torch.where(observed, values, self.token)
        return functional.linear(values, self.weight.T, self.bias)

    def absent(self) -> Tensor:
        """What a row gives that has nothing of the table: [H]."""
        return self.token @ self.weight + self.bias

    def constant(self, values: Tensor) -> Tensor:
        """What values [d] give: [H]."""
        return values @ self.weight + self.bias

    def _gathered(self, panel: SparsePanel, observed: Tensor | None) -> Tensor:
        found = functional.embedding_bag(
            panel.columns.long(), self.weight, panel.offsets, mode="sum", include_last_offset=True
        )
        if observed is not None:
            rows = (~observed).any(-1).nonzero().squeeze(-1)
            if len(rows):
                found = found.index_add(0, rows, self._tokens(observed[rows]).to(found.dtype))
        return found + self.bias

    def _tokens(self, observed: Tensor) -> Tensor:
        """What the tokens of missing entries give, [n, H]; missing entries of a panel are zeros there.

        Genes that a sequencing panel lacks are missing in everybody who had that panel: each pattern is looked at once.
        """
        if len(observed) > 1:
            # Different patterns seldom have one code; whether they do is looked at.
            codes = observed.float() @ torch.linspace(1, 2, observed.shape[1], device=observed.device).sin()
            found, which = codes.unique(return_inverse=True)
            one = which.new_empty(len(found)).index_copy(0, which, torch.arange(len(which), device=which.device))
            if 4 * len(found) < len(observed) and torch.equal(observed[one][which], observed):
                return (torch.where(observed[one], 0.0, self.token) @ self.weight)[which]
        return torch.where(observed, 0.0, self.token) @ self.weight
