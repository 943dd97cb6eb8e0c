"""Uno's concordance index beside the packages that compute it; times differ, so that all conventions agree."""

from __future__ import annotations

import numpy as np
import torch

from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.numpy_provider import numpy_provider, read_once
from survcore.metrics import concordance_index_ipcw

# Risks that are compared at once in the plain form: a block of them stays in the cache.
_BLOCK = 2**18


def _inputs(dtype: torch.dtype, device: str, *, rows: int) -> Inputs:
    """Time, event, risk, NumPy's; nobody fails after the last of the censored."""
    generator = np.random.default_rng(0)
    risk = generator.normal(size=rows)
    time = generator.exponential(20, rows) / np.exp(risk)
    return time, (generator.random(rows) < 0.4) & (time < np.quantile(time, 0.95)), risk


def _survcore(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    return concordance_index_ipcw(time, event, risk).value


def _numpy(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Each event against all that outlive it, in blocks of rows sorted by time."""
    order = np.argsort(time)
    event, risk = event[order], risk[order]
    rows = len(time)
    at_risk = np.arange(rows, 0, -1)
    probability = np.cumprod(1 - ~event / at_risk)  # to be uncensored, at distinct times
    weight = np.where(event, probability, 1.0) ** -2.0
    concordant = 0.0
    failed = np.flatnonzero(event)
    height = max(1, _BLOCK // rows)
    for begin in range(0, len(failed), height):
        block = failed[begin : begin + height]
        later = risk[block[0] :] < risk[block, None]
        later &= np.arange(block[0], rows) > block[:, None]
        concordant += weight[block] @ later.sum(1)
    return concordant / (weight[failed] @ (at_risk[failed] - 1))


def _scikit_survival(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    from sksurv.metrics import concordance_index_ipcw
    from sksurv.util import Surv

    outcome = Surv.from_arrays(event, time)
    return concordance_index_ipcw(outcome, outcome, risk)[0]


def _torchsurv(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    from torchsurv.metrics.cindex import ConcordanceIndex
    from torchsurv.stats.ipcw import get_ipcw

    risk_, event_, time_ = (torch.from_numpy(values) for values in (risk.astype("f4"), event, time.astype("f4")))
    return float(ConcordanceIndex()(risk_, event_, time_, weight=get_ipcw(event_, time_)))


CASE = BenchmarkCase(
    name="concordance_index_ipcw",
    sizes={name: {"rows": rows} for name, rows in [("1k", 10**3), ("10k", 10**4), ("100k", 10**5)]},
    quick=("1k",),
    inputs=_inputs,
    dtype=torch.float64,
    computes_in={"torchsurv": torch.float32},
    providers={
        "survcore": numpy_provider(_survcore),
        "numpy": numpy_provider(_numpy),
        "scikit-survival": numpy_provider(_scikit_survival, 10**4),
        "torchsurv": numpy_provider(_torchsurv, 10**3),
    },
    oracle="numpy",
    work=read_once,
)
