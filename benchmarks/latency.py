"""Latency of calls that come one by one, on an idle machine and beside a busy neighbour."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from survcore.benchmarks.timing import Function, Spread, time_alone

# Ends by itself should its parent be killed.
_SPIN = """
import os, sys
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


class Latency(NamedTuple):
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


def measure_latency(provider: str, function: Function, *, calls: int, seconds: float) -> Latency:
    """Times of a function alone on the CPU, at most ``calls`` and about ``seconds`` each without and with neighbour."""
    idle = time_alone(function, "cpu", calls=calls, seconds=seconds)
    with busy_neighbour():
        busy = time_alone(function, "cpu", calls=calls, seconds=seconds)
    return Latency(provider, idle, busy)
