"""Nystrom attention over the tokens of one bag, in memory that does not grow with tokens times landmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.nn.grid_convolution import depthwise_convolution
from survcore.nn.pieces import RECOMPUTE_ABOVE, attend, merge_attended, recomputed
from survcore.ops import _nystrom

ITERATIONS = 6
KERNEL = 33
_HALO = KERNEL // 2


class NystromLayer(nn.Module):
    """TransMIL's layer, x + dropout(attention(LayerNorm(x))) with Nystrom attention (Xiong et al. 2021).

    With q scaled by d^-1/2, landmarks q~, k~ the means of l = ceil(n / m) consecutive rows (zero rows in front make n a
    multiple of m), A1 = softmax(q k~^T), A2 = softmax(q~ k~^T), A3 = softmax(q~ k^T), and A2+ the pseudo-inverse of A2
    by six iterations::

        attention(x) = Linear(A1 (A2+ (A3 v)) + a depth-wise convolution of v over 33 tokens, one kernel per head)

    In this order of products nothing of size n x m is kept: A3 v is summed over pieces of the keys, and A1 is applied
    to pieces of the queries. The landmarks are those of the whole bag whatever the pieces. Up to m tokens get exact
    attention instead, with the same weights. The start of the pseudo-inverse is normalised per head.

    Args:
        width: D.
        heads: of D / heads features each.
        landmarks: m.
        dropout: behind the attention.
    """

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        if landmarks < 1:
            raise ValueError(f"attention needs at least one landmark, got {landmarks}")
        self.heads, self.landmarks = heads, landmarks
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.residual = nn.Conv1d(heads, heads, KERNEL, groups=heads, bias=False)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pieces: list[Tensor], *, first_only: bool = False) -> list[Tensor]:
        """Tokens in pieces [n_i, D], one after the other, to as many pieces, or only to the first one.

        Without gradients the pieces may be overwritten.
        """
        kept = pieces[:1] if first_only else pieces
        count = sum(map(len, pieces))
        fused = self._fused_kernels(pieces, count)
        if fused is not None:
            return self._fused(fused, pieces, None if not first_only else len(pieces[0]))
        if len(pieces) <= 2 or count <= self.landmarks:
            return list(self._whole(torch.cat(pieces), sum(map(len, kept))).split([len(piece) for piece in kept]))
        again = count > RECOMPUTE_ABOVE
        key, attended = self._summarise(pieces, again)
        before, results = pieces[0][:0], []
        for index, piece in enumerate(kept):
            after = _first_rows(pieces[index + 1 :], _HALO, piece)
            new = recomputed(self._mixed, before, piece, after, key, attended, when=again)
            # A copy: the next piece needs these rows as they were.
            before = torch.cat((before, piece[-_HALO:]))[-_HALO:]
            results.append(new if torch.is_grad_enabled() else piece.copy_(new))
        return results

    def _fused_kernels(self, pieces: list[Tensor], count: int) -> _nystrom.FusedKernels | None:
        """What serves more than m tokens on CUDA where no gradient and no dropout is asked for, and nobody listens."""
        if count <= self.landmarks or (self.training and self.dropout.p > 0):
            return None
        if any(part._forward_hooks or part._forward_pre_hooks for part in self.children()):
            return None
        return _nystrom.fused_kernels(pieces, self.query.weight, self.heads, self.landmarks)

    def _fused(self, kernels: _nystrom.FusedKernels, pieces: list[Tensor], kept: int | None) -> list[Tensor]:
        """New pieces, or the ``kept`` rows of the first: rows are read a few times, and little else."""
        rows = _nystrom.joined(pieces)
        offsets = _nystrom.offsets_of_one(rows)
        norm, key_value, output = self.norm, self.key_value.weight, self.output
        means, statistics = kernels.landmark_means(rows, offsets, norm.weight, norm.bias, norm.eps, self.landmarks)
        means = means.to(self.query.weight.dtype)[0]
        query, key = self._query(means), self._key_value(means)[0]
        normed = (statistics, norm.weight, norm.bias)
        values = kernels.new_values(rows)
        total, _ = kernels.attend_to_bag(
            query[None], rows, offsets, len(rows), *normed, key_value, None, self.landmarks, values
        )
        value = self._solved(query, key, total[0].to(query.dtype))
        weights = (self.query.weight, self.residual.weight.squeeze(1), key[None], value[None])
        new = kernels.mix_landmarks(
            rows, values, offsets, len(rows), *normed, *weights, output.weight, output.bias, kept
        )
        return [new[0]] if kept is not None else list(new.split([len(piece) for piece in pieces]))

    def _whole(self, rows: Tensor, kept: int) -> Tensor:
        """The first ``kept`` of few rows [n, D]: what is needed twice is then computed once."""
        count, normalised = len(rows), self.norm(rows)
        queries = self._query(normalised[:kept])
        key, value = self._key_value(normalised)
        values = value.transpose(0, 1).flatten(1)[: kept + _HALO]
        if count > self.landmarks:
            padding = -count % self.landmarks
            means = functional.pad(normalised, (0, 0, padding, 0)).unflatten(0, (self.landmarks, -1)).mean(1)
            query, keys = self._query(means), functional.pad(key, (0, 0, padding, 0))
            value = attend(query, keys, functional.pad(value, (0, 0, padding, 0)))[0]
            key = self._key_value(means)[0]
            value = self._solved(query, key, value)
        return self._added(rows[:kept], queries, key, value, self._convolved(values, 0, len(values) - kept))

    def _summarise(self, pieces: list[Tensor], again: bool) -> tuple[Tensor, Tensor]:
        """Keys k~ [H, m, d] of the landmarks and their values A2+ (A3 v) [H, m, d], of more than m tokens."""
        count = sum(map(len, pieces))
        length = -(-count // self.landmarks)
        padding = length * self.landmarks - count
        means, start = self.norm.weight.new_zeros(self.landmarks, self.norm.weight.numel()), padding
        for piece in pieces:
            means = recomputed(self._add_means, means, piece, start, length, when=again)
            start += len(piece)
        query, key = self._query(means), self._key_value(means)[0]
        # Zero rows in front are keys of score 0 with values of 0.
        total, weight = None, None
        if padding:
            total = torch.zeros_like(query)
            weight = query.new_tensor(padding).log().expand(query.shape[:-1])
        for piece in pieces:
            total, weight = merge_attended(total, weight, *recomputed(self._gathered, piece, query, when=again))
        return key, self._solved(query, key, total)

    def _solved(self, query: Tensor, key: Tensor, total: Tensor) -> Tensor:
        """A2+ (A3 v)."""
        return pseudo_inverse((query @ key.transpose(-1, -2)).softmax(-1)) @ total

    def _add_means(self, means: Tensor, piece: Tensor, start: int, length: int) -> Tensor:
        """Adds what the rows from position ``start`` on give to the means of ``length`` consecutive rows."""
        first, last = start // length, (start + len(piece) - 1) // length
        of_row = torch.arange(start, start + len(piece), device=piece.device) // length
        share = (of_row == torch.arange(first, last + 1, device=piece.device).unsqueeze(1)).to(means.dtype) / length
        added = share @ self.norm(piece)
        return torch.cat((means[:first], means[first : last + 1] + added, means[last + 1 :]))

    def _gathered(self, piece: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self._key_value(self.norm(piece))
        return attend(query, key, value)

    def _mixed(self, before: Tensor, piece: Tensor, after: Tensor, key: Tensor, value: Tensor) -> Tensor:
        normalised = self.norm(torch.cat((before, piece, after)))
        queries = self._query(normalised[len(before) : len(before) + len(piece)])
        values = functional.linear(normalised, self.key_value.weight[normalised.shape[1] :])
        return self._added(piece, queries, key, value, self._convolved(values, len(before), len(after)))

    def _added(self, rows: Tensor, queries: Tensor, key: Tensor, value: Tensor, convolved: Tensor) -> Tensor:
        # The fused kernel takes a batch.
        batch = (part.unsqueeze(0) for part in (queries, key, value))
        mixed = functional.scaled_dot_product_attention(*batch, scale=1.0).squeeze(0)
        return rows + self.dropout(self.output(mixed.transpose(0, 1).flatten(1) + convolved))

    def _convolved(self, values: Tensor, before: int, after: int) -> Tensor:
        """The convolution of v [n, D] over tokens, without ``before`` and ``after`` neighbours at its ends."""
        width = values.shape[1]
        # Zeros beyond the ends of the sequence.
        padded = functional.pad(values.T, (_HALO - before, _HALO - after)).unsqueeze(1)
        kernel = self.residual.weight.repeat_interleave(width // self.heads, dim=0)
        return depthwise_convolution(padded, kernel).squeeze(1).T

    def _query(self, normalised: Tensor) -> Tensor:
        """[n, D] -> scaled [H, n, d]."""
        scale = (normalised.shape[1] // self.heads) ** -0.5
        return self._heads(self.query(normalised)) * scale

    def _key_value(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(normalised).chunk(2, dim=-1)
        return self._heads(key), self._heads(value)

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(0, 1)


def _first_rows(pieces: list[Tensor], count: int, like: Tensor) -> Tensor:
    """The first ``count`` rows of pieces, or as many as there are."""
    found, missing = [like[:0]], count
    for piece in pieces:
        found.append(piece[:missing])
        missing -= len(found[-1])
        if not missing:
            break
    return torch.cat(found)


def pseudo_inverse(matrix: Tensor) -> Tensor:
    """Moore-Penrose inverse of row-stochastic matrices [H, m, m] by six iterations (Razavi et al. 2014)."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    bound = matrix.sum(-1).amax(-1) * matrix.sum(-2).amax(-1)
    inverse = matrix.transpose(-1, -2) / bound[:, None, None]
    for _ in range(ITERATIONS):
        product = matrix @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        inverse = 0.25 * inverse @ (13 * identity - product @ inner)
    return inverse
