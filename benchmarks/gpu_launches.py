"""Kernels that the GPU is asked for by one call of each op on a small batch, as a training step makes it.

Run as ``python -m survcore.benchmarks.gpu_launches OUT``; writes ``launches.jsonl`` and, to be read, ``launches.txt``.
Beside the numbers of kernels, copies and fills stand the microseconds that the GPU was busy with them, and those that
one call takes of many made in a row, which for small batches is what the processor needs to ask for them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from survcore.benchmarks.agreement import told
from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.gpu_notes import Notes
from survcore.benchmarks.op_cases import CASES
from survcore.benchmarks.timing import Passes

_CALLS = 200


def main(out: Path) -> int:
    """0 if every op could be looked at."""
    failed = False
    with Notes(out, "launches") as notes:
        notes.say(f"{'op, size, provider':<64} kernels of forward, backward   busy us   us per call in a row")
        for case in CASES.values():
            for record in _records(case):
                notes.add(record, _line(record))
                failed = failed or ("problem" in record and record["provider"] == "survcore")
    return 1 if failed else 0


def _records(case: BenchmarkCase) -> Iterator[dict[str, Any]]:
    size = next(iter(case.sizes))
    for name in ("survcore", "eager"):
        record: dict[str, Any] = {"op": case.name, "size": size, "provider": name}
        try:
            inputs = case.inputs(case.dtype or torch.float32, "cuda", **case.size(size))
            record |= _measured(case, name, inputs)
        except Exception as error:
            record["problem"] = told(error)
        yield record


def _measured(case: BenchmarkCase, provider: str, inputs: Inputs) -> dict[str, Any]:
    passes = Passes(case.providers[provider], inputs)
    whole = list(passes.calls().values())[-1]
    for _ in range(3):
        whole()
    if "both" not in passes.calls():
        forward, _ = _launches(passes.forward)
        return {"forward": forward, "backward": None, "microseconds_in_a_row": _in_a_row(passes.forward)}
    forward, loss = _launches(passes.graph)
    backward, _ = _launches(lambda: passes.gradients(loss))
    return {"forward": forward, "backward": backward, "microseconds_in_a_row": _in_a_row(passes.both)}


def _launches(call: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """What a call asked the GPU for, and what it returned."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        result = call()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    copies = [event for event in events if event.name.startswith("Memcpy")]
    fills = [event for event in events if event.name.startswith("Memset")]
    kernels = [event.name for event in events if event not in copies and event not in fills]
    busy = sum(event.time_range.elapsed_us() for event in events)
    found = {"kernels": len(kernels), "copies": len(copies), "fills": len(fills), "busy_microseconds": busy}
    return found | {"names": kernels}, result


def _in_a_row(call: Callable[[], Any]) -> float:
    """Microseconds per call of many that wait for nothing in between."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(_CALLS):
        call()
    torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - start) / _CALLS


def _line(record: dict[str, Any]) -> str:
    head = f"{record['op']}, {record['size']}, {record['provider']}"
    if "problem" in record:
        return f"{head:<64} {record['problem']}"
    parts = [part for part in (record["forward"], record["backward"]) if part is not None]
    counts = ", ".join(_count(part) for part in parts)
    busy = sum(part["busy_microseconds"] for part in parts)
    return f"{head:<64} {counts:<28} {busy:9.1f} {record['microseconds_in_a_row']:12.1f}"


def _count(part: dict[str, Any]) -> str:
    others = part["copies"] + part["fills"]
    return f"{part['kernels']}" + (f" (+ {others} copies or fills)" if others else "")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
