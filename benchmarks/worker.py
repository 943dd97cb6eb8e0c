"""One provider of a case, served to a run from a process of its own, which may crash without taking the run along."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from survcore.benchmarks.agreement import Agreement, allowed, compare, told, values_of, widened
from survcore.benchmarks.case import BenchmarkCase, Inputs, Provider, leaves, mapped
from survcore.benchmarks.latency import Latency, measure_latency
from survcore.benchmarks.memory import peak_extra_bytes
from survcore.benchmarks.roofs import Roofs, measure_roofs
from survcore.benchmarks.timing import Passes, time_passes


class Worker:
    """What a run asks of a provider, one size after the other.

    Args:
        case: what is timed.
        provider: which of its providers.
        dtype, device: of the floating inputs, and where they are.
        exact: whether the inputs are widened to float64: then this is an oracle.
    """

    def __init__(self, case: BenchmarkCase, provider: str, dtype: torch.dtype, device: str, exact: bool) -> None:
        self._case, self._name, self._dtype, self._device, self._exact = case, provider, dtype, device, exact
        self._inputs: Inputs = ()
        self._values: list[Tensor] = []

    def prepare(self, size: str) -> None:
        """Make the inputs of a size, with nothing kept of the one before."""
        self.forget()
        torch.compiler.reset()  # else torch.compile gives up on a function after a few sizes, without a word
        self._provider = _provider(self._case, self._name)
        inputs = self._case.inputs(self._dtype, self._device, **self._case.size(size))
        self._inputs = mapped(widened, inputs) if self._exact else inputs

    def forget(self) -> None:
        """Give up inputs and values of a size."""
        self._inputs, self._values = (), []

    def work(self) -> dict[str, Any]:
        """Passes -> what they must do at least; empty if the case does not say."""
        if self._case.work is None:
            return {}
        passes = ("forward", "both") if leaves(self._inputs) else ("forward",)
        return {name: self._case.work(name, *self._inputs) for name in passes}

    def write_values(self, path: Path) -> None:
        """Run the provider and write what it gives: result without and with gradient, and gradients."""
        torch.save(values_of(self._provider, self._inputs), path)

    def compare(self, path: Path, provider: str) -> Agreement:
        """Values that a provider wrote, against this oracle's."""
        if not self._values:
            self._values = values_of(self._provider, self._inputs)
        return compare(torch.load(path), self._values, allowed(self._case, provider, self._dtype))

    def memory(self) -> dict[str, int | None]:
        """Passes -> peak of the memory beside inputs and results; None where the system does not say."""
        passes = Passes(self._provider, self._inputs)
        return {name: peak_extra_bytes(call, self._device) for name, call in passes.calls().items()}

    def time(self, passes: str, seconds: float) -> dict[str, list[float]]:
        """Seconds of each call in a turn of about so long; "both" gives those of "backward" too."""
        return time_passes(Passes(self._provider, self._inputs), passes, self._device, seconds)

    def latency(self, calls: int, seconds: float) -> Latency:
        """Call by call, without and with a busy neighbour."""
        call = list(Passes(self._provider, self._inputs).calls().values())[-1]
        return measure_latency(self._name, call, calls=calls, seconds=seconds)

    def roofs(self, seconds: float) -> Roofs:
        """The machine's rates."""
        return measure_roofs(self._dtype, self._device, seconds)


def serve(
    connection: Connection, module: str, provider: str, dtype: str, device: str, exact: bool, threads: int
) -> None:
    """Answer requests to a :class:`Worker`, see :func:`answer`."""
    settle(device, threads)
    answer(connection, Worker(importlib.import_module(module).CASE, provider, getattr(torch, dtype), device, exact))


def settle(device: str, threads: int) -> None:
    """Make this process one that a run has started for a worker on so many threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run that started this one ends it
    _end_with_parent()
    torch.set_num_threads(threads)
    if device == "cpu":
        _limit_memory()
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # a rival's graph breaks are its own affair


def answer(connection: Connection, worker: object) -> None:
    """Answer requests ``(method, arguments)`` of a worker until the other side closes the connection.

    Answers are ``("done", result)`` or ``("problem", why)``.
    """
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            found = ("done", getattr(worker, method)(*arguments))
        except Exception as error:
            found = ("problem", told(error))
        connection.send(found)


def _end_with_parent() -> None:
    """Ask for SIGKILL when the process that started this one is gone, where the system has such a request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _limit_memory() -> None:
    """Let who asks for three quarters of the machine's memory fail, before the system kills whom it likes."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _provider(case: BenchmarkCase, name: str) -> Provider:
    providers = case.providers | case.context
    if name == "compiled" and name not in providers:
        return torch.compile(providers["eager"], dynamic=False)
    return providers[name]
