"""Checks of marks, which say of entries whether they are hidden, whether they exist, and whether they are 1."""

from __future__ import annotations

import torch
from torch import Tensor


def check_positions(positions: str) -> None:
    """Raise ValueError unless positions are an option."""
    if positions not in ("masked", "visible", "all"):
        raise ValueError(f"positions must be 'masked', 'visible' or 'all', got {positions!r}")


def check_mask(positions: str, mask: Tensor | None) -> None:
    """Raise ValueError unless a mask is there where positions need one."""
    if mask is None and positions != "all":
        raise ValueError(f"mask may be None for positions 'all' only, got positions {positions!r}")


def check_marks(
    name: str,
    marks: Tensor,
    values_name: str,
    shape: torch.Size,
    device: torch.device,
    *,
    any_type: bool = False,
) -> None:
    """Raise an error unless marks fit values of a shape [V, B, D] or [B, D] on a device.

    They have that shape, or [B, D] for all views, or that of packed bits; ``any_type``: they need not be bool or uint8.
    """
    dtype, given = marks.dtype, marks.shape
    if any_type and dtype.is_complex:
        raise TypeError(f"{name} must be real, got {dtype}")
    if not (any_type or dtype == torch.bool or dtype == torch.uint8):
        raise TypeError(f"{name} must be bool or uint8, got {dtype}")
    columns = shape[-1]
    if given != shape and given != shape[-2:]:
        packed = dtype == torch.uint8 and given[-1:] == ((columns + 7) // 8,)
        if not (packed and len(given) > 1 and given[:-1] in (shape[:-1], shape[-2:-1])):
            raise ValueError(
                f"{name} must have the shape of {values_name}, {tuple(shape)}"
                + (f", or of one view, {tuple(shape[-2:])}" if len(shape) == 3 else "")
                + f" (packed bits: {(columns + 7) // 8} columns of uint8), got {tuple(given)} of {dtype}"
            )
    if marks.device != device:
        raise ValueError(f"{name} is on {marks.device}, {values_name} on {device}: expected one device")
