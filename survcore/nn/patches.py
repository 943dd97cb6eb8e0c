"""The tokens of one bag, laid out on a square grid in strips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from survcore.nn.pieces import piece_rows


class Patches:
    """Tokens of one bag of N patches on the s x s grid with s = ceil(sqrt(N)) (TransMIL).

    The grid is filled in the order of the patches and completed by repeating the first ones. It is kept as strips of
    whole grid rows, [rows of the strip * s, D] each: without gradients all strips are views of one buffer, which layers
    overwrite.

    Args:
        strips: in order.
        side: s.
    """

    def __init__(self, strips: Sequence[Tensor], side: int) -> None:
        self.strips = list(strips)
        self.side = side

    def __len__(self) -> int:
        """Tokens on the grid."""
        return self.side**2

    def copy(self) -> Patches:
        """The same tokens in a buffer of their own; with gradients, where nothing is overwritten, the same tensors."""
        if torch.is_grad_enabled():
            return self
        return from_strips(iter(self.strips), self.side)

    def map(self, function: Callable[[Tensor], Tensor]) -> Patches:
        """New patches from a function of a strip."""
        return from_strips((function(strip) for strip in self.strips), self.side)

    def tokens(self) -> Tensor:
        """All tokens, [s * s, D]."""
        return torch.cat(self.strips)


def grid_side(patches: int) -> int:
    """s of a bag of ``patches`` patches."""
    return math.isqrt(patches - 1) + 1


def strip_bounds(side: int, device: torch.device) -> list[tuple[int, int]]:
    """First and last (exclusive) token of each strip."""
    step = max(1, piece_rows(device) // side) * side
    return [(start, min(start + step, side**2)) for start in range(0, side**2, step)]


def lay_out(patches: int, device: torch.device, embed: Callable[[int, int], Tensor]) -> Patches:
    """Patches [start, stop) of a bag through ``embed`` [stop - start, D], strip by strip, then the repeated first ones.

    Raises:
        ValueError: no patches.
    """
    if patches < 1:
        raise ValueError("a bag needs at least one patch")
    side = grid_side(patches)
    made: list[Tensor] = []

    def strips() -> Iterable[Tensor]:
        for start, stop in strip_bounds(side, device):
            parts = [embed(start, min(stop, patches))] if start < patches else []
            first, last = max(start, patches) - patches, stop - patches
            if last > 0:
                # The repeated ones are among the first strips, but may be in the strip that is being made.
                parts.append(torch.cat([*made, *parts])[first:last])
            strip = parts[0] if len(parts) == 1 else torch.cat(parts)
            if sum(map(len, made)) < side**2 - patches:
                made.append(strip)
            yield strip

    return from_strips(strips(), side)


def from_strips(strips: Iterable[Tensor], side: int) -> Patches:
    """Patches from strips as they are made; without gradients they are written into one buffer."""
    if torch.is_grad_enabled():
        return Patches(list(strips), side)
    buffer, views, start = None, [], 0
    for strip in strips:
        if buffer is None:
            buffer = strip.new_empty(side**2, strip.shape[1])
        view = buffer[start : start + len(strip)]
        view.copy_(strip)
        views.append(view)
        start += len(strip)
    return Patches(views, side)
