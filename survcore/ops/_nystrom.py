"""Where the kernels of Nystrom attention serve: tokens of a bag on CUDA, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from survcore import _library

# Queries that keys and values are made for on the fly; for more it is cheaper to store them.
MOST_QUERIES = 256


@dataclass(frozen=True)
class FusedKernels:
    """The launchers of ``survcore.kernels.nystrom_layer`` for products in one type, on the device of their rows."""

    module: ModuleType
    dot_dtype: torch.dtype

    def new_values(self, rows: Tensor) -> Tensor:
        """Room for the values of all rows [N, D]."""
        return torch.empty_like(rows, dtype=self.dot_dtype, memory_format=torch.contiguous_format)

    def landmark_means(
        self, rows: Tensor, offsets: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, landmarks: int
    ) -> tuple[Tensor, Tensor]:
        """Means of LayerNorm(rows) [B, m, D] and the norm's statistics."""
        with torch.cuda.device_of(rows):
            return self.module.landmark_means(rows, offsets, norm_weight, norm_bias, eps, landmarks)

    def attend_to_bag(
        self,
        query: Tensor,
        rows: Tensor,
        offsets: Tensor,
        longest: int,
        statistics: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        key_value_weight: Tensor,
        key_value_bias: Tensor | None,
        landmarks: int = 0,
        made_values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attended values [B, H, Q, d] and the log of the summed weights [B, H, Q], float32."""
        norm = (statistics, norm_weight, norm_bias)
        key_value = (key_value_weight, key_value_bias)
        with torch.cuda.device_of(rows):
            return self.module.attend_to_bag(
                query, rows, offsets, longest, *norm, *key_value, self.dot_dtype, landmarks, made_values
            )

    def mix_landmarks(self, rows: Tensor, *arguments: Tensor | int | None) -> Tensor:
        """New rows, from the arguments of ``survcore.kernels.nystrom_layer.mix_landmarks`` but the last."""
        with torch.cuda.device_of(rows):
            return self.module.mix_landmarks(rows, *arguments, self.dot_dtype)


def fused_kernels(pieces: Sequence[Tensor], weight: Tensor, heads: int, landmarks: int = 1) -> FusedKernels | None:
    """The kernels for tokens in pieces [n_i, D] and a layer with such a weight [.., D], or None: plain operations."""
    if torch.is_grad_enabled() or _observed() or not all(map(_on_device, (*pieces, weight))):
        return None
    dtype = pieces[0].dtype
    for piece in pieces:
        dtype = torch.promote_types(dtype, piece.dtype)
    dot_dtype = weight.dtype
    if torch.is_autocast_enabled("cuda"):
        dot_dtype = torch.get_autocast_dtype("cuda")
    elif dtype != weight.dtype:
        return None
    module = _library.triton_module("nystrom_layer")
    if module is None or not module.supports(dtype, dot_dtype, weight.shape[1], heads, landmarks):
        return None
    return FusedKernels(module, dot_dtype)


def _on_device(value: Tensor) -> bool:
    return value.is_cuda and type(value) in (Tensor, torch.nn.Parameter)


def _observed() -> bool:
    """Whether something takes operations down, or transforms them, that would not see a kernel."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """All pieces [n_i, D] in one [N, D]: a view where they already follow each other in one buffer."""
    first = pieces[0]
    after = first.data_ptr()
    for piece in pieces:
        if piece.dtype != first.dtype or not piece.is_contiguous() or piece.data_ptr() != after:
            return torch.cat(list(pieces))
        if piece.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(pieces))
        after += piece.numel() * piece.element_size()
    return first.as_strided((sum(map(len, pieces)), first.shape[1]), (first.shape[1], 1))


def offsets_of_one(rows: Tensor) -> Tensor:
    """[0, N] on the device of rows, made there."""
    count = len(rows)
    if not count:
        return torch.zeros(2, dtype=torch.int64, device=rows.device)
    return torch.arange(0, count + 1, count, device=rows.device)
