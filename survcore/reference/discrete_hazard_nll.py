"""Plain PyTorch definition of discrete_hazard_nll and of its gradient, with the op's schemas."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def discrete_hazard_nll(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    censored: str = "end",
    form: str = "likelihood",
    alpha: float = 0.0,
    reduction: str = "mean",
    with_gradient: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihood of hazards h_j = sigmoid(x_j), as :func:`survcore.ops.discrete_hazard_nll` describes it.

    -log(1 - h_j) is softplus(x_j) and -log(h_j) is softplus(-x_j), so a row's loss is a sum of softplus(y_j) over the
    bins it reads, with y_j = -x_j in the bin of an event and x_j elsewhere.

    Returns:
        The loss (scalar, or [B] for reduction "none"; float32 for half-precision logits), the sum's divisor, and the
        gradient of the loss (of its sum, for "none"), [B, K] in the loss's dtype; [0, K] unless ``with_gradient``.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    active, sign, factor, weight = _rows(logits, time_bin, event, weights, censored, form, alpha, dtype)
    # softplus(y) as -logsigmoid(-y), which is stable in both tails for values and gradients.
    terms = -logsigmoid(torch.where(active, -sign * logits.to(dtype), 0.0))
    loss = factor * torch.where(active, terms, 0.0).sum(1)
    divisor = torch.ones((), dtype=dtype, device=logits.device)
    if reduction == "mean":
        total = weight.sum()
        divisor = torch.where(total == 0, divisor, total)
    if reduction != "none":
        loss = loss.sum() / divisor
    if not with_gradient:
        return loss, divisor, logits.new_empty((0, logits.shape[1]), dtype=dtype)
    widened = logits.detach().to(dtype)
    options = (censored, form, alpha, reduction)
    one = torch.ones_like(divisor)
    gradient = discrete_hazard_nll_backward(one, widened, time_bin, event, weights, divisor.detach(), *options)
    return loss, divisor, gradient


def discrete_hazard_nll_backward(
    grad_loss: Tensor,
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    divisor: Tensor,
    censored: str = "end",
    form: str = "likelihood",
    alpha: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Gradient of the logits [B, K]: the row's factor times y_j' sigmoid(y_j) in the bins the row reads, else 0."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    active, sign, factor, _ = _rows(logits, time_bin, event, weights, censored, form, alpha, dtype)
    coefficient = (factor * grad_loss / divisor).unsqueeze(1)
    gradient = coefficient * sign * torch.sigmoid(sign * logits.to(dtype))
    return torch.where(active, gradient, 0.0).to(logits.dtype)


def _rows(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    censored: str,
    form: str,
    alpha: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bins each row reads (bool [B, K]), sign of y_j (+1 or -1), factor of the row's sum [B], weight [B].

    An invalid row has the factor NaN and reads all bins; a row whose factor is 0 reads none.
    """
    rows, bins = logits.shape
    valid = (time_bin >= 0) & (time_bin < bins)
    valid = valid & ~event.isnan() if event.is_floating_point() else valid
    observed = event != 0
    weight = weights.to(dtype) if weights.numel() else torch.ones(rows, dtype=dtype, device=logits.device)
    factor = torch.where(observed, weight, weight * (1.0 - alpha))
    factor = torch.where(valid, factor, torch.nan)
    factor = torch.where(weight == 0, 0.0, factor)

    bin_index = torch.arange(bins, device=logits.device)
    own = bin_index == time_bin.unsqueeze(1)
    before = bin_index < time_bin.unsqueeze(1)
    in_event_row = own if form == "must_eq6" else own | before
    in_censored_row = before if censored == "start" else own | before
    active = torch.where(observed.unsqueeze(1), in_event_row, in_censored_row)
    active = (active | ~valid.unsqueeze(1)) & (factor != 0).unsqueeze(1)
    sign = torch.where(own & observed.unsqueeze(1), -1.0, 1.0).to(dtype)
    return active, sign, factor, weight
