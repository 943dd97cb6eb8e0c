"""The noise schedule and the tables that a sampler steps through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PREDICTIONS = ("velocity", "noise")


@dataclass(frozen=True)
class NoiseSchedule:
    """Linear schedule of noise (Ho et al. 2020) with DDIM sampling (Song et al. 2021).

    Attributes:
        timesteps: T, training steps.
        first_beta, last_beta: ends of the linear beta.
        prediction: what the denoiser's output F means for the noise in z. "noise": eps = F. "velocity" (Salimans & Ho
            2022): eps = sqrt(1 - alpha_bar) z + sqrt(alpha_bar) F, which passes z on as it is: the denoiser reads z
            through LayerNorm, and what that loses would be magnified by 1 / sqrt(alpha_bar) where z is nearly all
            noise.
    """

    timesteps: int = 1000
    first_beta: float = 1e-4
    last_beta: float = 0.02
    prediction: str = "velocity"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")

    def alpha_bar(self) -> Tensor:
        """Share of signal variance left after each training step, prod_{s <= t} (1 - beta_s): float64 [T]."""
        return (1.0 - torch.linspace(self.first_beta, self.last_beta, self.timesteps, dtype=torch.float64)).cumprod(0)

    def sampling_timesteps(self, num_steps: int) -> Tensor:
        """Training steps that sampling visits, evenly spaced and descending: i * T // num_steps, int64 [num_steps].

        Raises:
            ValueError: ``num_steps`` outside 1..T.
        """
        if not 1 <= num_steps <= self.timesteps:
            raise ValueError(f"num_steps must lie in 1..{self.timesteps}, got {num_steps}")
        return torch.arange(num_steps - 1, -1, -1) * self.timesteps // num_steps

    def target(self, clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
        """What the denoiser's output F should be for z = sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise."""
        if self.prediction == "noise":
            return noise
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean

    def coefficients(self, num_steps: int, eta: float = 0.0) -> Tensor:
        """Coefficients of x' = A x + B F + S noise + W F_previous at each sampling step: float64 [num_steps, 4].

        F is the denoiser's output. The columns are A, B, S and W; W is 0 for DDIM, multi-step solvers use it. ``eta``
        0 is deterministic DDIM, 1 is ancestral sampling (Song et al., eqs. 12 and 16). The last step ends at
        alpha-bar 1, where no noise is added.
        """
        now = self.alpha_bar()[self.sampling_timesteps(num_steps)]
        after = torch.cat((now[1:], now.new_ones(1)))
        spread = eta * ((1 - after) / (1 - now) * (1 - now / after)).sqrt()
        signal = (after / now).sqrt()
        noise = (1 - after - spread.square()).clamp(min=0.0).sqrt() - signal * (1 - now).sqrt()
        if self.prediction == "velocity":
            # The same step with the noise estimate written out in x and F.
            signal, noise = signal + noise * (1 - now).sqrt(), noise * now.sqrt()
        return torch.stack((signal, noise, spread, torch.zeros_like(now)), dim=1)
