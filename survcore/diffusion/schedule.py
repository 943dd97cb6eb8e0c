"""The noise schedule and the tables that a sampler steps through."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

PREDICTIONS = ("velocity", "noise")
SOLVERS = ("ddim", "dpm_solver++")


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

    def sampling_timesteps(self, num_steps: int, solver: str = "ddim") -> Tensor:
        """Training steps that sampling visits, descending, int64 [num_steps].

        For "ddim" evenly spaced, i * T // num_steps; for "dpm_solver++" evenly in log(alpha / sigma) (Lu et al. 2022),
        as near as distinct training steps allow.

        Raises:
            ValueError: ``num_steps`` outside 1..T, or an unknown solver.
        """
        if not 1 <= num_steps <= self.timesteps:
            raise ValueError(f"num_steps must lie in 1..{self.timesteps}, got {num_steps}")
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
        if solver == "ddim":
            return torch.arange(num_steps - 1, -1, -1) * self.timesteps // num_steps
        alpha_bar = self.alpha_bar()
        log_ratio = 0.5 * (alpha_bar / (1 - alpha_bar)).log()  # descending over training steps
        wanted = torch.linspace(log_ratio[-1], log_ratio[0], num_steps, dtype=torch.float64)
        nearest = (log_ratio - wanted.unsqueeze(1)).abs().argmin(1).flip(0)
        # Ascending: each beyond the one before, and with room for those to come.
        place = torch.arange(num_steps)
        nearest = (nearest - place).cummax(0).values + place
        return torch.minimum(nearest, self.timesteps - num_steps + place).flip(0)

    def target(self, clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
        """What the denoiser's output F should be for z = sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise."""
        if self.prediction == "noise":
            return noise
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean

    def coefficients(self, num_steps: int, eta: float = 0.0, solver: str = "ddim") -> Tensor:
        """Coefficients of each step x' = A x + B F + S noise + W F_previous + V x_previous: float64 [num_steps, 5].

        F is the denoiser's output, F_previous and x_previous are those of the step before. The last step ends at
        alpha-bar 1, where no noise is added.

        Args:
            num_steps: sampling steps, 1..T.
            eta: of DDIM; 0 is deterministic, 1 is ancestral sampling (Song et al. 2021, eqs. 12 and 16).
            solver: "ddim", or "dpm_solver++", the deterministic multi-step DPM-Solver++(2M) (Lu et al. 2022, algorithm
                2), which uses the estimate of the clean latent at the step before as well. Its first and last steps are
                of first order, as DDIM's.

        Raises:
            ValueError: ``num_steps`` out of range, an unknown solver, or one that takes no ``eta``.
        """
        if eta < 0 or (eta > 0 and solver != "ddim"):
            raise ValueError(f"eta must be at least 0, and 0 for a solver other than ddim; got {eta} for {solver}")
        return torch.tensor(_coefficients(self, num_steps, float(eta), solver), dtype=torch.float64)

    def _ddim(self, now: Tensor, after: Tensor, eta: float) -> Tensor:
        spread = eta * ((1 - after) / (1 - now) * (1 - now / after)).sqrt()
        signal = (after / now).sqrt()
        noise = (1 - after - spread.square()).clamp(min=0.0).sqrt() - signal * (1 - now).sqrt()
        if self.prediction == "velocity":
            # The same step with the noise estimate written out in x and F.
            signal, noise = signal + noise * (1 - now).sqrt(), noise * now.sqrt()
        absent = torch.zeros_like(now)
        return torch.stack((signal, noise, spread, absent, absent), dim=1)

    def _dpm_solver(self, now: Tensor, after: Tensor) -> Tensor:
        # The clean latent is estimated as c x + d F.
        if self.prediction == "velocity":
            c, d = now.sqrt(), -(1 - now).sqrt()
        else:
            c, d = now.rsqrt(), -(1 / now - 1).sqrt()
        log_ratio = 0.5 * (now / (1 - now)).log()  # lambda = log(alpha / sigma)
        length = log_ratio.diff()  # h of each step but the last, which has no finite one
        kept = ((1 - after) / (1 - now)).sqrt()
        gain = after.sqrt() - kept * now.sqrt()  # alpha' (1 - exp(-h))
        extrapolation = torch.zeros_like(now)  # 1 / (2 r)
        extrapolation[1:-1] = 0.5 * length[1:] / length[:-1]
        before = -gain * extrapolation
        own = gain * (1 + extrapolation)
        previous_c, previous_d = c.roll(1), d.roll(1)
        return torch.stack(
            (kept + own * c, own * d, torch.zeros_like(now), before * previous_d, before * previous_c), dim=1
        )


@lru_cache(maxsize=64)
def _coefficients(schedule: NoiseSchedule, num_steps: int, eta: float, solver: str) -> list[list[float]]:
    """The table as numbers: a tensor that is kept would carry the mode of the call that made it first."""
    now = schedule.alpha_bar()[schedule.sampling_timesteps(num_steps, solver)]
    after = torch.cat((now[1:], now.new_ones(1)))
    table = schedule._ddim(now, after, eta) if solver == "ddim" else schedule._dpm_solver(now, after)
    return table.tolist()
