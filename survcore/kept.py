"""What is made of a module's parameters once and kept until they change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Kept:
    """Values made from the parameters of one module, forgotten when these change.

    A change is seen by memory, dtype and torch's version counter of each parameter (most optimisers,
    ``load_state_dict``, ``copy_``, another tensor in its place). Not seen is what changes ``parameter.data``, and fused
    optimisers, which do not count; so a module that is trained calls :meth:`forget` in its ``train``. Nothing is kept
    in training mode, under torch.compile and torch.func's transforms, nor of a module whose parameters were made in
    inference mode and so count no versions. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        # Parameters, what they were like, and what was made of them: always replaced together.
        self._kept: tuple[list[Tensor], list[Any], dict[Any, Any]] = ([], [], {})

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return type(self), ()

    def forget(self) -> None:
        """Free everything."""
        self._kept = ([], [], {})

    def entries(self, module: nn.Module) -> dict[Any, Any] | None:
        """Where to find and to put what is made of the module's parameters as they are; None where nothing may be
        kept."""
        if module.training or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return None
        parameters = list(module.parameters())
        if any(parameter.is_inference() for parameter in parameters):
            return None
        state = [(parameter.data_ptr(), parameter.dtype, parameter._version) for parameter in parameters]
        tensors, known, entries = self._kept
        # The parameters themselves are kept, so that no other can take their place in memory.
        if known != state or any(a is not b for a, b in zip(tensors, parameters, strict=True)):
            entries = {}
            self._kept = (parameters, state, entries)
        return entries
