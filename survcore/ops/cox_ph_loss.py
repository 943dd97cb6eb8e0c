"""Negative log partial likelihood of the proportional hazards model."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._cox_arguments import check_options, cox_arguments, raise_invalid_weights
from survcore.ops._forward_gradient import differentiable_with_forward_gradient, wants_gradient
from survcore.ops.cox_risk_sets import RiskSets
from survcore.reference import cox_ph_loss as _reference


def cox_ph_loss(
    log_hazard: Tensor,
    time: Tensor | RiskSets,
    event: Tensor | None = None,
    *,
    entry: Tensor | None = None,
    strata: Tensor | None = None,
    weights: Tensor | None = None,
    ties: str = "efron",
    reduction: str = "mean",
) -> Tensor:
    """Negative log partial likelihood of Cox's proportional hazards model (Cox 1972; ties: Efron 1977, Breslow 1974).

    ``cox_ph_loss(log_hazard, time, event)`` sorts the rows; ``cox_ph_loss(log_hazard, risk_sets)`` does not: build
    :class:`RiskSets` once where the times stay, as in training. Event i, number l of the d events of its time,
    contributes ``log(S - c E) - h_i`` with S the sum of e^h over the rows at risk, E over those d events, and
    c = l / d (l = 0..d-1) with Efron's rule, 0 with Breslow's. Nothing is subtracted that could cancel: log-hazards may
    differ by 10,000 and entries be as late as they like.

    Args:
        log_hazard: relative log-hazards [n] or [n, 1], higher is worse; float32 or float64 (kept; sums are float64
            throughout); float16 and bfloat16 are computed in float32. -inf is a hazard of 0; NaN or +inf anywhere makes
            the loss NaN.
        time: [n], at least 0, or :class:`RiskSets`, which have event, entry and strata in them.
        event: [n], bool or 0 (censored) and 1 (event).
        entry: [n], left truncation: a row is at risk at times t with entry < t <= time.
        strata: integers [n].
        weights: case weights [n], finite and at least 0 (looked at on the CPU only), without gradient, in R's
            convention: S and E sum w e^h, and each of the d terms of a time has the mean weight of its events.
        ties: "efron" (as R) or "breslow".
        reduction: "mean" over events (their summed weight), or "sum", which is minus R's log-likelihood.

    Returns:
        The loss, a scalar in the type of the log-hazards (at least float32). Without events it is 0, with gradient 0.
        It has a first derivative with respect to the log-hazards; a second one is an error.

    Raises:
        ValueError: shapes, devices, weights or options are wrong, risk sets of another number of rows; and what
            :meth:`RiskSets.from_times` raises.
        TypeError: something is no tensor, log-hazards are not floating, times are missing or given twice.
    """
    check_options(ties, reduction)
    log_hazard, risk_sets, weights = cox_arguments(log_hazard, time, event, entry, strata, weights)
    with_gradient = wants_gradient(log_hazard)
    arguments = (log_hazard, risk_sets.plan, weights, ties, reduction, with_gradient)
    if torch.compiler.is_compiling():
        return _apply(*arguments)[0]
    try:
        return _apply(*arguments)[0]
    except RuntimeError:
        raise_invalid_weights(weights, log_hazard)
        raise


@torch.library.register_fake("survcore::cox_ph_loss")
def _fake(
    log_hazard: Tensor, risk_sets: Tensor, weights: Tensor, ties: str, reduction: str, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(log_hazard.dtype, torch.float32)
    rows = log_hazard.shape[0] if with_gradient else 0
    return log_hazard.new_empty((), dtype=dtype), log_hazard.new_empty(rows, dtype=dtype)


@torch.library.register_fake("survcore::cox_ph_loss_backward")
def _fake_backward(grad_loss: Tensor, gradient: Tensor) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


_apply = differentiable_with_forward_gradient("cox_ph_loss")
_library.serve_cuda("cox_ph_loss", _reference.cox_ph_loss)
_library.serve_cuda("cox_ph_loss_backward", _reference.cox_ph_loss_backward)
