"""The noise schedule and the tables that a sampler steps through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor

from survcore.arguments import whole_number

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
        return torch.tensor(_alpha_bar(self), dtype=torch.float64)

    def sampling_timesteps(self, num_steps: int, solver: str = "ddim") -> Tensor:
        """Training steps that sampling visits, descending, int64 [num_steps].

        For "ddim" evenly spaced, i * T // num_steps; for "dpm_solver++" evenly in log(alpha / sigma) (Lu et al. 2022),
        as near as distinct training steps allow.

        Raises:
            ValueError: ``num_steps`` outside 1..T, or an unknown solver.
        """
        return torch.tensor(self.visited(num_steps, solver), dtype=torch.int64)

    def visited(self, num_steps: int, solver: str = "ddim") -> tuple[int, ...]:
        """:meth:`sampling_timesteps` as numbers."""
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
        if not 1 <= whole_number("num_steps", num_steps) <= self.timesteps:
            raise ValueError(f"num_steps must lie in 1..{self.timesteps} (the model's timesteps), got {num_steps}")
        return _visited(self, num_steps, solver)

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
        visited = self.visited(num_steps, solver)
        if not 0 <= eta < math.inf or (eta > 0 and solver != "ddim"):
            raise ValueError(f"eta must be at least 0, and 0 for a solver other than ddim; got {eta} for {solver}")
        return torch.tensor(_coefficients(self, visited, float(eta), solver), dtype=torch.float64)


# All tables are made of numbers: a tensor that is kept would carry the mode of the call that made it first.


@lru_cache(maxsize=16)
def _alpha_bar(schedule: NoiseSchedule) -> tuple[float, ...]:
    slope = (schedule.last_beta - schedule.first_beta) / max(schedule.timesteps - 1, 1)
    return tuple(accumulate((1.0 - (schedule.first_beta + slope * t) for t in range(schedule.timesteps)), mul))


def _log_ratio(alpha_bar: float) -> float:
    """lambda = log(alpha / sigma)."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


@lru_cache(maxsize=64)
def _visited(schedule: NoiseSchedule, num_steps: int, solver: str) -> tuple[int, ...]:
    total = schedule.timesteps
    if solver == "ddim":
        return tuple(i * total // num_steps for i in range(num_steps - 1, -1, -1))
    ratios = [_log_ratio(value) for value in _alpha_bar(schedule)]  # descending over training steps
    ascending: list[int] = []
    for i in range(num_steps):
        # From the last training step alone up to all of them: a single step starts at the last.
        share = i / (num_steps - 1) if num_steps > 1 else 1.0
        wanted = ratios[0] + share * (ratios[-1] - ratios[0])
        nearest = min(range(total), key=lambda t: abs(ratios[t] - wanted))
        # Beyond the one before, and with room for those to come.
        beyond = max(nearest, ascending[-1] + 1 if ascending else 0)
        ascending.append(min(beyond, total - num_steps + i))
    return tuple(reversed(ascending))


@lru_cache(maxsize=64)
def _coefficients(
    schedule: NoiseSchedule, visited: tuple[int, ...], eta: float, solver: str
) -> list[tuple[float, float, float, float, float]]:
    alpha_bar = _alpha_bar(schedule)
    now = [alpha_bar[t] for t in visited]
    step = _ddim_step if solver == "ddim" else _dpm_solver_step
    return [step(schedule.prediction, now, i, eta) for i in range(len(now))]


def _ddim_step(prediction: str, alpha_bar: list[float], i: int, eta: float) -> tuple[float, ...]:
    now = alpha_bar[i]
    after = alpha_bar[i + 1] if i + 1 < len(alpha_bar) else 1.0
    spread = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
    signal = math.sqrt(after / now)
    noise = math.sqrt(max(1 - after - spread**2, 0.0)) - signal * math.sqrt(1 - now)
    if prediction == "velocity":
        # The same step with the noise estimate written out in x and F.
        signal, noise = signal + noise * math.sqrt(1 - now), noise * math.sqrt(now)
    return signal, noise, spread, 0.0, 0.0


def _clean(prediction: str, alpha_bar: float) -> tuple[float, float]:
    """c and d of the estimate c x + d F of the clean latent."""
    if prediction == "velocity":
        return math.sqrt(alpha_bar), -math.sqrt(1 - alpha_bar)
    return 1 / math.sqrt(alpha_bar), -math.sqrt((1 - alpha_bar) / alpha_bar)


def _dpm_solver_step(prediction: str, alpha_bar: list[float], i: int, _eta: float) -> tuple[float, ...]:
    now, last = alpha_bar[i], i + 1 == len(alpha_bar)
    after = 1.0 if last else alpha_bar[i + 1]
    kept = math.sqrt((1 - after) / (1 - now))
    gain = math.sqrt(after) - kept * math.sqrt(now)  # alpha' (1 - exp(-h))
    c, d = _clean(prediction, now)
    if i == 0 or last:
        return kept + gain * c, gain * d, 0.0, 0.0, 0.0
    before = alpha_bar[i - 1]
    # 1 / (2 r), r the length of the step before in lambda over this one's.
    extrapolation = 0.5 * (_log_ratio(after) - _log_ratio(now)) / (_log_ratio(now) - _log_ratio(before))
    own, previous = gain * (1 + extrapolation), -gain * extrapolation
    previous_c, previous_d = _clean(prediction, before)
    return kept + own * c, own * d, 0.0, previous * previous_d, previous * previous_c
