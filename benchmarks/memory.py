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

    On the CPU the call runs on a thread of its own, which has no scratch memory of earlier calls, while the allocator
    takes every block of 64 KB or more from the system and gives it back: what the call takes, smaller blocks and memory
    kept from earlier calls aside, is what the process's resident pages rise by. None where the system does not tell.
    The stacks and tables of the thread itself are some 50 KB.
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


# Of glibc's mallopt, and the values that its own adjustment ends at.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20


def _peak_of_process(call: Callable[[], Any]) -> int | None:
    try:
        allocator = ctypes.CDLL(None)
        try:
            allocator.mallopt(_MMAP_THRESHOLD, 1 << 16)
            allocator.mallopt(_TRIM_THRESHOLD, 0)
            allocator.malloc_trim(0)
            _CLEAR.write_text("5")  # the peak begins anew
            before = resident("VmRSS")
            results = _size(call())
            return max(0, resident("VmHWM") - before - results)
        finally:
            allocator.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            allocator.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
    except (AttributeError, OSError):
        return None


def resident(field: str) -> int:
    """Bytes of this process by a field of its status: "VmRSS" in memory now, "VmHWM" at its peak."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def _size(results: Any) -> int:
    sizes: list[int] = []
    mapped(lambda tensor: sizes.append(tensor.nbytes), results if isinstance(results, tuple) else (results,))
    return sum(sizes)
