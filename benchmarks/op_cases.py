"""The benchmark cases that run on any device: of every op, and of a block that no op serves."""

from __future__ import annotations

from survcore.benchmarks import (
    cox_baseline_hazard,
    cox_ph_loss,
    ddim_sample,
    deephit_loss,
    discrete_hazard_nll,
    info_nce,
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
MODULES = {module.CASE.name: module for module in (*OPS, *BLOCKS)}
CASES = {name: module.CASE for name, module in MODULES.items()}
