"""From the values of a modality to tokens of one width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.batch import ModalityInput
from survcore.nn.feed_forward import feed_forward
from survcore.nn.patches import Patches, lay_out
from survcore.nn.pieces import RECOMPUTE_ABOVE, recomputed


class GroupTokenizer(nn.Module):
    """One token per group of columns, each group through an MLP of its own (MUST, section 3.2; after MCAT).

    Args:
        groups: column indices of each group; groups may overlap, columns in no group are not read.
        width: D, features per token.
        dropout: inside each MLP.
    """

    def __init__(self, groups: Sequence[Sequence[int]], width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = [len(columns) for columns in groups]
        columns = torch.tensor([column for group in groups for column in group], dtype=torch.int64)
        # The columns follow from the model's inputs, which are stored with it.
        self.register_buffer("columns", columns, persistent=False)
        self.encoders = nn.ModuleList(feed_forward(size, width, width, dropout) for size in self.sizes)

    def forward(self, values: Tensor, observed: Tensor | None = None) -> tuple[Tensor, None]:
        """Tokens [B, groups, D] of table values [B, columns]; no token is ever padding, so there is no mask.

        ``observed`` is not read: the entries of a table are imputed before they reach a tokenizer.
        """
        parts = values.index_select(1, self.columns).split(self.sizes, dim=1)
        return torch.stack([encode(part) for encode, part in zip(self.encoders, parts, strict=True)], dim=1), None


class TokenProjection(nn.Module):
    """A Linear layer over tokens that are given as arrays.

    Args:
        features: per token, as given.
        width: D, features per token, as returned.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(features, width)

    def forward(self, values: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, T, D] of arrays [B, T, features] and their mask [B, T] (True: a token, False: padding)."""
        if observed is not None:
            # Attention gives padding no weight, but zero times NaN would still be NaN.
            values = values.masked_fill(~observed.unsqueeze(-1), 0.0)
        return self.projection(values), observed


class PatchProjection(nn.Module):
    """Linear, ReLU and dropout over the patches of one bag (TransMIL, MCAT).

    Args:
        features: per patch, as given.
        width: D, features per token.
        dropout: behind the ReLU.
    """

    def __init__(self, features: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.projection = nn.Linear(features, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, bag: Tensor) -> Patches:
        """Tokens of a bag [N, features] of any floating dtype, N >= 1; it is widened piece by piece."""
        again = len(bag) > RECOMPUTE_ABOVE
        return lay_out(
            len(bag), bag.device, lambda start, stop: recomputed(self._embedded, bag[start:stop], when=again)
        )

    def _embedded(self, patches: Tensor) -> Tensor:
        return self.dropout(functional.relu(self.projection(patches.to(self.projection.weight.dtype))))


def make_tokenizer(modality: ModalityInput, width: int, dropout: float = 0.0) -> nn.Module:
    """The tokenizer of a modality: grouped columns, one token for a plain table, a projection of token arrays or bags.

    Raises:
        ValueError: the modality's kind has no tokens.
    """
    if modality.kind in ("vector", "panel", "embedding"):
        return GroupTokenizer([range(modality.width)], width, dropout)
    if modality.kind == "tokens" and modality.groups:
        return GroupTokenizer([columns for _, columns in modality.groups], width, dropout)
    if modality.kind == "tokens":
        return TokenProjection(modality.width, width)
    if modality.kind == "bag":
        return PatchProjection(modality.width, width, dropout)
    raise ValueError(f"no tokenizer for modality {modality.name!r} of kind {modality.kind!r}")
