"""Plain PyTorch definition of the whole DDIM sampling loop with the denoising transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from survcore.reference.pack_denoiser import (
    BlockWeights,
    DenoiserWeights,
    FlatHeader,
    flat_header,
    unflatten_denoiser,
)

ATTENTIONS = ("prefix", "joint")


def ddim_sample(
    noise: Tensor,
    condition: Tensor,
    condition_index: Tensor,
    step_noise: Tensor,
    packed_weights: Tensor,
    modulation: Tensor,
    coefficients: Tensor,
) -> Tensor:
    """:func:`sampling_loop` with prefix attention, with the weights in their flat form.

    An empty ``step_noise`` is none.
    """
    header = flat_header(packed_weights)
    return sample_from_flat(
        header, noise, condition, condition_index, step_noise, packed_weights, modulation, coefficients
    )


def sample_from_flat(
    header: FlatHeader,
    noise: Tensor,
    condition: Tensor,
    condition_index: Tensor,
    step_noise: Tensor,
    packed_weights: Tensor,
    modulation: Tensor,
    coefficients: Tensor,
) -> Tensor:
    """:func:`ddim_sample` for weights whose header has been read: nothing of it waits for the device."""
    weights, heads = unflatten_denoiser(packed_weights, header)
    blocks = tuple(BlockWeights(*(tensor.to(noise.dtype) for tensor in block)) for block in weights.blocks)
    weights = DenoiserWeights(blocks, *(tensor.to(noise.dtype) for tensor in weights[1:]))
    added = step_noise if step_noise.numel() else None
    return sampling_loop(noise, condition, condition_index, added, weights, modulation, coefficients, heads=heads)


def sampling_step(
    draws: Tensor,
    previous_draws: Tensor,
    previous_output: Tensor,
    condition_rows: Tensor,
    prefix: list[tuple[Tensor, Tensor]],
    weights: DenoiserWeights,
    modulation: Tensor,
    coefficients: Tensor,
    step_noise: Tensor | None,
    heads: int,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`sampling_loop`: x' and F.

    Args:
        draws: [S, 1, D], x.
        previous_draws, previous_output: [S, 1, D], x_previous and F_previous.
        condition_rows: [S, C, D], read with "joint" attention.
        prefix: keys and values [S, heads, C, D / heads] of the condition rows in every layer; empty for "joint".
        weights: of the denoiser.
        modulation: [L, 6, R, D] of this step, R rows: the x row, and with "joint" attention the condition rows.
        coefficients: [5], A, B, S, W, V of this step.
        step_noise: [S, D]; None for none.
        heads: attention heads.
    """
    rows = draws if prefix else torch.cat((draws, condition_rows), dim=1)
    for layer, block in enumerate(weights.blocks):
        rows, _, _ = _block(rows, block, heads, modulation[layer], prefix[layer] if prefix else None)
    final = _norm(rows[:, :1], weights.norm_weight, weights.norm_bias)
    output = functional.linear(final, weights.output_weight, weights.output_bias)
    signal, direction, spread, momentum, memory = coefficients.unbind()
    following = signal * draws + direction * output + momentum * previous_output + memory * previous_draws
    if step_noise is not None:
        following = following + spread * step_noise.unsqueeze(1)
    return following, output


