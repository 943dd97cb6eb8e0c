"""The arguments that ops on risk sets share, checked before any kernel runs."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.ops.cox_risk_sets import RiskSets, check_tensors


def check_options(ties: str, reduction: str = "mean") -> None:
    """ValueError for an option that does not exist."""
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties must be 'efron' or 'breslow', got {ties!r}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")


def cox_arguments(
    log_hazard: Tensor,
    time: Tensor | RiskSets,
    event: Tensor | None,
    entry: Tensor | None,
    strata: Tensor | None,
    weights: Tensor | None,
) -> tuple[Tensor, RiskSets, Tensor]:
    """Log-hazards [n], risk sets and weights ([n], or empty for none), as :func:`survcore.cox_ph_loss` takes them."""
    check_tensors(log_hazard=log_hazard, weights=weights)
    if log_hazard.dim() == 2 and log_hazard.shape[1] == 1:
        log_hazard = log_hazard.squeeze(1)
    if log_hazard.dim() != 1:
        raise ValueError(f"log_hazard must be [n] or [n, 1], got shape {tuple(log_hazard.shape)}")
    if not log_hazard.is_floating_point():
        raise TypeError(f"log_hazard must be floating, got {log_hazard.dtype}")
    rows = log_hazard.shape[0]
    if isinstance(time, RiskSets):
        for name, value in (("event", event), ("entry", entry), ("strata", strata)):
            if value is not None:
                raise TypeError(f"{name} is part of the risk sets; give it to RiskSets.from_times, not here")
        risk_sets = time
        if len(risk_sets) != rows:
            raise ValueError(
                f"the risk sets are of {len(risk_sets)} rows, log_hazard has {rows}; "
                "those of a mini-batch are risk_sets.take(index)"
            )
    else:
        if time is None:
            raise TypeError("time is missing")
        check_tensors(time=time)
        if event is None:
            raise TypeError(
                "event is missing: cox_ph_loss(log_hazard, time, event) or cox_ph_loss(log_hazard, risk_sets)"
            )
        if time.dim() != 1 or time.shape[0] != rows:
            raise ValueError(f"time must have one entry per row of log_hazard, [{rows}], got shape {tuple(time.shape)}")
        risk_sets = RiskSets.from_times(time, event, entry, strata)
    for name, value in (("weights", weights), ("risk_sets", risk_sets.plan)):
        if value is not None and value.device != log_hazard.device:
            raise ValueError(f"{name} is on {value.device}, log_hazard on {log_hazard.device}: expected one device")
    if weights is None:
        weights = log_hazard.new_empty(0)
    elif weights.dim() != 1 or weights.shape[0] != rows:
        raise ValueError(f"weights must have one entry per row of log_hazard, [{rows}], got {tuple(weights.shape)}")
    elif weights.requires_grad or weights.is_complex():
        raise ValueError("weights must be real numbers without gradient: the loss has none for them, detach them")
    return log_hazard, risk_sets, weights


def raise_invalid_weights(weights: Tensor, log_hazard: Tensor) -> None:
    """ValueError that names the first weight the kernels refuse, in the type that they compute in."""
    dtype = torch.promote_types(log_hazard.dtype, torch.float32)
    wrong = ~((weights.to(dtype) >= 0) & weights.to(dtype).isfinite())
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"weights must be at least 0 and finite in {dtype}, got {weights[row].item()} in row {row}")
