"""The denoiser's weights as the sampler takes them, and their flat form, which every device can read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class BlockWeights(NamedTuple):
    """Weights of one denoiser block, each [out, in] or [out]; a LayerNorm's are [D]."""

    attention_norm_weight: Tensor
    attention_norm_bias: Tensor
    query_key_value_weight: Tensor
    query_key_value_bias: Tensor
    projection_weight: Tensor
    projection_bias: Tensor
    mlp_norm_weight: Tensor
    mlp_norm_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    contract_bias: Tensor


class DenoiserWeights(NamedTuple):
    """Weights of the denoiser without its time embedding, which enters as the table of modulations."""

    blocks: tuple[BlockWeights, ...]
    norm_weight: Tensor
    norm_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def tensors(self) -> list[Tensor]:
        """All weights in order."""
        return [*(tensor for block in self.blocks for tensor in block), *self[1:]]


# The header of csrc/core/denoiser_layout.h: eight int64, of which the flat form leaves the instruction set 0.
MAGIC = 0x316E65646D735653
FLAT = 0
FLAT_TYPES = (torch.float32, torch.float64)
HEADER_BYTES = 64


def weight_shapes(layers: int, width: int) -> list[tuple[int, ...]]:
    """Shapes of all weights in order."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [*(block * layers), (width,), (width,), (width, width), (width,)]


def flatten_denoiser(weights: DenoiserWeights, heads: int) -> Tensor:
    """Header and weights, one after the other, in float64 where they are, else in float32: uint8 [bytes]."""
    dtype = torch.float64 if weights.norm_weight.dtype == torch.float64 else torch.float32
    body = torch.cat([tensor.detach().to(dtype).flatten() for tensor in weights.tensors()]).view(torch.uint8)
    numbers = (MAGIC, FLAT, FLAT_TYPES.index(dtype), 0, len(weights.blocks), weights.norm_weight.shape[0], heads)
    header = torch.tensor([*numbers, HEADER_BYTES + body.numel()], dtype=torch.int64, device=body.device)
    return torch.cat((header.view(torch.uint8), body))


def unflatten_denoiser(flat: Tensor) -> tuple[DenoiserWeights, int]:
    """The weights in a flat pack, and the number of heads.

    Raises:
        ValueError: not a flat pack, or cut short.
    """
    header = flat[:HEADER_BYTES].clone().view(torch.int64).tolist() if flat.numel() >= HEADER_BYTES else [0]
    if header[0] != MAGIC or header[1] != FLAT or header[-1] != flat.numel():
        raise ValueError("expected the weights of a denoiser in their flat form, whole")
    _, _, kind, _, layers, width, heads, _ = header
    body = flat[HEADER_BYTES:].clone().view(FLAT_TYPES[kind])
    shapes = weight_shapes(layers, width)
    pieces = body.split([torch.Size(shape).numel() for shape in shapes])
    tensors = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    per_block = len(BlockWeights._fields)
    blocks = tuple(BlockWeights(*tensors[i * per_block : (i + 1) * per_block]) for i in range(layers))
    return DenoiserWeights(blocks, *tensors[layers * per_block :]), heads


def pack_denoiser(flat: Tensor, dtype: str, instruction_set: str) -> Tensor:
    """The flat form again, with matrices rounded as ``dtype`` says: devices without a packing of their own read that.

    Args:
        flat: of :func:`flatten_denoiser`.
        dtype: "float32", "float64", or "bfloat16", to which matrices are rounded.
        instruction_set: of no meaning here.
    """
    weights, heads = unflatten_denoiser(flat)
    wide = torch.float64 if dtype == "float64" else torch.float32

    def stored(tensor: Tensor) -> Tensor:
        rounded = tensor.to(torch.bfloat16) if dtype == "bfloat16" and tensor.dim() == 2 else tensor
        return rounded.to(wide)

    blocks = tuple(BlockWeights(*map(stored, block)) for block in weights.blocks)
    return flatten_denoiser(DenoiserWeights(blocks, *map(stored, weights[1:])), heads)