def sampling_loop(
    noise: Tensor,
    condition: Tensor,
    condition_index: Tensor,
    step_noise: Tensor | None,
    weights: DenoiserWeights,
    modulation: Tensor,
    coefficients: Tensor,
    *,
    heads: int,
    attention: str = "prefix",
    step: Callable[..., tuple[Tensor, Tensor]] = sampling_step,
) -> Tensor:
    """Run all sampling steps of all draws at once: x' = A x + B F + S step_noise + W F_previous + V x_previous.

    F is what the denoiser makes of the rows [x; condition rows], F_previous and x_previous are those of the step before
    (0 at the first). The condition rows carry no time; with "prefix" attention they do not see x either, so that their
    keys and values are computed once per condition, before the loop.

    Args:
        noise: [S, D], where each draw starts.
        condition: [P, C, D], the distinct conditions.
        condition_index: int64 [S], the condition of each draw; one out of range makes its draw NaN.
        step_noise: [T, S, D]; None for none.
        weights: of the denoiser.
        modulation: [T, L, 6, D], shift, scale, gate of the x row for attention, then for the MLP, per step and layer.
        coefficients: [T, 5], A, B, S, W, V of each step.
        heads: attention heads; D is a multiple.
        attention: "prefix" or "joint" (condition rows also see x).
        step: :func:`sampling_step`, or that function compiled.

    Returns:
        The latents after the last step, [S, D].
    """
    if condition.shape[0] == 0:
        return torch.full_like(noise, torch.nan, memory_format=torch.contiguous_format)
    known = (condition_index >= 0) & (condition_index < condition.shape[0])
    condition_index = torch.where(known, condition_index, 0)
    draws = noise.unsqueeze(1)
    previous_draws, previous_output = torch.zeros_like(draws), torch.zeros_like(draws)
    modulation = _per_row(modulation, 0 if attention == "prefix" else condition.shape[1])
    prefix: list[tuple[Tensor, Tensor]] = []
    if attention == "prefix":
        prefix = [(key[condition_index], value[condition_index]) for key, value in _prefix(condition, weights, heads)]
    condition_rows = condition[condition_index]
    for index, row in enumerate(coefficients.to(noise.dtype)):
        added = None if step_noise is None else step_noise[index]
        state = (draws, previous_draws, previous_output)
        following, output = step(*state, condition_rows, prefix, weights, modulation[index], row, added, heads)
        draws, previous_draws, previous_output = following, draws, output
    return torch.where(known.unsqueeze(1), draws.squeeze(1), torch.nan)


def _per_row(modulation: Tensor, condition_rows: int) -> Tensor:
    """[T, L, 6, D] to [T, L, 6, 1 + C, D]: condition rows get the neutral one (shift 0, scale 0, gate 1)."""
    neutral = modulation.new_zeros(6, condition_rows, 1)
    neutral[2::3] = 1.0
    shape = (*modulation.shape[:3], condition_rows, modulation.shape[-1])
    return torch.cat((modulation.unsqueeze(3), neutral.expand(shape)), dim=3)


def _prefix(condition: Tensor, weights: DenoiserWeights, heads: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [P, heads, C, D / heads] of the condition rows in every layer."""
    neutral = _per_row(condition.new_zeros(1, 1, 6, condition.shape[-1]), condition.shape[1])[0, 0, :, 1:]
    found = []
    rows = condition
    for block in weights.blocks:
        rows, key, value = _block(rows, block, heads, neutral, None)
        found.append((key, value))
    return found


def _block(
    rows: Tensor, block: BlockWeights, heads: int, modulation: Tensor, prefix: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One block over rows [N, R, D] with modulation [6, R, D]; also returns the keys and values of these rows."""
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.unbind()
    normalised = _norm(rows, block.attention_norm_weight, block.attention_norm_bias) * (1 + scale) + shift
    projected = functional.linear(normalised, block.query_key_value_weight, block.query_key_value_bias)
    query, key, value = projected.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    keys, values = key, value
    if prefix is not None:
        keys, values = torch.cat((key, prefix[0]), dim=2), torch.cat((value, prefix[1]), dim=2)
    mixed = functional.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
    rows = rows + gate * functional.linear(mixed, block.projection_weight, block.projection_bias)
    normalised = _norm(rows, block.mlp_norm_weight, block.mlp_norm_bias) * (1 + mlp_scale) + mlp_shift
    hidden = functional.gelu(functional.linear(normalised, block.expand_weight, block.expand_bias))
    rows = rows + mlp_gate * functional.linear(hidden, block.contract_weight, block.contract_bias)
    return rows, key, value


def _norm(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.layer_norm(rows, rows.shape[-1:], weight, bias, eps=1e-5)
