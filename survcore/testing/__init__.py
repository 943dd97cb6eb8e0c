"""One :class:`OpCase` per compiled op: sample and extreme inputs, its reference, and the tolerances of all ops.

The generic op tests and the benchmarks read these cases, so an op that is described here is tested like every other.
"""

from __future__ import annotations

from survcore.testing import (
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
from survcore.testing.op_case import FLOORS, Arguments, OpCase, assert_close_to_oracle, convert, tolerance

_MODULES = (
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
OP_CASES = {module.CASE.name: module.CASE for module in _MODULES}

__all__ = ["FLOORS", "OP_CASES", "Arguments", "OpCase", "assert_close_to_oracle", "convert", "tolerance"]
