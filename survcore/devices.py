"""Which device a name means, and what it can do."""

from __future__ import annotations

import torch


def known_device(name: str | torch.device) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:N", or "auto", the first CUDA device where there is one, else the CPU.

    Raises:
        ValueError: a device of another kind, or one that torch does not see.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"expected auto, cpu or cuda:N as device, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"expected auto, cpu or cuda:N as device, got {str(name)!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(name)!r}: torch sees {torch.cuda.device_count()} CUDA devices on this machine")
    return device


def native_bfloat16(device: str) -> bool:
    """Whether the kind of device, "cpu" or "cuda", multiplies bfloat16 itself."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
