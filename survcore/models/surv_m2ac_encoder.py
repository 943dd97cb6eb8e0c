"""The autoencoders of Surv-M2AC: the paper's, its plain comparison, and none at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from survcore.batch import ModalityInput
from survcore.models.surv_m2ac_settings import SurvM2ACSettings
from survcore.nn import BiFiLM, MaskedInput, ScaledResidual, SqueezeExcitation

_MOST_DROPOUT = 0.9


def is_deep(modality: ModalityInput, settings: SurvM2ACSettings) -> bool:
    """Whether a modality has the encoder that the paper gives to genes."""
    return modality.width >= settings.deep_from


class ModalityEncoder(nn.Module):
    """Columns of one modality to a hidden representation: first layer, GELU, dropout, LayerNorm, then blocks.

    Args:
        modality: the modality.
        settings: of the model.
    """

    def __init__(self, modality: ModalityInput, settings: SurvM2ACSettings) -> None:
        super().__init__()
        deep, width = is_deep(modality, settings), settings.hidden
        dropout = min(_MOST_DROPOUT, 2 * settings.dropout) if deep else settings.dropout
        self.first = MaskedInput(modality.width, width)
        layers: list[nn.Module] = [nn.GELU(), nn.Dropout(dropout), nn.LayerNorm(width)]
        for block in (settings.deep_blocks if deep else settings.light_blocks).split():
            layers.append(
                ScaledResidual(width, settings.expansion, dropout, two_layers=settings.two_layer_residual)
                if block == "res"
                else SqueezeExcitation(width)
            )
            layers.append(nn.Dropout(dropout))
        self.rest = nn.Sequential(*layers)

    def forward(self, first: Tensor) -> Tensor:
        """[..., H] of what the first layer gave [..., H]."""
        return self.rest(first)


class Autoencoder(nn.Module):
    """From what the modalities' first layers gave to a latent representation, and back to their columns.

    The representations that ``hidden`` gives, one per modality, know nothing of each other, so those of an absent
    modality can be exchanged; ``latent`` joins them.

    Args:
        inputs: the modalities.
        settings: "surv_m2ac" encodes each modality by itself and fuses them; "vanilla" adds up their first layers,
            which makes it one Linear layer over the joined columns, as "mlp" does, whose latent is that sum.
    """

    def __init__(self, inputs: Sequence[ModalityInput], settings: SurvM2ACSettings) -> None:
        super().__init__()
        self.settings = settings
        self.separate = settings.architecture == "surv_m2ac"
        if self.separate:
            self.encoders = nn.ModuleList(ModalityEncoder(modality, settings) for modality in inputs)
            joined = len(inputs) * settings.hidden
            if settings.fusion == "bi_film":
                self.fuse = BiFiLM(len(inputs), settings.hidden, settings.dropout)
            self.to_latent = nn.Linear(joined, settings.latent)
        else:
            self.encoders = nn.ModuleList(_First(modality, self.width) for modality in inputs)
            if settings.architecture == "vanilla":
                self.to_latent = nn.Sequential(nn.GELU(), nn.Linear(settings.hidden, settings.latent))
        self.columns = [modality.width for modality in inputs]
        if settings.architecture != "mlp":
            # The plain autoencoder reads and writes all columns as one table.
            written = self.columns if self.separate else [sum(self.columns)]
            self.decoders = nn.ModuleList(self._decoder(columns) for columns in written)
            last = nn.LayerNorm(settings.projection) if self.separate else nn.Identity()
            self.project = nn.Sequential(
                nn.Linear(settings.latent, settings.projection),
                nn.GELU(),
                nn.Linear(settings.projection, settings.projection),
                last,
            )

    @property
    def width(self) -> int:
        """H of the hidden representations."""
        if self.settings.architecture == "mlp":
            return int(self.settings.head_hidden.split()[0])
        return self.settings.hidden

    def hidden(self, index: int, first: Tensor) -> Tensor:
        """The representation [..., H] of one modality from what its first layer gave [..., H]."""
        return self.encoders[index](first)

    def first(self, index: int) -> MaskedInput:
        """The first layer of a modality."""
        return self.encoders[index].first

    def latent(self, hidden: list[Tensor]) -> Tensor:
        """z [..., L] of the representations [..., H] of all modalities."""
        if not self.separate:
            total = torch.stack(hidden).sum(0)
            return total if self.settings.architecture == "mlp" else self.to_latent(total)
        joined = self.fuse(hidden) if self.settings.fusion == "bi_film" else torch.cat(hidden, dim=-1)
        return self.to_latent(joined)

    def decode(self, latent: Tensor) -> list[Tensor]:
        """What the columns of each modality are thought to be, [..., d] each, logits where they are 0 or 1."""
        written = torch.cat([decoder(latent) for decoder in self.decoders], dim=-1)
        return list(written.split(self.columns, dim=-1))

    def _decoder(self, columns: int) -> nn.Sequential:
        settings = self.settings
        dropout = settings.dropout if self.separate else 0.0
        return nn.Sequential(
            nn.Linear(settings.latent, settings.hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(settings.hidden, columns),
        )


class _First(nn.Module):
    """A modality's part of a first layer over the joined columns."""

    def __init__(self, modality: ModalityInput, width: int) -> None:
        super().__init__()
        self.first = MaskedInput(modality.width, width)

    def forward(self, first: Tensor) -> Tensor:
        return first
