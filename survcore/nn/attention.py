"""Attention over token sequences, with learned class tokens that sum a sequence up."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.nn.feed_forward import feed_forward


class Attention(nn.Module):
    """Multi-head attention (MUST, eq. 7, with several heads and an output projection)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend from queries [B, Q, D] to context [B, T, D]; the key mask [B, T] is True where a token exists."""
        query = self.heads_of(self.query(queries))
        key, value = self.key_value(context).chunk(2, dim=-1)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, self.heads_of(key), self.heads_of(value), attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def heads_of(self, rows: Tensor) -> Tensor:
        """[B, T, D] -> [B, heads, T, D / heads]."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Pre-norm self-attention with a residual, and a feed-forward part where ``expansion`` is above 0.

    Without it the block is TransMIL's TransLayer, which the sources of MUST use.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, expansion: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = None
        if expansion:
            hidden = feed_forward(width, expansion * width, width, dropout)
            self.feed_forward = nn.Sequential(nn.LayerNorm(width), hidden, nn.Dropout(dropout))

    def forward(self, tokens: Tensor, key_mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Tokens [B, T, D] to [B, T, D], or only the first ``rows`` of them where the others are not needed."""
        normalised = self.norm(tokens)
        tokens = tokens[:, :rows] + self.dropout(self.attention(normalised[:, :rows], normalised, key_mask))
        return tokens if self.feed_forward is None else tokens + self.feed_forward(tokens)


class ClassTokenAttention(nn.Module):
    """Self-attention layers over [class token; tokens], then LayerNorm.

    Args:
        width: D.
        heads, layers, dropout, expansion: of the :class:`AttentionBlock` layers.
    """

    def __init__(self, width: int, heads: int, layers: int, dropout: float = 0.0, expansion: int = 0) -> None:
        super().__init__()
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.layers = nn.ModuleList(AttentionBlock(width, heads, dropout, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, key_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class output [B, D] and updated tokens [B, T, D]; ``key_mask`` bool [B, T] is True where a token exists."""
        rows = self.norm(self._attend(tokens, key_mask, None))
        return rows[:, 0], rows[:, 1:]

    def pool(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The class output [B, D] alone: the last layer then asks for one row."""
        return self.norm(self._attend(tokens, key_mask, 1)).squeeze(1)

    def _attend(self, tokens: Tensor, key_mask: Tensor | None, last_rows: int | None) -> Tensor:
        rows = torch.cat((self.class_token.expand(tokens.shape[0], 1, -1), tokens), dim=1)
        if key_mask is not None:
            key_mask = functional.pad(key_mask, (1, 0), value=True)
        for layer in self.layers[:-1]:
            rows = layer(rows, key_mask)
        return self.layers[-1](rows, key_mask, last_rows)


class CrossAttentionPooling(nn.Module):
    """Tokens of one modality attend to those of another; a class token pools what they found (MUST, section 3.2)."""

    def __init__(self, attention: Attention, pooling: ClassTokenAttention) -> None:
        super().__init__()
        self.attention = attention
        self.pooling = pooling

    def forward(
        self, queries: Tensor, context: Tensor, query_mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """[B, D] from queries [B, Q, D] and context [B, T, D]; masks are True where a token exists."""
        return self.pooling.pool(self.attention(queries, context, context_mask), query_mask)
