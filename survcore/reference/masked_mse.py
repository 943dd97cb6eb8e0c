"""Plain PyTorch definition of masked_mse and of its gradient, with the op's schemas."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.reference.masked_bce_with_logits import counted_entries


def masked_mse(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor,
    observed: Tensor,
    positions: str = "masked",
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mean over patches of the mean squared error of a patch, as :func:`survcore.ops.masked_mse` describes it.

    Returns:
        The loss (float32 for a half-precision prediction) and its gradient [B, P, L], empty without ``with_gradient``.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    counted = counted_entries(torch.Size((1, *prediction.shape[:2])), mask, observed, positions)[0].unsqueeze(-1)
    difference = torch.where(counted, prediction.to(dtype) - target.to(dtype), 0.0)
    divisor = counted.sum().clamp(min=1).double() * max(1, prediction.shape[2])
    loss = difference.square().sum() / divisor.to(dtype)
    gradient = difference.detach() * (2.0 / divisor).to(dtype) if with_gradient else difference.new_empty(0)
    return loss, gradient


def masked_mse_backward(grad_loss: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the prediction: what forward has made, times the gradient of the loss."""
    return grad_loss * gradient
