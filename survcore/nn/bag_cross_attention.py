"""Cross-attention where the queries, the context or both are the patches of one bag."""

from __future__ import annotations

from torch import Tensor, nn

from survcore.nn.attention import Attention, ClassTokenAttention
from survcore.nn.patches import Patches
from survcore.nn.pieces import RECOMPUTE_ABOVE, attend, merge_attended, recomputed
from survcore.nn.trans_mil import TransMIL
from survcore.ops import _nystrom


class BagCrossAttentionPooling(nn.Module):
    """The counterpart of :class:`survcore.nn.CrossAttentionPooling` for one row of which one side is a bag.

    Keys and values of a bag are made piece by piece, and what queries find in the pieces is merged; queries of a bag
    ask piece by piece. The cost is queries x keys whatever their kinds, which two large bags make large.

    Args:
        attention: of width D.
        pooling: :class:`TransMIL` where the queries are a bag, else :class:`ClassTokenAttention`.
    """

    def __init__(self, attention: Attention, pooling: TransMIL | ClassTokenAttention) -> None:
        super().__init__()
        self.attention = attention
        self.pooling = pooling

    def forward(
        self,
        queries: Tensor | Patches,
        context: Tensor | Patches,
        query_mask: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """[1, D] from queries [1, Q, D] and context [1, T, D] or patches; masks are True where a token exists."""
        if isinstance(context, Patches):
            pieces = [strip.unsqueeze(0) for strip in context.strips]
        else:
            pieces = [context if context_mask is None else context[:, context_mask[0]]]
        if isinstance(queries, Patches):
            again = len(queries) > RECOMPUTE_ABOVE
            found = queries.map(
                lambda strip: recomputed(self._attended, strip.unsqueeze(0), pieces, when=again).squeeze(0)
            )
            return self.pooling.pool(found, overwrite=True)
        return self.pooling.pool(self._attended(queries, pieces), query_mask)

    def _attended(self, queries: Tensor, pieces: list[Tensor]) -> Tensor:
        """[1, Q, D] from queries [1, Q, D] over all pieces [1, n_i, D] of the context."""
        query = self.attention.heads_of(self.attention.query(queries))
        query = query * query.shape[-1] ** -0.5
        found = self._fused(query, [piece[0] for piece in pieces])
        if found is not None:
            return self.attention.output(found.transpose(1, 2).flatten(2))
        again = sum(piece.shape[1] for piece in pieces) > RECOMPUTE_ABOVE
        found, weight = None, None
        for piece in pieces:
            found, weight = merge_attended(found, weight, *recomputed(self._gathered, query, piece, when=again))
        return self.attention.output(found.transpose(1, 2).flatten(2))

    def _fused(self, query: Tensor, pieces: list[Tensor]) -> Tensor | None:
        """What few queries [1, H, Q, d] find in pieces [n_i, D], on CUDA without gradients: no key or value is kept."""
        weight, bias = self.attention.key_value.weight, self.attention.key_value.bias
        kernels = None
        listened = self.attention.key_value._forward_hooks or self.attention.key_value._forward_pre_hooks
        if query.shape[2] <= _nystrom.MOST_QUERIES and not listened:
            kernels = _nystrom.fused_kernels(pieces, weight, self.attention.heads)
        if kernels is None:
            return None
        rows = _nystrom.joined(pieces)
        offsets, no_norm = _nystrom.offsets_of_one(rows), (None, None, None)
        found, _ = kernels.attend_to_bag(query, rows, offsets, len(rows), *no_norm, weight, bias)
        return found.to(query.dtype)

    def _gathered(self, query: Tensor, piece: Tensor) -> tuple[Tensor, Tensor]:
        key, value = map(self.attention.heads_of, self.attention.key_value(piece).chunk(2, dim=-1))
        return attend(query, key, value)
