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

    A change is seen by memory, dtype and torch's version counter of each parameter (optimisers, ``load_state_dict``,
    ``copy_``, another tensor in its place); ``to()``, ``train()`` and ``eval()`` forget everything. Not seen is what
    changes ``parameter.data`` in evaluation mode. Nothing is kept in training mode, nor of a module whose parameters
    were made in inference mode and so count no versions. Copies and pickles of a module start empty.
    """

    # Tables of modulation [T, L, 6, D] and, on a GPU, of coefficients [T, 5].
    most_tables = 16

    def __init__(self) -> None:
        # Parameters, what they were like, and what was made of them: always replaced together.
        self._kept: tuple[list[Tensor], list[Any], dict[Any, Tensor]] = ([], [], {})

    def __reduce__(self) -> tuple[type[PackedDenoiser], tuple[()]]:
        return PackedDenoiser, ()

    def forget(self) -> None:
        """Free everything."""
        self._kept = ([], [], {})

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

        parameters = list(denoiser.parameters())
        if denoiser.training or any(parameter.is_inference() for parameter in parameters):
            return _made(pack), _made(modulation), _made(moved)
        state = [(parameter.data_ptr(), parameter.dtype, parameter._version) for parameter in parameters]
        tensors, known, entries = self._kept
        # The parameters themselves are kept, so that no other can take their place in memory.
        if known != state or any(a is not b for a, b in zip(tensors, parameters, strict=True)):
            entries = {}
            self._kept = (parameters, state, entries)
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
