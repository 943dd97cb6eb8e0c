"""Sampling from a trained denoiser: all draws of all patients in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.diffusion.denoiser import Denoiser
from survcore.diffusion.packed import PRECISIONS
from survcore.diffusion.schedule import NoiseSchedule
from survcore.ops import ddim_sample
from survcore.reference.ddim_sample import sampling_loop


def sample(
    denoiser: Denoiser,
    noise: Tensor,
    condition: Tensor,
    condition_index: Tensor,
    *,
    schedule: NoiseSchedule,
    num_steps: int = 50,
    eta: float = 0.0,
    step_noise: Tensor | None = None,
    solver: str = "ddim",
    precision: str = "full",
) -> Tensor:
    """Denoise draws step by step (DDIM, Song et al. 2021; MUST, eq. 21).

    On the CPU the compiled loop :func:`survcore.ops.ddim_sample` runs; its packed weights and tables are kept with the
    denoiser. Where a gradient is asked for, with "joint" attention and on other devices it is the plain loop of
    :mod:`survcore.reference.ddim_sample`, which is differentiable.

    Args:
        denoiser: its ``attention`` decides what the condition rows see.
        noise: standard normal [S, D], where each draw starts.
        condition: [P, C, D], one per patient.
        condition_index: int64 [S], the patient of each draw.
        schedule: the one the denoiser was trained with.
        num_steps: sampling steps, 1..T.
        eta: 0 is deterministic; above 0 each step adds noise and ``step_noise`` is needed.
        step_noise: standard normal [num_steps, S, D].
        solver: "ddim" or "dpm_solver++", see :meth:`NoiseSchedule.coefficients`.
        precision: "full" (that of the weights), or "bfloat16": the compiled loop holds its matrices in half the memory.

    Returns:
        Latents [S, D].

    Raises:
        ValueError: ``eta`` above 0 without ``step_noise``, ``num_steps`` out of range, or an unknown solver or
            precision.
    """
    if eta > 0 and step_noise is None:
        raise ValueError(f"eta {eta} adds noise at each step: step_noise [num_steps, S, D] is needed")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    coefficients = schedule.coefficients(num_steps, eta, solver)
    timesteps = schedule.sampling_timesteps(num_steps, solver)
    if (
        denoiser.attention == "prefix"
        and noise.device.type == "cpu"
        and not _needs_gradient(denoiser, noise, condition)
    ):
        weights, modulation = denoiser.packed.tables(denoiser, precision, tuple(timesteps.tolist()))
        return ddim_sample(noise, condition, condition_index, weights, modulation, coefficients, step_noise=step_noise)
    return sampling_loop(
        noise,
        condition,
        condition_index,
        step_noise,
        denoiser.weights(),
        denoiser.modulation(timesteps.to(noise.device)),
        coefficients.to(noise.device),
        heads=denoiser.heads,
        attention=denoiser.attention,
    )


def _needs_gradient(denoiser: Denoiser, *inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*inputs, *denoiser.parameters()))
