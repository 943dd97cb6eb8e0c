"""A denoiser's weights in the order in which the sampler of this machine reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore import _library
from survcore.reference import pack_denoiser as _reference
from survcore.reference.pack_denoiser import DenoiserWeights, flatten_denoiser, weight_shapes

_DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


def pack_denoiser(
    weights: DenoiserWeights, *, heads: int, dtype: torch.dtype | None = None, instruction_set: str = ""
) -> Tensor:
    """Pack the weights of a denoiser once, for any number of calls of :func:`survcore.ops.ddim_sample`.

    The pack is a cache for this machine, not a checkpoint: its header names instruction set, dtype, layers, heads and
    width, and a CPU without that instruction set refuses it.

    Args:
        weights: of the denoiser (:meth:`survcore.diffusion.Denoiser.weights`).
        heads: attention heads; the width is a multiple.
        dtype: float32, float64, or bfloat16, in which matrices are stored in half the memory and draws are computed in
            float32 (on a CPU with AMX, products take bfloat16 on both sides); None: float64 where the weights are, else
            float32.
        instruction_set: "portable", "avx2", "avx512" or "amx" (bfloat16 only); empty: the best of this CPU.

    Returns:
        uint8 [bytes] on the device of the weights, opaque.

    Raises:
        ValueError: weights of wrong shapes, a number of heads that does not divide the width, or an unknown dtype.
        RuntimeError: an instruction set that is unknown or that this CPU lacks.
    """
    layers, width = len(weights.blocks), weights.norm_weight.shape[0]
    if layers == 0 or width == 0:
        raise ValueError(f"a denoiser has layers and a width, got {layers} layers of width {width}")
    if heads < 1 or width % heads:
        raise ValueError(f"heads must divide the width {width}, got {heads}")
    given = [tuple(tensor.shape) for tensor in weights.tensors()]
    for position, (shape, expected) in enumerate(zip(given, weight_shapes(layers, width), strict=True)):
        if shape != expected:
            raise ValueError(f"weight {position} has shape {shape}, expected {expected} for width {width}")
    if dtype is None:
        dtype = torch.float64 if weights.norm_weight.dtype == torch.float64 else torch.float32
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be float32, float64 or bfloat16, got {dtype}")
    return torch.ops.survcore.pack_denoiser(flatten_denoiser(weights, heads), _DTYPES[dtype], instruction_set)


@torch.library.register_fake("survcore::pack_denoiser")
def _fake(flat: Tensor, dtype: str, instruction_set: str) -> Tensor:
    return flat.new_empty(torch.library.get_ctx().new_dynamic_size())


_library.serve_cuda("pack_denoiser", _reference.pack_denoiser)
