"""survcore: multimodal survival models with missing modalities, on a compiled C++/CUDA core behind PyTorch.

Names are loaded on first use, so that ``import survcore`` stays quick and needs none of the optional packages.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_PUBLIC = {
    "BaselineHazard": "survcore.absolute_risk",
    "Cohort": "survcore.data",
    "Predictor": "survcore.inference",
    "RiskSets": "survcore.ops",
    "baseline_hazard": "survcore.absolute_risk",
    "bootstrap_interval": "survcore.metrics",
    "compare_paired": "survcore.metrics",
    "concordance_index": "survcore.metrics",
    "concordance_index_ipcw": "survcore.metrics",
    "concordance_index_td": "survcore.metrics",
    "cox_ph_loss": "survcore.ops",
    "discrete_hazard_nll": "survcore.ops",
    "evaluate": "survcore.evaluation",
    "fit": "survcore.training",
    "hazard_risk": "survcore.ops",
    "hazard_survival": "survcore.ops",
    "kaplan_meier": "survcore.metrics",
    "load": "survcore.inference",
    "low_rank_decompose": "survcore.ops",
    "simulate_cohort": "survcore.data",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'survcore' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
