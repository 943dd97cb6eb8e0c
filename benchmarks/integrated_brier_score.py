"""The integrated Brier score beside the packages that compute it; times differ, so that all conventions agree."""

from __future__ import annotations

import numpy as np
import torch

from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.numpy_provider import numpy_provider, read_once
from survcore.metrics import integrated_brier_score


def _inputs(dtype: torch.dtype, device: str, *, rows: int, times: int) -> Inputs:
    """Time, event, survival curves and their times, NumPy's."""
    generator = np.random.default_rng(0)
    hazard = np.exp(generator.normal(size=rows))
    time = generator.exponential(20, rows) / hazard
    grid = np.linspace(*np.quantile(time, [0.05, 0.8]), times)
    return time, generator.random(rows) < 0.4, np.exp(-np.outer(hazard, grid) / 20), grid


def _survcore(time: np.ndarray, event: np.ndarray, survival: np.ndarray, grid: np.ndarray) -> float:
    return integrated_brier_score(time, event, survival, grid)


def _numpy(time: np.ndarray, event: np.ndarray, survival: np.ndarray, grid: np.ndarray) -> float:
    order = np.argsort(time)
    at_risk = np.arange(len(time), 0, -1)
    probability = np.cumprod(1 - ~event[order] / at_risk)  # to be uncensored, at distinct times
    own = np.empty_like(probability)
    own[order] = probability
    at_grid = np.concatenate(([1.0], probability))[np.searchsorted(time[order], grid, side="right")]
    died = (time[:, None] <= grid) & event[:, None]
    alive = time[:, None] > grid
    score = (survival**2 * died / np.where(event, own, 1)[:, None] + (1 - survival) ** 2 * alive / at_grid).mean(0)
    return float(np.trapezoid(score, grid) / (grid[-1] - grid[0]))


def _scikit_survival(time: np.ndarray, event: np.ndarray, survival: np.ndarray, grid: np.ndarray) -> float:
    from sksurv.metrics import integrated_brier_score
    from sksurv.util import Surv

    outcome = Surv.from_arrays(event, time)
    return integrated_brier_score(outcome, outcome, survival, grid)


def _torchsurv(time: np.ndarray, event: np.ndarray, survival: np.ndarray, grid: np.ndarray) -> float:
    from torchsurv.metrics.brier_score import BrierScore
    from torchsurv.stats.ipcw import get_ipcw

    tensors = [torch.from_numpy(values) for values in (survival, event, time, grid)]
    survival_, event_, time_, grid_ = tensors
    score = BrierScore()
    score(
        survival_,
        event_,
        time_,
        new_time=grid_,
        weight=get_ipcw(event_, time_),
        weight_new_time=get_ipcw(event_, time_, grid_),
    )
    return float(score.integral())


CASE = BenchmarkCase(
    name="integrated_brier_score",
    sizes={
        name: {"rows": rows, "times": 100}
        for name, rows in [("1k x 100", 10**3), ("10k x 100", 10**4), ("100k x 100", 10**5), ("1M x 100", 10**6)]
    },
    quick=("1k x 100",),
    inputs=_inputs,
    dtype=torch.float64,
    computes_in={"torchsurv": torch.float32},
    providers={
        "survcore": numpy_provider(_survcore),
        "numpy": numpy_provider(_numpy),
        "scikit-survival": numpy_provider(_scikit_survival, 10**5),
        "torchsurv": numpy_provider(_torchsurv, 10**4),
    },
    oracle="numpy",
    work=read_once,
    bars={"10k x 100": 2.0},
    curve=("1k x 100", "10k x 100", "100k x 100", "1M x 100"),
)
