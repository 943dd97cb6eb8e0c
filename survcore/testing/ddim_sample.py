"""OpCase of ddim_sample."""

from __future__ import annotations

import torch

from survcore.reference import ddim_sample as reference
from survcore.reference.pack_denoiser import BlockWeights, DenoiserWeights, flatten_denoiser, weight_shapes
from survcore.testing.op_case import Arguments, OpCase, convert


def denoiser_weights(dtype: torch.dtype, layers: int, width: int) -> DenoiserWeights:
    """Random weights of a size at which every part of the denoiser matters to its output."""
    generator = torch.Generator().manual_seed(13)
    tensors = [
        (torch.randn(shape, generator=generator) / shape[-1] ** 0.5 + (0.5 if len(shape) == 1 else 0.0)).to(dtype)
        for shape in weight_shapes(layers, width)
    ]
    size = len(BlockWeights._fields)
    blocks = tuple(BlockWeights(*tensors[size * layer : size * (layer + 1)]) for layer in range(layers))
    return DenoiserWeights(blocks, *tensors[size * layers :])


def ddim_arguments(
    dtype: torch.dtype,
    draws: int,
    *,
    patients: int = 2,
    tokens: int = 2,
    width: int = 16,
    heads: int = 4,
    layers: int = 2,
    steps: int = 3,
    noisy: bool = True,
) -> Arguments:
    """Random draws, and coefficients that use every term of a step; the weights in their flat form."""
    generator = torch.Generator().manual_seed(17)
    weights = denoiser_weights(torch.float64 if dtype == torch.float64 else torch.float32, layers, width)
    noise = torch.randn(draws, width, generator=generator)
    condition = torch.randn(patients, tokens, width, generator=generator)
    index = torch.randint(0, max(patients, 1), (draws,), generator=generator)
    step_noise = torch.randn(steps, draws, width, generator=generator) if noisy else torch.empty(0)
    modulation = 0.5 * torch.randn(steps, layers, 6, width, generator=generator)
    coefficients = torch.tensor([0.9, 0.3, 0.2, 0.1, -0.1]) + 0.05 * torch.randn(steps, 5, generator=generator)
    return convert(
        (noise, condition, index, step_noise, flatten_denoiser(weights, heads), modulation, coefficients), dtype
    )


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    samples = {
        "plain": ddim_arguments(dtype, 5, noisy=False),
        "step_noise": ddim_arguments(dtype, 5),
        "one_draw": ddim_arguments(dtype, 1, patients=1, steps=1),
        "odd_heads": ddim_arguments(dtype, 3, width=15, heads=3),
        "one_head": ddim_arguments(dtype, 4, width=7, heads=1, layers=1),
        "no_condition_rows": ddim_arguments(dtype, 3, tokens=0),
        "many_condition_rows": ddim_arguments(dtype, 6, patients=3, tokens=5),
        "wide": ddim_arguments(dtype, 7, width=96, heads=2),
    }
    # Around the six and twelve rows of a product, the 16 and 32 of tiles, and the 32 draws of a block.
    for draws in (6, 7, 12, 13, 16, 17, 32, 33, 40, 70):
        samples[f"{draws}_draws"] = ddim_arguments(dtype, draws, patients=9, width=24, heads=2, steps=2)
    return samples


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    noise, condition, index, step_noise, *rest = ddim_arguments(dtype, 6, patients=3)
    index = torch.tensor([0, 1, 2, 2, 1, 0])
    nan_condition, nan_noise, infinite = condition.clone(), noise.clone(), noise.clone()
    nan_condition[1, 0, 3] = torch.nan
    nan_noise[2, 0] = torch.nan
    infinite[4, 1] = torch.inf
    return {
        "no_draws": (noise[:0], condition, index[:0], step_noise[:, :0], *rest),
        "no_steps": (noise, condition, index, step_noise[:0], rest[0], rest[1][:0], rest[2][:0]),
        "no_patients": (noise, condition[:0], index, step_noise, *rest),
        "index_out_of_range": (noise, condition, torch.tensor([0, -1, 2, 3, 2**40, 1]), step_noise, *rest),
        "nan_condition": (noise, nan_condition, index, step_noise, *rest),
        "nan_noise": (nan_noise, condition, index, step_noise, *rest),
        "infinite_noise": (infinite, condition, index, step_noise, *rest),
    }


CASE = OpCase(
    name="ddim_sample",
    reference=reference.ddim_sample,
    reference_backward=None,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: ddim_arguments(dtype, 100, patients=20, width=64, steps=10),
    differentiable=(),
    differentiable_outputs=(),
)
