"""The area under cumulative/dynamic ROC curves beside the packages that compute it."""

from __future__ import annotations

import numpy as np
import torch

from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.numpy_provider import numpy_provider, read_once
from survcore.metrics import cumulative_dynamic_auc


def _inputs(dtype: torch.dtype, device: str, *, rows: int, times: int) -> Inputs:
    """Time, event, risk and evaluation times, NumPy's."""
    generator = np.random.default_rng(0)
    risk = generator.normal(size=rows)
    time = generator.exponential(20, rows) / np.exp(risk)
    return time, generator.random(rows) < 0.4, risk, np.linspace(*np.quantile(time, [0.05, 0.8]), times)


def _survcore(time: np.ndarray, event: np.ndarray, risk: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return cumulative_dynamic_auc(time, event, risk, grid).auc


def _numpy(time: np.ndarray, event: np.ndarray, risk: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sorted by risk once; at each time the controls below each case are a cumulative sum."""
    order = np.argsort(time)
    probability = np.empty(len(time))
    probability[order] = np.cumprod(1 - ~event[order] / np.arange(len(time), 0, -1))  # distinct times
    order = np.argsort(risk)
    time, event = time[order], event[order]
    weight = event / np.where(event, probability[order], 1.0)
    areas = np.empty(len(grid))
    for place, moment in enumerate(grid):
        controls = time > moment
        cases = np.where(controls, 0.0, weight)
        areas[place] = (cases * np.cumsum(controls)).sum() / (cases.sum() * controls.sum())
    return areas


def _scikit_survival(time: np.ndarray, event: np.ndarray, risk: np.ndarray, grid: np.ndarray) -> np.ndarray:
    from sksurv.metrics import cumulative_dynamic_auc
    from sksurv.util import Surv

    outcome = Surv.from_arrays(event, time)
    return cumulative_dynamic_auc(outcome, outcome, risk, grid)[0]


def _torchsurv(time: np.ndarray, event: np.ndarray, risk: np.ndarray, grid: np.ndarray) -> np.ndarray:
    from torchsurv.metrics.auc import Auc
    from torchsurv.stats.ipcw import get_ipcw

    risk_, event_, time_, grid_ = (torch.from_numpy(values) for values in (risk, event, time, grid))
    weights = {"weight": get_ipcw(event_, time_), "weight_new_time": get_ipcw(event_, time_, grid_)}
    return Auc()(risk_, event_, time_, new_time=grid_, **weights).numpy()


CASE = BenchmarkCase(
    name="cumulative_dynamic_auc",
    sizes={
        name: {"rows": rows, "times": 100}
        for name, rows in [
            ("1k x 100", 10**3),
            ("10k x 100", 10**4),
            ("100k x 100", 10**5),
            ("1M x 100", 10**6),
            ("10M x 100", 10**7),
        ]
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
    bars={"10k x 100": 8.0},
    curve=("1k x 100", "10k x 100", "100k x 100", "1M x 100", "10M x 100"),
)
