"""Large bags piece by piece: what bounds the memory of a layer, at inference and in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Rows whose intermediate values fit a core's cache; a GPU wants fewer, larger pieces.
_PIECE = {"cpu": 2_048}
_PIECE_ELSEWHERE = 65_536
# Rows of a bag up to which the intermediate values of its layers are kept for the gradient and not computed again.
RECOMPUTE_ABOVE = 16_384


def piece_rows(device: torch.device) -> int:
    """Rows of a bag to work on at a time."""
    return _PIECE.get(device.type, _PIECE_ELSEWHERE)


def recomputed(function: Callable[..., Any], *arguments: Any, when: bool) -> Any:
    """``function(*arguments)``; ``when`` set, a gradient computes it again instead of keeping its intermediate values.

    Random draws inside are the same both times, on the devices of the tensors among the arguments.
    """
    if when and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def merge_attended(
    sums: Tensor | None, weights: Tensor | None, more: Tensor, more_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from attention over each.

    Args:
        sums, weights: attended values [..., Q, d] and the log of the summed weights [..., Q] of the first set, or None.
        more, more_weights: the same of the second set.
    """
    if sums is None or weights is None:
        return more, more_weights
    total = torch.logaddexp(weights, more_weights)
    return (
        sums * (weights - total).exp().unsqueeze(-1) + more * (more_weights - total).exp().unsqueeze(-1),
        total,
    )


def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attended values [..., Q, d] and the log of the summed weights [..., Q], for :func:`merge_attended`.

    ``query`` [..., Q, d] is scaled already; ``key`` and ``value`` are [..., n, d].
    """
    if _plain(query, key, value):
        scores = query @ key.transpose(-1, -2)
        weights = scores.softmax(-1)
        # The largest weight is exp(0) over the sum.
        return weights @ value, scores.amax(-1) - weights.amax(-1).log()
    # Torch's fused kernel for CPUs takes a batch [B, H, n, d]; only in this form it returns the weights too.
    batch = (part if part.ndim == 4 else part.unsqueeze(0) for part in (query, key, value))
    found, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*batch, scale=1.0)
    return found.reshape(query.shape), weight.reshape(query.shape[:-1])


def _plain(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether attention has to be spelled out: for gradients, transforms and graphs, off the CPU, and for what the
    fused kernel does not take."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    served = query.device.type == "cpu" and query.dtype == key.dtype == value.dtype
    return not served or query.ndim not in (3, 4) or not query.numel() or not key.numel()
