"""The whole sampling loop of a latent diffusion model in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from survcore import _library
from survcore.ops._sampling_graphs import SamplingGraphs


def ddim_sample(
    noise: Tensor,
    condition: Tensor,
    condition_index: Tensor,
    packed_weights: Tensor,
    modulation: Tensor,
    coefficients: Tensor,
    *,
    step_noise: Tensor | None = None,
) -> Tensor:
    """Denoise S draws through T steps: x' = A x + B F(x) + S noise + W F_previous + V x_previous.

    F is the denoising transformer of :class:`survcore.diffusion.Denoiser` with prefix attention: condition rows attend
    to each other, so that their keys and values are computed once per condition; the noisy row attends to itself and to
    them. Rows do not influence each other: NaN in a condition stays in its own draws.

    Args:
        noise: [S, D], where each draw starts.
        condition: [P, C, D], the distinct conditions (patients), C rows each.
        condition_index: int64 [S], the condition of each draw; one out of range makes its draw NaN.
        packed_weights: uint8 [bytes], of :func:`survcore.ops.pack_denoiser`.
        modulation: [T, L, 6, D], shift, scale and gate of the noisy row, for attention and for the MLP of each layer.
        coefficients: [T, 5], A, B, S, W, V of each step (:meth:`survcore.diffusion.NoiseSchedule.coefficients`).
        step_noise: [T, S, D], the noise that S scales; None for none.

    Returns:
        [S, D] in the dtype of ``noise``. Computed in float64 if the weights were packed so, else in float32.

    Raises:
        ValueError: shapes or devices do not fit together.
        TypeError: condition_index is not int64, packed_weights not uint8, or another argument not floating.
        RuntimeError: an argument requires a gradient (there is none; :func:`survcore.diffusion.sample` has one), or the
            weights are packed for another width, number of layers or instruction set.

    Example::

        packed = pack_denoiser(denoiser.weights(), heads=denoiser.heads)  # once
        modulation = denoiser.modulation(schedule.sampling_timesteps(50))  # once per number of steps
        latents = ddim_sample(noise, condition, index, packed, modulation, schedule.coefficients(50))

    Source: DDIM, Song et al. 2021, eq. 12; DPM-Solver++(2M), Lu et al. 2022; in MUST, eq. 21.
    """
    _check(noise, condition, condition_index, packed_weights, modulation, coefficients, step_noise)
    if step_noise is None:
        step_noise = noise.new_empty(0)
    return torch.ops.survcore.ddim_sample(
        noise, condition, condition_index, step_noise, packed_weights, modulation, coefficients
    )


def check_draws(
    noise: Tensor, condition: Tensor, condition_index: Tensor, step_noise: Tensor | None, steps: int
) -> None:
    """Raise ValueError or TypeError unless these arguments of a sampler with so many steps fit together."""
    if noise.dim() != 2 or noise.shape[1] == 0:
        raise ValueError(f"noise must be [S, D] with D >= 1, got shape {tuple(noise.shape)}")
    draws, width = noise.shape
    if condition.dim() != 3 or condition.shape[2] != width:
        raise ValueError(f"condition must be [P, C, {width}] as noise is [S, {width}], got {tuple(condition.shape)}")
    if condition_index.shape != (draws,):
        raise ValueError(f"condition_index must have shape ({draws},), got {tuple(condition_index.shape)}")
    if step_noise is not None and step_noise.shape != (steps, draws, width):
        raise ValueError(f"step_noise must have shape ({steps}, {draws}, {width}), got {tuple(step_noise.shape)}")
    if condition_index.dtype != torch.int64:
        raise TypeError(f"condition_index must be int64, got {condition_index.dtype}")
    given = {"noise": noise, "condition": condition, "step_noise": step_noise, "condition_index": condition_index}
    _check_kinds({name: value for name, value in given.items() if value is not None}, noise)


def _check_kinds(given: dict[str, Tensor], noise: Tensor) -> None:
    for name, value in given.items():
        if name != "condition_index" and not value.is_floating_point():
            raise TypeError(f"{name} must be floating, got {value.dtype}")
        if value.device != noise.device:
            raise ValueError(f"{name} is on {value.device}, noise on {noise.device}: expected one device")


def _check(
    noise: Tensor,
    condition: Tensor,
    condition_index: Tensor,
    packed_weights: Tensor,
    modulation: Tensor,
    coefficients: Tensor,
    step_noise: Tensor | None,
) -> None:
    if coefficients.dim() != 2 or coefficients.shape[1] != 5:
        raise ValueError(f"coefficients must be [T, 5], got shape {tuple(coefficients.shape)}")
    steps = coefficients.shape[0]
    check_draws(noise, condition, condition_index, step_noise, steps)
    width = noise.shape[1]
    if modulation.dim() != 4 or modulation.shape[0] != steps or tuple(modulation.shape[2:]) != (6, width):
        raise ValueError(f"modulation must be [{steps}, L, 6, {width}], got shape {tuple(modulation.shape)}")
    _check_kinds({"modulation": modulation, "coefficients": coefficients}, noise)
    if packed_weights.dtype != torch.uint8:
        raise TypeError(f"packed_weights must be uint8, got {packed_weights.dtype}")
    if packed_weights.dim() != 1 or packed_weights.device != noise.device:
        raise ValueError(
            f"packed_weights must be [bytes] on {noise.device}, got {packed_weights.dim()} dimensions on "
            f"{packed_weights.device}"
        )
    for name, value in (("noise", noise), ("condition", condition), ("modulation", modulation)):
        _refuse_gradient(name, value)
    if step_noise is not None:
        _refuse_gradient("step_noise", step_noise)


def _refuse_gradient(name: str, value: Tensor) -> None:
    dual = forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None
    if dual or (value.requires_grad and torch.is_grad_enabled()):
        raise RuntimeError(f"{name} requires a gradient, which ddim_sample does not have: call it under no_grad")


@torch.library.register_fake("survcore::ddim_sample")
def _fake(noise: Tensor, *_: Tensor) -> Tensor:
    return noise.new_empty(noise.shape)


_graphs = SamplingGraphs()


def _plain(*arguments: Tensor) -> Tensor:
    # Streams, events and graphs are those of the current device.
    with torch.cuda.device(arguments[0].device):
        return _graphs(*arguments)


_library.serve_cuda("ddim_sample", _plain)
