"""DeepHit's loss: likelihood of discrete event times, by cause, and a ranking of the patients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._forward_gradient import differentiable_with_forward_gradient, wants_gradient
from survcore.ops._rows import check_row_values, check_rows
from survcore.reference import deephit_loss as _reference


def deephit_loss(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    *,
    alpha: float = 0.2,
    sigma: float = 0.1,
    weights: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """``alpha * likelihood + (1 - alpha) * ranking`` of event times in K bins with R competing causes.

    One softmax over all causes and bins and one more logit 0, the mass beyond the last bin, gives p^r(k) and
    F^r(k) = p^r(0) + .. + p^r(k). The likelihood is the mean of ``-log p^r(k)`` after an event of cause r in bin k, of
    ``-log P(T > k)`` after censoring there (Kvamme and Borgan 2019), without a constant under the logarithm. The
    ranking term (Lee et al. 2018, eq. 7) is the sum of ``exp(-(F^r_i(k_i) - F^r_j(k_i)) / sigma)`` over all events i,
    of any cause r, and rows j that come later (``k_j > k_i``, or censored in the same bin), divided by all B^2 pairs.
    Time and memory grow with B, not with B^2. alpha and sigma are pycox's; in the first paper alpha weighs the ranking.

    Args:
        logits: [B, K], or [B, R, K] with R causes; float32 or float64; float16 and bfloat16 are computed in float32.
            An infinite one gives the formula's limit, several +inf share all probability; NaN gives NaN.
        time_bin: int64 [B], 0..K-1, bin of the event or of censoring.
        event: [B], 0 (censored) or the cause 1..R; bool, integer or floating.
        alpha: weight of the likelihood, 0..1.
        sigma: scale of the ranking term, positive. Below 0.025 the loss is computed in float64, below 0.0017 row by
            row, which takes tens of times as long.
        weights: case weights w [B], at least 0, without gradient; None means 1. The likelihood is
            ``sum(w l) / sum(w)``; in the ranking term pairs count w_i and the divisor is ``B sum(w)``: a row of weight
            0 is one that others are compared with, no more.
        validate: check the values first (synchronises with the device) and raise an error that names the row.

    Returns:
        The loss, a scalar, float32 for half-precision logits, else in their type; 0 for an empty batch. A row whose bin
        or cause is out of range makes it NaN, unless its weight is 0, and is compared with no other. It has a first
        derivative with respect to the logits, also under ``torch.func``.

    Raises:
        ValueError: shapes, devices or options are wrong; with ``validate``, a bin or a cause out of range or a NaN
            logit in a row that weighs something, or a negative weight.
        TypeError: logits are not floating, or time_bin is not int64.
    """
    _check(logits, time_bin, event, weights, alpha, sigma)
    if weights is None:
        weights = logits.new_empty(0)  # new for each call: one kept from an earlier call may belong to another mode
    if validate:
        causes = logits.shape[1] if logits.dim() == 3 else 1
        check_row_values(logits, time_bin, event, weights, causes, torch.ones_like(logits, dtype=torch.bool))
    with_gradient = wants_gradient(logits)
    return _apply(logits, time_bin, event, weights, float(alpha), float(sigma), with_gradient)[0]


def check_options(alpha: float, sigma: float) -> None:
    """Raise ValueError unless alpha is within 0..1 and sigma positive and finite."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be within 0..1, got {alpha}")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")


def _check(logits: Tensor, time_bin: Tensor, event: Tensor, weights: Tensor | None, alpha: float, sigma: float) -> None:
    shape = logits.shape
    if len(shape) not in (2, 3) or 0 in shape[1:]:
        raise ValueError(f"logits must be [B, K] or [B, R, K] with R, K >= 1, got shape {tuple(shape)}")
    check_rows(logits, time_bin, event, weights)
    check_options(alpha, sigma)


@torch.library.register_fake("survcore::deephit_loss")
def _fake(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    alpha: float,
    sigma: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    rows = logits.shape[0] if with_gradient else 0
    return logits.new_empty((), dtype=dtype), logits.new_empty((rows, *logits.shape[1:]), dtype=dtype)


@torch.library.register_fake("survcore::deephit_loss_backward")
def _fake_backward(grad_loss: Tensor, gradient: Tensor) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


_apply = differentiable_with_forward_gradient("deephit_loss")
_library.serve_cuda("deephit_loss", _reference.deephit_loss, triton=True)
_library.serve_cuda("deephit_loss_backward", _reference.deephit_loss_backward)
