"""Checks of losses whose rows have a time bin, an event and perhaps a weight."""

from __future__ import annotations

import torch
from torch import Tensor


def check_rows(logits: Tensor, time_bin: Tensor, event: Tensor, weights: Tensor | None) -> None:
    """Raise an error unless logits are floating, and the others have an entry per row of them on their device."""
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, got {logits.dtype}")
    if time_bin.dtype != torch.int64:
        hint = "; time bins are indices, not times" if time_bin.is_floating_point() else ""
        raise TypeError(f"time_bin must be int64, got {time_bin.dtype}{hint}")
    rows, device = logits.shape[0], logits.device
    for name, value in (("time_bin", time_bin), ("event", event), ("weights", weights)):
        if value is None:
            continue
        if value.dim() != 1 or value.shape[0] != rows:
            raise ValueError(f"{name} must have one entry per row of logits, [{rows}], got shape {tuple(value.shape)}")
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}, logits on {device}: expected one device")
        if value.is_complex():
            raise TypeError(f"{name} must be real, got {value.dtype}")


def check_row_values(
    logits: Tensor, time_bin: Tensor, event: Tensor, weights: Tensor, causes: int, read: Tensor
) -> None:
    """Raise a ValueError that names the first row with a value that it must not have.

    Args:
        logits: [B, ..., K].
        time_bin, event: [B]; bins are 0..K-1, events 0..causes.
        weights: [B] or empty; rows of weight 0 may hold anything else.
        causes: how many there are.
        read: bool, in the shape of the logits or of their last dimensions: which of them a row of weight 1 reads.
    """
    rows, bins = logits.shape[0], logits.shape[-1]
    codes = event.double()
    weighs = weights != 0 if weights.numel() else torch.ones_like(time_bin, dtype=torch.bool)
    kind = "0 (censored) or 1" if causes == 1 else f"0 (censored) or a cause in 1..{causes}"
    checks = [
        (weighs & ((time_bin < 0) | (time_bin >= bins)), time_bin, f"time_bin must be in 0..{bins - 1}"),
        (weighs & ~((codes >= 0) & (codes <= causes) & (codes == codes.floor())), event, f"event must be {kind}"),
        (weighs & (logits.isnan() & read).flatten(1).any(1), logits, "logits must not be NaN"),
    ]
    if weights.numel():
        checks.append((~(weights >= 0), weights, "weights must be at least 0"))
    for wrong, values, expected in checks:
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"{expected}, got {values[row].tolist()} in row {row} (of {int(wrong.sum())} such rows of {rows})"
            )
