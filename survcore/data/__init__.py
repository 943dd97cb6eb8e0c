"""The data room: cohorts, their preparation for a model, folds, time bins and the simulator.

Names are resolved on first use, so that ``import survcore`` does not pay for pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Cohort": "cohort",
    "Endpoint": "endpoint",
    "TIME_UNITS": "endpoint",
    "KINDS": "modality",
    "Modality": "modality",
    "ModalitySpec": "modality",
    "Panel": "sparse_panel",
    "PreparedCohort": "prepared",
    "Preprocessor": "preprocessor",
    "TimeBins": "time_bins",
    "simulate_cohort": "simulate",
    "split_validation": "folds",
    "stratified_folds": "folds",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
