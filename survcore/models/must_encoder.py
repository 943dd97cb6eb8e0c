"""The encoders of MUST: whole, specific and cross-attended representations of any number of modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import torch
from torch import Tensor, nn

from survcore.batch import Batch, ModalityInput
from survcore.models.must_settings import MUSTSettings
from survcore.nn import ClassTokenAttention, CrossAttentionPooling, make_tokenizer
from survcore.nn.rows import Rows, owner_rows, put_rows, take_rows


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

        shape = (settings.width, settings.heads)
        rest = (settings.attention_dropout, settings.expansion)
        self.whole = nn.ModuleList(ClassTokenAttention(*shape, settings.layers, *rest) for _ in inputs)
        self.specific = nn.ModuleList(ClassTokenAttention(*shape, settings.specific_layers, *rest) for _ in inputs)
        self.cross = nn.ModuleList(CrossAttentionPooling(*shape, settings.pooling_layers, *rest) for _ in self.pairs)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """g [M, B, D], u [M, B, D] and c [M, M, B, D], c_{m<-n} at [m, n]; zero where a row lacks what they need."""
        size, count = len(batch), len(self.names)
        nothing = self.whole[0].class_token.new_zeros(size, self.width)
        whole, specific = [nothing] * count, [nothing] * count
        cross = [[nothing] * count for _ in range(count)]
        tokens: dict[int, Tensor] = {}
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
                c = attend(tokens[m][rows], tokens[n][rows], take_rows(masks[m], rows), take_rows(masks[n], rows))
                cross[m][n] = put_rows(c, rows, size)
        return torch.stack(whole), torch.stack(specific), torch.stack([torch.stack(row) for row in cross])

    def wholes(self, batch: Batch) -> Iterator[tuple[int, Rows, Tensor]]:
        """For each modality in the batch: its index, the rows that own it, and their g [n, D]."""
        for m, rows in owners(batch.availability):
            tokens, mask = self._tokens(batch, m, rows)
            yield m, rows, self.whole[m].pool(tokens, mask)

    def class_token(self, index: int) -> Tensor:
        """[CLS_u] of a modality, [D]: the structural prior of its diffusion model."""
        return self.specific[index].class_token

    def _tokens(self, batch: Batch, index: int, rows: Rows) -> tuple[Tensor, Tensor | None]:
        name = self.names[index]
        return self.tokenizers[index](batch.values[name][rows], take_rows(batch.observed.get(name), rows))


def owners(availability: Tensor) -> Iterator[tuple[int, Rows]]:
    """Each modality that some row of the batch owns, with the rows that own it."""
    for index in range(availability.shape[1]):
        if availability[:, index].any():
            yield index, owner_rows(availability[:, index])
