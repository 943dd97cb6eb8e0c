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
# Of matrices. Beside bfloat16 the vectors are float32, each array begins at a multiple of 16 bytes, and two bytes stand
# behind all, as csrc/core/denoiser_flat.h has it.
FLAT_TYPES = (torch.float32, torch.float64, torch.bfloat16)
HEADER_BYTES = 64
_ALIGNMENT = 16
_MARK = 2


class FlatHeader(NamedTuple):
    """What a flat pack says of itself: a position in FLAT_TYPES, and the size of the denoiser."""

    kind: int
    layers: int
    width: int
    heads: int


def weight_shapes(layers: int, width: int) -> list[tuple[int, ...]]:
    """Shapes of all weights in order."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [*(block * layers), (width,), (width,), (width, width), (width,)]


def flatten_denoiser(weights: DenoiserWeights, heads: int, *, rounded: bool = False) -> Tensor:
    """Header and weights, one after the other, in float64 where they are, else in float32: uint8 [bytes].

    Args:
        weights: of the denoiser.
        heads: attention heads.
        rounded: matrices in bfloat16, vectors in float32.
    """
    dtype = torch.float64 if weights.norm_weight.dtype == torch.float64 and not rounded else torch.float32
    if rounded:
        pieces = [_padded(tensor.detach().to(_stored(tensor.dim(), dtype, rounded))) for tensor in weights.tensors()]
        body = torch.cat([*pieces, pieces[0].new_zeros(_MARK)])
    else:
        body = torch.cat([tensor.detach().to(dtype).flatten() for tensor in weights.tensors()]).view(torch.uint8)
    kind = FLAT_TYPES.index(torch.bfloat16 if rounded else dtype)
    numbers = (MAGIC, FLAT, kind, 0, len(weights.blocks), weights.norm_weight.shape[0], heads)
    header = torch.tensor([*numbers, HEADER_BYTES + body.numel()], dtype=torch.int64, device=body.device)
    return torch.cat((header.view(torch.uint8), body))


def _stored(dimensions: int, dtype: torch.dtype, rounded: bool) -> torch.dtype:
    return torch.bfloat16 if rounded and dimensions == 2 else dtype


def _padded(tensor: Tensor) -> Tensor:
    """Its bytes, filled up with zeros."""
    content = tensor.contiguous().flatten().view(torch.uint8)
    return torch.nn.functional.pad(content, (0, -content.numel() % _ALIGNMENT))


def flat_header(flat: Tensor) -> FlatHeader:
    """The header of a flat pack; of one on a GPU the host waits for it.

    Raises:
        ValueError: not a flat pack, or cut short.
    """
    header = flat[:HEADER_BYTES].clone().view(torch.int64).tolist() if flat.numel() >= HEADER_BYTES else [0]
    if header[0] != MAGIC or header[1] != FLAT or header[-1] != flat.numel():
        raise ValueError("expected the weights of a denoiser in their flat form, whole")
    _, _, kind, _, layers, width, heads, _ = header
    return FlatHeader(kind, layers, width, heads)


def unflatten_denoiser(flat: Tensor, header: FlatHeader | None = None) -> tuple[DenoiserWeights, int]:
    """The weights in a flat pack, and the number of heads; ``header`` is the pack's, read already.

    Raises:
        ValueError: not a flat pack, or cut short.
    """
    header = flat_header(flat) if header is None else header
    rounded = FLAT_TYPES[header.kind] == torch.bfloat16
    dtype = torch.float32 if rounded else FLAT_TYPES[header.kind]
    body = flat[HEADER_BYTES:].clone()
    tensors = []
    start = 0
    for shape in weight_shapes(header.layers, header.width):
        stored = _stored(len(shape), dtype, rounded)
        end = start + torch.Size(shape).numel() * stored.itemsize
        tensors.append(body[start:end].view(stored).view(shape).to(dtype))
        start = end + (-end % _ALIGNMENT if rounded else 0)
    per_block = len(BlockWeights._fields)
    blocks = tuple(BlockWeights(*tensors[i * per_block : (i + 1) * per_block]) for i in range(header.layers))
    return DenoiserWeights(blocks, *tensors[header.layers * per_block :]), header.heads


def pack_denoiser(flat: Tensor, dtype: str, instruction_set: str) -> Tensor:
    """The flat form again, with matrices stored as ``dtype`` says: devices without a packing of their own read that.

    Args:
        flat: of :func:`flatten_denoiser`.
        dtype: "float32", "float64", or "bfloat16" for matrices in that type.
        instruction_set: of no meaning here.
    """
    weights, heads = unflatten_denoiser(flat)
    if dtype == "bfloat16":
        return flatten_denoiser(weights, heads, rounded=True)
    wide = torch.float64 if dtype == "float64" else torch.float32
    blocks = tuple(BlockWeights(*(tensor.to(wide) for tensor in block)) for block in weights.blocks)
    return flatten_denoiser(DenoiserWeights(blocks, *(tensor.to(wide) for tensor in weights[1:])), heads)
