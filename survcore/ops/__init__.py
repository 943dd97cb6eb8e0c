"""Public functions of the compiled ops: argument checks, documentation and autograd around ``torch.ops.survcore``."""

from __future__ import annotations

from survcore.ops.cox_baseline_hazard import BaselineSteps, cox_baseline_hazard
from survcore.ops.cox_ph_loss import cox_ph_loss
from survcore.ops.cox_risk_sets import RiskSets
from survcore.ops.ddim_sample import ddim_sample
from survcore.ops.deephit_loss import deephit_loss
from survcore.ops.discrete_hazard_nll import discrete_hazard_nll, hazard_risk, hazard_survival
from survcore.ops.info_nce import info_nce
from survcore.ops.low_rank_decompose import LowRankDecomposition, low_rank_decompose
from survcore.ops.masked_bce_with_logits import masked_bce_with_logits, pack_bits
from survcore.ops.masked_mse import masked_mse
from survcore.ops.pack_denoiser import pack_denoiser

__all__ = [
    "BaselineSteps",
    "LowRankDecomposition",
    "RiskSets",
    "cox_baseline_hazard",
    "cox_ph_loss",
    "ddim_sample",
    "deephit_loss",
    "discrete_hazard_nll",
    "hazard_risk",
    "hazard_survival",
    "info_nce",
    "low_rank_decompose",
    "masked_bce_with_logits",
    "masked_mse",
    "pack_bits",
    "pack_denoiser",
]
