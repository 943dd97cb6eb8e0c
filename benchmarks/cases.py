"""All benchmark cases: of every op, of a block that no op serves, and of the metrics."""

from __future__ import annotations

from survcore.benchmarks import (
    concordance_index,
    concordance_index_ipcw,
    concordance_index_td,
    cox_baseline_hazard,
    cox_ph_loss,
    cumulative_dynamic_auc,
    ddim_sample,
    deephit_loss,
    discrete_hazard_nll,
    info_nce,
    integrated_brier_score,
    kaplan_meier,
    low_rank_decompose,
    masked_bce_with_logits,
    masked_mse,
    trans_mil,
)

OPS = (
    cox_baseline_hazard,
    cox_ph_loss,
    ddim_sample,
    deephit_loss,
    discrete_hazard_nll,
    info_nce,
    low_rank_decompose,
    masked_bce_with_logits,
    masked_mse,
)
BLOCKS = (trans_mil,)
METRICS = (
    concordance_index,
    concordance_index_ipcw,
    concordance_index_td,
    integrated_brier_score,
    cumulative_dynamic_auc,
    kaplan_meier,
)
MODULES = {module.CASE.name: module for module in (*OPS, *BLOCKS, *METRICS)}
CASES = {name: module.CASE for name, module in MODULES.items()}
