"""Sampling from a trained denoiser: all draws of all patients in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.diffusion.denoiser import Denoiser
from survcore.diffusion.schedule import NoiseSchedule
from survcore.reference.ddim_sample import ddim_sample


@torch.no_grad()
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
) -> Tensor:
    """Denoise draws step by step (DDIM, Song et al. 2021; MUST, eq. 21).

    Coefficients and time modulation depend on the schedule alone and are tabulated before the loop.

    Args:
        denoiser: its ``attention`` decides what the condition rows see.
        noise: standard normal [S, D], where each draw starts.
        condition: [P, C, D], one per patient.
        condition_index: int64 [S], the patient of each draw.
        schedule: the one the denoiser was trained with.
        num_steps: sampling steps, 1..T.
        eta: 0 is deterministic; above 0 each step adds noise and ``step_noise`` is needed.
        step_noise: standard normal [num_steps, S, D].

    Returns:
        Latents [S, D].

    Raises:
        ValueError: ``eta`` above 0 without ``step_noise``, or ``num_steps`` out of range.
    """
    if eta > 0 and step_noise is None:
        raise ValueError(f"eta {eta} adds noise at each step: step_noise [num_steps, S, D] is needed")
    coefficients = schedule.coefficients(num_steps, eta).to(device=noise.device)
    modulation = denoiser.modulation(schedule.sampling_timesteps(num_steps).to(noise.device))
    return ddim_sample(
        noise,
        condition,
        condition_index,
        step_noise,
        denoiser.weights(),
        modulation,
        coefficients,
        heads=denoiser.heads,
        attention=denoiser.attention,
    )
