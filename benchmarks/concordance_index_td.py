"""Antolini's concordance index beside pycox, which compares all pairs of patients."""

from __future__ import annotations

import numpy as np
import torch

from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.numpy_provider import numpy_provider, read_once
from survcore.metrics import concordance_index_td


def _inputs(dtype: torch.dtype, device: str, *, rows: int, times: int) -> Inputs:
    """Time, event, survival curves that cross [rows, times] and their times, NumPy's."""
    generator = np.random.default_rng(0)
    scale, shape = np.exp(generator.normal(size=rows)), generator.uniform(0.5, 2.0, rows)
    time = 20 * scale * generator.weibull(1.0, rows) ** (1 / shape)
    grid = np.linspace(0.0, np.quantile(time, 0.9), times)
    curves = np.exp(-((grid / (20 * scale[:, None])) ** shape[:, None]))
    return time, generator.random(rows) < 0.4, curves, grid


def _survcore(time: np.ndarray, event: np.ndarray, survival: np.ndarray, grid: np.ndarray) -> float:
    return concordance_index_td(time, event, survival, grid).value


def _pycox(time: np.ndarray, event: np.ndarray, survival: np.ndarray, grid: np.ndarray) -> float:
    """On the rows of its table that hold at each patient's time."""
    import numba
    from pycox.evaluation.concordance import concordance_td

    numba.set_num_threads(torch.get_num_threads())
    return concordance_td(time, event, survival.T, np.searchsorted(grid, time, side="right") - 1, "antolini")


CASE = BenchmarkCase(
    name="concordance_index_td",
    sizes={
        name: {"rows": rows, "times": 100}
        for name, rows in [("1k x 100", 10**3), ("10k x 100", 10**4), ("30k x 100", 3 * 10**4)]
    },
    quick=("1k x 100",),
    inputs=_inputs,
    dtype=torch.float64,
    providers={"survcore": numpy_provider(_survcore), "pycox": numpy_provider(_pycox)},
    oracle="pycox",
    work=read_once,
)
