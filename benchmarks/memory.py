"""How much memory a call takes at its peak, beside its inputs and what it returns."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from survcore.benchmarks.case import mapped

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_extra_bytes(call: Callable[[], Any], device: str) -> int | None:
    """Bytes that were in use at the peak of a call beyond those before it and those of its results.

    On the CPU the call runs on a thread that has kept nothing of earlier calls, neither of the allocator's nor of a
    kernel's scratch memory, and the peak is that of the process's resident pages: None where the kernel of the system
    does not tell it, and 0 is any amount below what a page or two can show.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        results = _size(call())
        torch.cuda.synchronize()
        return max(0, torch.cuda.max_memory_allocated() - before - results)
    found: list[int | None] = []
    thread = Thread(target=lambda: found.append(_peak_of_process(call)))
    thread.start()
    thread.join()
    return found[0] if found else None


def _peak_of_process(call: Callable[[], Any]) -> int | None:
    try:
        ctypes.CDLL(None).malloc_trim(0)  # pages that the allocator kept would be used again, unseen
        _CLEAR.write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
        results = _size(call())
        return max(0, _resident("VmHWM") - before - results)
    except (AttributeError, OSError):
        return None


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def _size(results: Any) -> int:
    sizes: list[int] = []
    mapped(lambda tensor: sizes.append(tensor.nbytes), results if isinstance(results, tuple) else (results,))
    return sum(sizes)
