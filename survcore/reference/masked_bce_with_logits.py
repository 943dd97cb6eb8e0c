"""Plain PyTorch definition of masked_bce_with_logits and of its gradient, with the op's schemas."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def masked_bce_with_logits(
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    observed: Tensor,
    pos_weight: Tensor,
    boundaries: Tensor,
    positions: str = "masked",
    reduction: str = "none",
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """Masked binary cross-entropy, as :func:`survcore.ops.masked_bce_with_logits` describes it.

    An entry's loss is ``w t softplus(-x) + (1 - t) softplus(x)``; a part of weight 0 is 0 whatever the logit is.

    Returns:
        The losses, [V, M] or a scalar for reduction "mean" (float32 for half-precision logits), and the gradient of
        their sum in the shape of the logits, empty without ``with_gradient``.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    columns = logits.shape[-1]
    values = by_view(logits.to(dtype))
    counted = counted_entries(values.shape, mask, observed, positions)
    wanted = target.to(dtype) if target.is_floating_point() else marks(target, columns).to(dtype)
    weight = pos_weight.to(dtype) if pos_weight.numel() else torch.ones(1, dtype=dtype, device=logits.device)

    x = torch.where(counted, values, 0.0)
    of_negative = 1.0 - wanted
    of_positive = torch.where(wanted == 0, 0.0, wanted * weight)
    # softplus(y) as -logsigmoid(-y), which is stable in both tails for values and gradients.
    of_the_negative = torch.where(of_negative == 0, 0.0, x)
    of_the_positive = torch.where(of_positive == 0, 0.0, x)
    terms = of_negative * -logsigmoid(-of_the_negative) + of_positive * -logsigmoid(of_the_positive)
    terms = torch.where(counted, terms, 0.0)

    ranges = _ranges(boundaries, columns)
    sums = torch.stack([terms[..., part].sum((1, 2)) for part in ranges], 1)
    counts = torch.stack([counted[..., part].sum((1, 2)) for part in ranges], 1)
    share = (1.0 / (counts.double() + 1e-8)).to(dtype)
    if reduction == "mean":
        share = share / max(1, values.shape[0])
    losses = sums * share
    if with_gradient:
        with torch.no_grad():
            slope = of_negative * torch.sigmoid(of_the_negative) - of_positive * torch.sigmoid(-of_the_positive)
            gradient = torch.where(counted, slope * _by_column(share, ranges), 0.0).reshape(logits.shape)
    else:
        gradient = values.new_empty(0)
    return (losses.sum() if reduction == "mean" else losses), gradient


def masked_bce_with_logits_backward(grad_loss: Tensor, gradient: Tensor, boundaries: Tensor) -> Tensor:
    """Gradient of the logits: what forward has made, times the gradient of the loss of each view and modality."""
    if grad_loss.dim() == 0:
        return grad_loss * gradient
    factor = _by_column(grad_loss, _ranges(boundaries, gradient.shape[-1]))
    return (factor * by_view(gradient)).reshape(gradient.shape)


def by_view(values: Tensor) -> Tensor:
    """Values [V, B, D] as they are, [B, D] as one view."""
    return values if values.dim() == 3 else values.unsqueeze(0)


def marks(values: Tensor, columns: int) -> Tensor:
    """Marks [..., columns] as bool, from bytes of which any but 0 is set, or from packed bits."""
    if values.dtype == torch.uint8 and values.shape[-1] != columns:
        bits = torch.arange(8, device=values.device, dtype=torch.uint8)
        values = (values.unsqueeze(-1) >> bits & 1).flatten(-2)[..., :columns]
    return values != 0


def counted_entries(shape: torch.Size, mask: Tensor, observed: Tensor, positions: str) -> Tensor:
    """Which entries of [views, rows, columns] are scored, as bool; an empty vector has no marks."""
    counted = torch.ones(shape, dtype=torch.bool, device=mask.device)
    if positions != "all":
        hidden = marks(mask, shape[-1])
        counted = counted & (hidden if positions == "masked" else ~hidden)
    if observed.dim() > 1:
        counted = counted & marks(observed, shape[-1])
    return counted


def _ranges(boundaries: Tensor, columns: int) -> list[slice]:
    """Columns of each modality."""
    limits = boundaries.flatten().tolist() if boundaries.numel() else [0, columns]
    return [slice(first, last) for first, last in itertools.pairwise(limits)]


def _by_column(values: Tensor, ranges: list[slice]) -> Tensor:
    """[V, 1, D] from one value per view and modality [V, M]."""
    parts = [values[:, m : m + 1].expand(-1, part.stop - part.start) for m, part in enumerate(ranges)]
    return torch.cat(parts, 1).unsqueeze(1)
