"""Public functions of the compiled ops: argument checks, documentation and autograd around ``torch.ops.survcore``."""

from __future__ import annotations

from survcore.ops.discrete_hazard_nll import discrete_hazard_nll, hazard_risk, hazard_survival
from survcore.ops.low_rank_decompose import LowRankDecomposition, low_rank_decompose

__all__ = ["LowRankDecomposition", "discrete_hazard_nll", "hazard_risk", "hazard_survival", "low_rank_decompose"]
