"""All benchmark cases: of every op, and of a block that no op serves."""

from __future__ import annotations

from survcore.benchmarks import (
    cox_baseline_hazard,
    cox_ph_loss,
    ddim_sample,
    discrete_hazard_nll,
    low_rank_decompose,
    trans_mil,
)

CASES = {
    module.CASE.name: module.CASE
    for module in (cox_baseline_hazard, cox_ph_loss, ddim_sample, discrete_hazard_nll, low_rank_decompose, trans_mil)
}
