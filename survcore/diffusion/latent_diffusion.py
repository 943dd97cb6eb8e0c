"""A conditional diffusion model of one latent vector: statistics, training loss, draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from survcore.diffusion.denoiser import Denoiser
from survcore.diffusion.sampler import check_options, sample
from survcore.diffusion.schedule import NoiseSchedule
from survcore.draws import row_normal, row_uniform, stream_seed

_ADDED_VARIANCE = 0.1


class LatentDiffusion(nn.Module):
    """Learns and draws a latent [D] given condition rows [C, D] (MUST, section 3.5).

    The denoiser works on whitened latents: the principal components of the training rows, each divided by its standard
    deviation (a tenth of the mean variance is added, which keeps directions without variance from being blown up). A
    latent of few strong directions would else drown in the schedule's noise only at its very end. The error counts in
    the units of the latents.

    Args:
        name: separates the random draws of several models of one system.
        denoiser: predicts what the schedule says, the velocity or the noise.
        schedule: of the noise.
    """

    def __init__(self, name: str, denoiser: Denoiser, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.name = name
        self.denoiser = denoiser
        self.schedule = schedule
        self.register_buffer("mean", torch.zeros(denoiser.width))
        self.register_buffer("directions", torch.eye(denoiser.width))
        self.register_buffer("deviation", torch.ones(denoiser.width))
        self.register_buffer("training_rows", torch.zeros((), dtype=torch.int64))
        self.register_buffer("alpha_bar", schedule.alpha_bar().float(), persistent=False)

    @property
    def fitted(self) -> bool:
        """Whether the statistics of training rows are stored."""
        return bool(self.training_rows > 0)

    @torch.no_grad()
    def fit_statistics(self, latents: Tensor) -> None:
        """Store mean, principal directions and their standard deviations of training latents [n, D].

        Raises:
            ValueError: no rows.
        """
        if not len(latents):
            raise ValueError(f"no training row has {self.name!r}: its latent cannot be learned")
        wide = latents.double()
        mean = wide.mean(0)
        variance, directions = torch.linalg.eigh((wide - mean).T @ (wide - mean) / len(wide))
        added = _ADDED_VARIANCE * variance.clamp(min=0).mean()
        self.mean.copy_(mean)
        self.directions.copy_(directions)
        # Latents that never vary are left unscaled rather than divided by nothing.
        self.deviation.copy_((variance.clamp(min=0) + added).sqrt() if added > 1e-12 else torch.ones_like(variance))
        self.training_rows.fill_(len(latents))

    def loss(self, latents: Tensor, condition: Tensor, row_key: Tensor, *, seed: int, repeats: int = 1) -> Tensor:
        """Mean squared error of the prediction (MUST, eq. 19, where the noise is predicted), a mean over directions.

        Each direction counts by its variance, the added part included; a prediction of no skill has an error of about
        1.

        Args:
            latents: [n, D], as :meth:`fit_statistics` saw them.
            condition: [n, C, D].
            row_key: int64 [n]; timesteps and noise of a row depend on (seed, row) only.
            seed: of the draws.
            repeats: noisy versions per row, with timesteps spread evenly over the schedule.
        """
        clean = ((latents - self.mean) @ self.directions / self.deviation).unsqueeze(1)
        uniform = row_uniform(stream_seed(seed, "timestep", self.name), row_key, repeats)
        timesteps = ((torch.arange(repeats) + uniform) * (self.schedule.timesteps / repeats)).long()
        timesteps = timesteps.clamp(max=self.schedule.timesteps - 1).to(clean.device)
        noise = row_normal(stream_seed(seed, "noise", self.name), row_key, repeats, clean.shape[-1]).to(clean)
        signal = self.alpha_bar[timesteps].unsqueeze(-1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        target = self.schedule.target(clean, noise, signal)
        share = self.deviation.square() / self.deviation.square().mean()
        return (share * (self.denoiser(noisy, timesteps, condition) - target).square()).mean()

    @torch.no_grad()
    def draw(
        self,
        condition: Tensor,
        row_key: Tensor,
        *,
        seed: int,
        draws: int = 5,
        num_steps: int = 50,
        eta: float = 0.0,
        solver: str = "ddim",
        precision: str = "full",
    ) -> Tensor:
        """Latents [n, draws, D] for conditions [n, C, D] in one sampler call; they depend on (seed, row, draw) only.

        ``solver`` and ``precision`` are those of :func:`survcore.diffusion.sample`.

        Raises:
            RuntimeError: the model has not been trained.
            ValueError: ``draws`` below 1, ``num_steps`` out of range, an unknown solver or precision, or ``eta`` with a
                solver that takes none.
        """
        if not self.fitted:
            raise RuntimeError(f"the diffusion model of {self.name!r} has not been trained")
        check_options(self.schedule, draws=draws, num_steps=num_steps, solver=solver, precision=precision)
        rows, width = condition.shape[0], condition.shape[-1]
        index = torch.arange(rows, device=condition.device).repeat_interleave(draws)
        # A seed per draw: the first five of ten draws are the five draws.
        normal = [self._normal(seed, draw, row_key, 1 + (num_steps if eta > 0 else 0), width) for draw in range(draws)]
        normal = torch.stack(normal, dim=1).flatten(0, 1).to(condition)
        step_noise = normal[:, 1:].transpose(0, 1) if eta > 0 else None
        latents = sample(
            self.denoiser,
            normal[:, 0],
            condition,
            index,
            schedule=self.schedule,
            num_steps=num_steps,
            eta=eta,
            step_noise=step_noise,
            solver=solver,
            precision=precision,
        )
        return (latents * self.deviation @ self.directions.T + self.mean).unflatten(0, (rows, draws))

    def _normal(self, seed: int, draw: int, row_key: Tensor, steps: int, width: int) -> Tensor:
        """Standard normals [n, steps, D] of one draw."""
        return row_normal(stream_seed(seed, "draw", self.name, draw), row_key, steps, width)
