"""Harrell's concordance index beside the packages that compute it, which all count pairs as R does."""

from __future__ import annotations

import numpy as np
import torch

from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.numpy_provider import numpy_provider, read_once
from survcore.metrics import concordance_index


def _inputs(dtype: torch.dtype, device: str, *, rows: int) -> Inputs:
    """Time, event, risk, NumPy's, as all of them take it."""
    generator = np.random.default_rng(0)
    return generator.exponential(20, rows), generator.random(rows) < 0.4, generator.normal(size=rows)


def _survcore(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    return concordance_index(time, event, risk).value


def _lifelines(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    from lifelines.utils import concordance_index

    return concordance_index(time, -risk, event)


def _scikit_survival(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    from sksurv.metrics import concordance_index_censored

    return concordance_index_censored(event, time, risk)[0]


def _coxdev(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    from coxdev import CoxDeviance

    return float(CoxDeviance(time, event).c_index(risk))


def _torchsurv(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    from torchsurv.metrics.cindex import ConcordanceIndex

    return float(ConcordanceIndex()(*(torch.from_numpy(values) for values in (risk, event, time))))


CASE = BenchmarkCase(
    name="concordance_index",
    sizes={
        name: {"rows": rows}
        for name, rows in [("1k", 10**3), ("10k", 10**4), ("100k", 10**5), ("1M", 10**6), ("10M", 10**7)]
    },
    quick=("1k", "100k"),
    inputs=_inputs,
    dtype=torch.float64,
    providers={
        "survcore": numpy_provider(_survcore),
        "coxdev": numpy_provider(_coxdev, 10**7),
        "lifelines": numpy_provider(_lifelines, 10**6),
        "scikit-survival": numpy_provider(_scikit_survival, 10**4),
        "torchsurv": numpy_provider(_torchsurv, 10**3),
    },
    oracle="coxdev",
    work=read_once,
    bars={"100k": 5.0},
    curve=("1k", "10k", "100k", "1M", "10M"),
)
