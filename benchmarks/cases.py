"""All benchmark cases: those of any device, and the metrics, which are NumPy's."""

from __future__ import annotations

from survcore.benchmarks import (
    concordance_index,
    concordance_index_ipcw,
    concordance_index_td,
    cumulative_dynamic_auc,
    integrated_brier_score,
    kaplan_meier,
    op_cases,
)

OPS = op_cases.OPS
METRICS = (
    concordance_index,
    concordance_index_ipcw,
    concordance_index_td,
    integrated_brier_score,
    cumulative_dynamic_auc,
    kaplan_meier,
)
MODULES = op_cases.MODULES | {module.CASE.name: module for module in METRICS}
CASES = {name: module.CASE for name, module in MODULES.items()}
