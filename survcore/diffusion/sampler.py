"""Sampling from a trained denoiser: all draws of all patients in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from survcore.arguments import whole_number
from survcore.diffusion.denoiser import Denoiser
from survcore.diffusion.packed import PRECISIONS
from survcore.diffusion.schedule import NoiseSchedule
from survcore.ops.ddim_sample import check_draws, ddim_sample
from survcore.reference.ddim_sample import sampling_loop

# On a CUDA device. With few draws the time goes into launches, which the compiled loop saves; with many into products,
# which the vendor's library computes faster.
MOST_COMPILED_DRAWS = 256


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

    On the CPU, and of few draws on a CUDA device, under ``torch.no_grad()`` or with nothing that requires a gradient,
    the compiled loop :func:`survcore.ops.ddim_sample` runs; its packed weights and tables are kept with the denoiser.
    Where a gradient is asked for, under ``torch.func``, ``torch.compile`` and ``torch.export``, with "joint" attention,
    on other devices and of more draws on a CUDA device, whose large products it leaves to the vendor's library, it is
    the plain loop of :mod:`survcore.reference.ddim_sample`, which is differentiable.

    Args:
        denoiser: its ``attention`` decides what the condition rows see.
        noise: standard normal [S, D], where each draw starts.
        condition: [P, C, D], one per patient.
        condition_index: int64 [S], the patient of each draw; one out of range makes its draw NaN.
        schedule: the one the denoiser was trained with.
        num_steps: sampling steps, 1..T.
        eta: 0 is deterministic; above 0 each step adds noise and ``step_noise`` is needed.
        step_noise: standard normal [num_steps, S, D].
        solver: "ddim" or "dpm_solver++", see :meth:`NoiseSchedule.coefficients`.
        precision: "full" (that of the weights), or "bfloat16": the compiled loop holds its matrices in half the memory;
            the plain one takes no notice.

    Returns:
        Latents [S, D].

    Raises:
        ValueError: ``eta`` above 0 without ``step_noise``, ``num_steps`` out of range, an unknown solver or precision,
            or shapes or devices that do not fit together.
        TypeError: ``condition_index`` is not int64, or another tensor not floating.
    """
    if eta > 0 and step_noise is None:
        raise ValueError(f"eta {eta} adds noise at each step: step_noise [num_steps, S, D] is needed")
    check_options(schedule, draws=1, num_steps=num_steps, solver=solver, precision=precision)
    visited = schedule.visited(num_steps, solver)
    coefficients = schedule.coefficients(num_steps, eta, solver)
    check_draws(noise, condition, condition_index, step_noise, len(visited))
    if denoiser.output.weight.device != noise.device:
        raise ValueError(f"the denoiser is on {denoiser.output.weight.device}, noise on {noise.device}")
    if _plain(denoiser, *(tensor for tensor in (noise, condition, step_noise) if tensor is not None)):
        timesteps = torch.tensor(visited, device=noise.device)
        return sampling_loop(
            noise,
            condition,
            condition_index,
            step_noise,
            denoiser.weights(),
            denoiser.modulation(timesteps),
            coefficients.to(noise.device),
            heads=denoiser.heads,
            attention=denoiser.attention,
        )
    weights, modulation, table = denoiser.packed.tables(denoiser, precision, visited, coefficients)
    return ddim_sample(noise, condition, condition_index, weights, modulation, table, step_noise=step_noise)


def check_options(schedule: NoiseSchedule, *, draws: int, num_steps: int, solver: str, precision: str) -> None:
    """Raise ValueError unless a model with this schedule can be sampled so."""
    whole_number("draws", draws, 1)
    schedule.visited(num_steps, solver)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def _plain(denoiser: Denoiser, *inputs: Tensor) -> bool:
    """Whether the loop of stock operations has to run."""
    device = inputs[0].device.type
    many = device == "cuda" and inputs[0].shape[0] > MOST_COMPILED_DRAWS
    if denoiser.attention != "prefix" or device not in ("cpu", "cuda") or many:
        return True
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    if torch.compiler.is_compiling() or transformed:
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*inputs, *denoiser.parameters()))
