"""What the compiled sampler needs of a denoiser, kept from call to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from survcore.ops import pack_denoiser

if TYPE_CHECKING:
    from survcore.diffusion.denoiser import Denoiser

PRECISIONS = ("full", "bfloat16")


class PackedDenoiser:
    """Packed weights and tables of time modulation of one denoiser, made again when its weights have changed.

    A change is seen by torch's version counter of each parameter (optimisers, ``load_state_dict``, ``copy_``), by
    another tensor in its place (``to``), and by ``train()`` and ``eval()``, which forget everything; one through
    ``parameter.data`` in evaluation mode is not. Copies and pickles of a module start empty.
    """

    # Tables for so many numbers of steps; each is [T, L, 6, D].
    most_tables = 8

    def __init__(self) -> None:
        self._kept: tuple[list[Tensor], list[int], dict[Any, Tensor]] = ([], [], {})

    def __reduce__(self) -> tuple[type[PackedDenoiser], tuple[()]]:
        return PackedDenoiser, ()

    def forget(self) -> None:
        """Free everything."""
        self._kept = ([], [], {})

    def tables(self, denoiser: Denoiser, precision: str, timesteps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Packed weights, and modulation [T, L, 6, D] of the timesteps, on the CPU.

        Args:
            denoiser: whose they are.
            precision: "full", that of the weights, or matrices in "bfloat16".
            timesteps: T of them.
        """
        parameters = list(denoiser.parameters())
        # Tensors of inference mode have no counter; they cannot change outside of it.
        versions = [0 if parameter.is_inference() else parameter._version for parameter in parameters]
        tensors, known, entries = self._kept
        # The parameters themselves are kept, so that no other can take their place in memory.
        if known != versions or any(a is not b for a, b in zip(tensors, parameters, strict=True)):
            entries = {}
            self._kept = (parameters, versions, entries)
        dtype = torch.bfloat16 if precision == "bfloat16" else None
        return (
            self._entry(
                entries, precision, lambda: pack_denoiser(denoiser.weights(), heads=denoiser.heads, dtype=dtype)
            ),
            self._entry(entries, timesteps, lambda: denoiser.modulation(torch.tensor(timesteps))),
        )

    def _entry(self, entries: dict[Any, Tensor], key: Any, make: Callable[[], Tensor]) -> Tensor:
        value = entries.get(key)
        if value is None:
            with torch.no_grad():
                value = make()
            if type(value) is not Tensor:  # of a tracing mode
                return value
            tables = [name for name in entries if isinstance(name, tuple)]
            if isinstance(key, tuple) and len(tables) >= self.most_tables:
                entries.pop(tables[0], None)
            entries[key] = value
        return value
