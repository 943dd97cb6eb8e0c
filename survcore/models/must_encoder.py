"""The encoders of MUST: whole, specific and cross-attended representations of any number of modalities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations

import torch
from torch import Tensor, nn

from survcore.batch import Batch, ModalityInput, dense
from survcore.models.must_settings import MUSTSettings
from survcore.nn import (
    Attention,
    BagCrossAttentionPooling,
    ClassTokenAttention,
    CrossAttentionPooling,
    Patches,
    TransMIL,
    make_tokenizer,
)
from survcore.nn.pieces import recomputed
from survcore.nn.rows import Rows, owner_rows, put_rows, take_rows

# Patches of a batch whose intermediate values are kept for the gradient, at some 100 kB each for width 256.
_KEPT_PATCHES = 4_096


class MUSTEncoder(nn.Module):
    """Tokens of a modality to g and updated tokens, these to u, those of each ordered pair to c (MUST, fig. 1).

    Every representation is computed only on the rows that own its modalities, so that what stands in the place of an
    absent one is never read.
    """

    def __init__(self, inputs: Sequence[ModalityInput], settings: MUSTSettings) -> None:
        super().__init__()
        self.names = tuple(modality.name for modality in inputs)
        self.width = settings.width
        self.pairs = tuple(permutations(range(len(inputs)), 2))
        self.tokenizers = nn.ModuleList(
            make_tokenizer(modality, settings.width, settings.token_dropout) for modality in inputs
        )

        self.bags = frozenset(index for index, modality in enumerate(inputs) if modality.kind == "bag")
        self.whole = nn.ModuleList(self._pooling(m, settings, settings.layers) for m in range(len(inputs)))
        self.specific = nn.ModuleList(self._pooling(m, settings, settings.specific_layers) for m in range(len(inputs)))
        self.cross = nn.ModuleList(self._cross_pooling(m, n, settings) for m, n in self.pairs)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """g [M, B, D], u [M, B, D] and c [M, M, B, D], c_{m<-n} at [m, n]; zero where a row lacks what they need.

        Rows with bags are encoded one at a time, and where these are large again when their turn comes in the backward
        pass, so that the memory of a batch is that of its largest row.
        """
        if not self.bags:
            return self._encoded(batch)
        with_bags = batch.availability[:, sorted(self.bags)].any(1).cpu()
        others = (~with_bags).nonzero().squeeze(1)
        numbers = with_bags.nonzero().squeeze(1)
        again = len(numbers) > 1 and self._recomputes(batch, self.bags)
        parts = [self._encoded(batch.take(others))] if len(others) or not len(numbers) else []
        for row in numbers.tolist():
            part = batch.take(slice(row, row + 1))
            parts.append(recomputed(self._encoded, part, part.availability, when=again))
        places = torch.cat((others, numbers)).argsort().to(batch.availability.device)
        whole, specific, cross = zip(*parts, strict=True)
        return (
            torch.cat(whole, dim=1).index_select(1, places),
            torch.cat(specific, dim=1).index_select(1, places),
            torch.cat(cross, dim=2).index_select(2, places),
        )

    def _recomputes(self, batch: Batch, bags: Iterable[int]) -> bool:
        """Whether the rows' bags are too large to keep all their intermediate values until the backward pass."""
        return sum(sum(batch.values[self.names[m]].sizes) for m in bags) > _KEPT_PATCHES

    def _encoded(self, batch: Batch, _: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`forward` gives, of all rows at once; of one row where one has a bag.

        The tensor beside the batch tells :func:`recomputed` the device whose random draws are to be repeated.
        """
        size, count = len(batch), len(self.names)
        nothing = self.whole[0].class_token.new_zeros(size, self.width)
        whole, specific = [nothing] * count, [nothing] * count
        cross = [[nothing] * count for _ in range(count)]
        tokens: dict[int, Tensor | Patches] = {}
        masks: dict[int, Tensor | None] = {}
        for m, rows in owners(batch.availability):
            given, mask = self._tokens(batch, m, rows)
            g, updated = self.whole[m](given, mask)
            u = self.specific[m].pool(updated, mask)
            whole[m], specific[m] = put_rows(g, rows, size), put_rows(u, rows, size)
            tokens[m], masks[m] = put_rows(updated, rows, size), put_rows(mask, rows, size)
        for (m, n), attend in zip(self.pairs, self.cross, strict=True):
            both = batch.availability[:, m] & batch.availability[:, n]
            if both.any():
                rows = owner_rows(both)
                c = attend(*(take_rows(part, rows) for part in (tokens[m], tokens[n], masks[m], masks[n])))
                cross[m][n] = put_rows(c, rows, size)
        return torch.stack(whole), torch.stack(specific), torch.stack([torch.stack(row) for row in cross])

    def wholes(self, batch: Batch) -> Iterator[tuple[int, Rows, Tensor]]:
        """For each modality in the batch: its index, the rows that own it, and their g [n, D]."""
        for m, rows in owners(batch.availability):
            if m not in self.bags:
                yield m, rows, self._whole(batch, m, rows)
                continue
            numbers = range(len(batch)) if isinstance(rows, slice) else rows.tolist()
            parts = [batch.take(slice(row, row + 1)) for row in numbers]
            again = len(parts) > 1 and self._recomputes(batch, [m])
            wholes = [recomputed(self._whole, part, m, slice(None), part.availability, when=again) for part in parts]
            yield m, rows, torch.cat(wholes)

    def _whole(self, batch: Batch, index: int, rows: Rows, _: Tensor | None = None) -> Tensor:
        tokens, mask = self._tokens(batch, index, rows)
        return self.whole[index].pool(tokens, mask)

    def class_token(self, index: int) -> Tensor:
        """[CLS_u] of a modality, [D]: the structural prior of its diffusion model."""
        return self.specific[index].class_token

    def _tokens(self, batch: Batch, index: int, rows: Rows) -> tuple[Tensor | Patches, Tensor | None]:
        name = self.names[index]
        if index in self.bags:
            return self.tokenizers[index](batch.values[name][0]), None
        values = dense(batch.values[name])
        return self.tokenizers[index](take_rows(values, rows), take_rows(batch.observed.get(name), rows))

    def _pooling(self, index: int, settings: MUSTSettings, layers: int) -> TransMIL | ClassTokenAttention:
        """What sums the tokens of a modality up: TransMIL for bags (supplement)."""
        dropout = settings.attention_dropout
        if index in self.bags:
            return TransMIL(settings.width, settings.heads, settings.landmarks or max(1, settings.width // 2), dropout)
        return ClassTokenAttention(settings.width, settings.heads, layers, dropout, settings.expansion)

    def _cross_pooling(
        self, m: int, n: int, settings: MUSTSettings
    ) -> CrossAttentionPooling | BagCrossAttentionPooling:
        attention = Attention(settings.width, settings.heads)
        pooling = self._pooling(m, settings, settings.pooling_layers)
        kind = BagCrossAttentionPooling if self.bags & {m, n} else CrossAttentionPooling
        return kind(attention, pooling)


def owners(availability: Tensor) -> Iterator[tuple[int, Rows]]:
    """Each modality that some row of the batch owns, with the rows that own it."""
    for index in range(availability.shape[1]):
        if availability[:, index].any():
            yield index, owner_rows(availability[:, index])
