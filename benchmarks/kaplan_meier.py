"""Kaplan-Meier's estimate beside the packages that compute it."""

from __future__ import annotations

import numpy as np
import torch

from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.numpy_provider import numpy_provider, read_once
from survcore.metrics import kaplan_meier

# Where curves are compared, within the follow-up of the inputs.
GRID = np.linspace(0.1, 40, 100)


def _inputs(dtype: torch.dtype, device: str, *, rows: int) -> Inputs:
    """Time and event, NumPy's."""
    generator = np.random.default_rng(0)
    return generator.exponential(20, rows), generator.random(rows) < 0.4


def _survcore(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    return kaplan_meier(time, event).survival_at(GRID)


def _numpy(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    order = np.argsort(time)
    moments, first = np.unique(time[order], return_index=True)
    deaths = np.add.reduceat(event[order].astype(np.float64), first)
    return _at_grid(moments, np.cumprod(1 - deaths / (len(time) - first)))


def _lifelines(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    from lifelines import KaplanMeierFitter

    return KaplanMeierFitter().fit(time, event).survival_function_at_times(GRID).to_numpy()


def _scikit_survival(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    from sksurv.nonparametric import kaplan_meier_estimator

    return _at_grid(*kaplan_meier_estimator(event, time))


def _pycox(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    from pycox.utils import kaplan_meier

    curve = kaplan_meier(time, event.astype(np.float64))
    return _at_grid(curve.index.to_numpy(), curve.to_numpy())


def _at_grid(times: np.ndarray, survival: np.ndarray) -> np.ndarray:
    return np.concatenate(([1.0], survival))[np.searchsorted(times, GRID, side="right")]


CASE = BenchmarkCase(
    name="kaplan_meier",
    sizes={
        name: {"rows": rows}
        for name, rows in [("1k", 10**3), ("10k", 10**4), ("100k", 10**5), ("1M", 10**6), ("10M", 10**7)]
    },
    quick=("1k",),
    inputs=_inputs,
    dtype=torch.float64,
    providers={
        "survcore": numpy_provider(_survcore),
        "numpy": numpy_provider(_numpy, 10**7),
        "lifelines": numpy_provider(_lifelines, 10**6),
        "scikit-survival": numpy_provider(_scikit_survival, 10**6),
        "pycox": numpy_provider(_pycox, 10**6),
    },
    oracle="numpy",
    work=read_once,
    bars={"1M": 15.0},
    curve=("1k", "10k", "100k", "1M", "10M"),
)
