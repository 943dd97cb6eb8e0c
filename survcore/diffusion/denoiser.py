"""The denoising transformer: one noisy row among condition rows, time as a modulation of the noisy row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.diffusion.packed import PackedDenoiser
from survcore.reference.ddim_sample import ATTENTIONS
from survcore.reference.pack_denoiser import BlockWeights, DenoiserWeights


class Denoiser(nn.Module):
    """Finds the noise in a latent vector from its condition (MUST, eq. 19 and supplement 7.2).

    Pre-norm blocks of attention and an MLP (x4, erf-GELU) over the rows [z; condition rows], then LayerNorm and a
    Linear layer on the z row; :class:`NoiseSchedule` says what the output means. The diffusion time gives each block
    shift, scale and gate of the z row, for attention and for the MLP. With "prefix" attention the condition rows
    attend only to each other, so that they can be computed once for all steps and draws; "joint" lets them see z (the
    paper's plain concatenation).

    Args:
        width: D, of z and of each condition row; even, and a multiple of ``heads``.
        layers, heads: of the transformer.
        attention: "prefix" or "joint".
    """

    def __init__(self, width: int, layers: int = 4, heads: int = 8, attention: str = "prefix") -> None:
        super().__init__()
        if width % 2 or width % heads:
            raise ValueError(f"the denoiser's width must be even and a multiple of its heads ({heads}), got {width}")
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {attention!r}")
        self.width, self.heads, self.attention = width, heads, attention
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulate = nn.Linear(width, layers * 6 * width)
        # Every block starts as a plain residual one at all times: from a gate of 0 (Peebles & Xie 2023) the z row would
        # see its condition only after some hundred steps, which is much of a training on few patients.
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        with torch.no_grad():
            self.modulate.bias.unflatten(0, (layers, 6, width))[:, 2::3] = 1.0
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)
        self.packed = PackedDenoiser()

    def train(self, mode: bool = True) -> Denoiser:
        self.packed.forget()
        return super().train(mode)

    def _apply(self, *arguments: Any, **options: Any) -> Denoiser:
        self.packed.forget()  # to(), half(), ...: in place, which the parameters do not show
        return super()._apply(*arguments, **options)

    def modulation(self, timesteps: Tensor) -> Tensor:
        """Modulation [..., L, 6, D] of timesteps [...]: shift, scale, gate for attention, then the same for the MLP."""
        half = self.width // 2
        frequency = torch.exp(
            -math.log(10000.0) / half * torch.arange(half, dtype=torch.float32, device=timesteps.device)
        )
        angle = timesteps.unsqueeze(-1) * frequency
        embedding = torch.cat((angle.cos(), angle.sin()), dim=-1).to(self.modulate.weight.dtype)
        return self.modulate(self.time(embedding)).unflatten(-1, (len(self.blocks), 6, self.width))

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """The output for several noisy versions of each latent.

        Args:
            noisy: [B, R, D], R noisy rows that share a condition and do not see each other.
            timesteps: int64 [B, R].
            condition: [B, C, D].

        Returns:
            F [B, R, D].
        """
        if self.attention == "joint" and noisy.shape[1] != 1:
            repeats = noisy.shape[1]
            rows = (noisy.flatten(0, 1).unsqueeze(1), timesteps.reshape(-1, 1), condition.repeat_interleave(repeats, 0))
            return self(*rows).view_as(noisy)
        noisy_rows, condition_rows = noisy.shape[1], condition.shape[1]
        mask = self._mask(noisy_rows, condition_rows, noisy.device)
        modulation = self._row_modulation(timesteps, condition_rows)
        rows = torch.cat((noisy, condition), dim=1)
        for index, block in enumerate(self.blocks):
            # After the last block only the noisy rows are read.
            kept = noisy_rows if index == len(self.blocks) - 1 else noisy_rows + condition_rows
            rows = block(rows, modulation[:, :, index], mask, kept)
        return self.output(self.norm(rows))

    def weights(self) -> DenoiserWeights:
        """The weights as the sampler takes them (views, no copies)."""
        blocks = tuple(block.weights() for block in self.blocks)
        return DenoiserWeights(blocks, self.norm.weight, self.norm.bias, self.output.weight, self.output.bias)

    def _mask(self, noisy_rows: int, condition_rows: int, device: torch.device) -> Tensor | None:
        """Who attends to whom, bool [R + C, R + C]: a noisy row to itself and the conditions, these to each other."""
        if self.attention == "joint":
            return None
        mask = torch.eye(noisy_rows + condition_rows, dtype=torch.bool, device=device)
        mask[:, noisy_rows:] = True
        return mask

    def _row_modulation(self, timesteps: Tensor, condition_rows: int) -> Tensor:
        """Modulation of all rows [B, R + C, L, 6, D]; condition rows get the neutral one (shift 0, scale 0, gate 1)."""
        modulation = self.modulation(timesteps)
        neutral = modulation.new_zeros(6, 1)
        neutral[2::3] = 1.0
        shape = (timesteps.shape[0], condition_rows, *modulation.shape[2:])
        return torch.cat((modulation, neutral.expand(shape)), dim=1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, rows: Tensor, modulation: Tensor, mask: Tensor | None, kept: int) -> Tensor:
        """Rows [B, N, D] with modulation [B, N, 6, D] to the first ``kept`` rows [B, kept, D]."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.unbind(2)
        normalised = torch.addcmul(shift, self.attention_norm(rows), 1 + scale)
        query, key, value = self.query_key_value(normalised).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask[:kept]
        mixed = functional.scaled_dot_product_attention(query[:, :, :kept], key, value, attn_mask=mask)
        rows = torch.addcmul(rows[:, :kept], gate[:, :kept], self.projection(mixed.transpose(1, 2).flatten(2)))
        normalised = torch.addcmul(mlp_shift[:, :kept], self.mlp_norm(rows), 1 + mlp_scale[:, :kept])
        return torch.addcmul(rows, mlp_gate[:, :kept], self.contract(functional.gelu(self.expand(normalised))))

    def weights(self) -> BlockWeights:
        layers = (self.attention_norm, self.query_key_value, self.projection, self.mlp_norm, self.expand, self.contract)
        return BlockWeights(*(tensor for layer in layers for tensor in (layer.weight, layer.bias)))
