"""Latency of calls that come one by one, on an idle machine and beside a busy neighbour."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from survcore.benchmarks.timing import Function, Spread, time_alone

# Ends by itself should its parent be killed.
_SPIN = """
import os, sys
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Latency:
    """Times of one provider without and with a busy neighbour."""

    provider: str
    idle: Spread
    busy: Spread


@contextmanager
def busy_neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that keeps one core busy, gone when the block is left.

    It runs on the cores that this process may use. It disturbs where these are no more than the op's threads.

    Raises:
        RuntimeError: it did not start, or ended before the block did.
    """
    command = [sys.executable, "-I", "-S", "-c", _SPIN, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as neighbour:
        try:
            if not neighbour.stdout or not neighbour.stdout.readline():
                raise RuntimeError("the busy neighbour did not start")
            yield neighbour
            if neighbour.poll() is not None:
                raise RuntimeError("the busy neighbour ended early: what was measured beside it means nothing")
        finally:
            neighbour.kill()


def measure_latency(functions: dict[str, Function], *, calls: int, seconds: float) -> list[Latency]:
    """Times of each function alone on the CPU, at most ``calls`` and about ``seconds`` each without and with neighbour.

    One after the other, not in turns: PyTorch's threads go on spinning for a while after a call and would disturb the
    next one.
    """
    limits = {"device": "cpu", "calls": calls, "seconds": seconds}
    idle = {name: time_alone(function, **limits) for name, function in functions.items()}
    busy = {}
    if functions:
        with busy_neighbour():
            busy = {name: time_alone(function, **limits) for name, function in functions.items()}
    return [Latency(name, idle[name], busy[name]) for name in functions]
