"""What the compiled sampler needs of a denoiser, kept from call to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from survcore.kept import Kept
from survcore.ops import pack_denoiser

if TYPE_CHECKING:
    from survcore.diffusion.denoiser import Denoiser

PRECISIONS = ("full", "bfloat16")


class PackedDenoiser(Kept):
    """Packed weights and tables of time modulation of one denoiser, made again when its weights have changed.

    ``to()``, ``train()`` and ``eval()`` of the denoiser forget everything.
    """

    # Tables of modulation [T, L, 6, D] and, on a GPU, of coefficients [T, 5].
    most_tables = 16

    def tables(
        self, denoiser: Denoiser, precision: str, timesteps: tuple[int, ...], coefficients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Packed weights, modulation [T, L, 6, D] of the timesteps, and coefficients, on the denoiser's device.

        Args:
            denoiser: whose they are.
            precision: "full", that of the weights, or matrices in "bfloat16".
            timesteps: T of them.
            coefficients: [T, 5], on the CPU.
        """
        device = denoiser.output.weight.device
        dtype = torch.bfloat16 if precision == "bfloat16" else None

        def pack() -> Tensor:
            return pack_denoiser(denoiser.weights(), heads=denoiser.heads, dtype=dtype)

        def modulation() -> Tensor:
            return denoiser.modulation(torch.tensor(timesteps, device=device))

        def moved() -> Tensor:
            return coefficients.to(device)

        entries = self.entries(denoiser)
        if entries is None:
            return _made(pack), _made(modulation), _made(moved)
        weights, table = self._entry(entries, precision, pack), self._entry(entries, timesteps, modulation)
        if device.type == "cpu":
            return weights, table, coefficients
        # By value, as a sampler makes the table anew each time: a copy to the device would wait for it.
        return weights, table, self._entry(entries, ("coefficients", *coefficients.flatten().tolist()), moved)

    def _entry(self, entries: dict[Any, Tensor], key: Any, make: Callable[[], Tensor]) -> Tensor:
        value = entries.get(key)
        if value is None:
            value = _made(make)
            tables = [name for name in list(entries) if isinstance(name, tuple)]
            if isinstance(key, tuple) and len(tables) >= self.most_tables:
                entries.pop(tables[0], None)
            entries[key] = value
        return value


def _made(make: Callable[[], Tensor]) -> Tensor:
    """Whatever the caller's mode: what is kept serves every later one."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        return make()
