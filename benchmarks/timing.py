"""Timing of a provider's passes, and of a function alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from survcore.benchmarks.case import Inputs, Provider, leaves

Function = Callable[[], object]

# The first of several calls shorter than this is not counted: another process has had the caches.
_SHORT = 0.02
# Bytes, several times what any GPU's caches hold.
_SWEPT = 1 << 28


@dataclass(frozen=True)
class Spread:
    """Seconds per call: the median, and the 20th, 80th, 95th and 99th percentile of so many calls.

    A percentile that so few calls do not show is None.
    """

    median: float
    low: float
    high: float
    p95: float | None
    p99: float | None
    calls: int


class Passes:
    """A provider's forward pass on given inputs and, where some of them require a gradient, its backward pass."""

    def __init__(self, provider: Provider, inputs: Inputs) -> None:
        self._provider, self._inputs = provider, inputs
        self._wanted = leaves(inputs)

    def calls(self) -> dict[str, Callable[[], Any]]:
        """ "forward", without a graph, and "both" where there is a gradient -> function that returns the results."""
        return {"forward": self.forward} | ({"both": self.both} if self._wanted else {})

    @torch.no_grad()
    def forward(self) -> tuple[Tensor, ...]:
        return (self._provider(*self._inputs),)

    def both(self) -> tuple[Tensor, ...]:
        loss = self.graph()
        return (loss.detach(), *self.gradients(loss))

    def graph(self) -> Tensor:
        return self._provider(*self._inputs)

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, self._wanted)


def time_passes(passes: Passes, name: str, device: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of the calls in about ``seconds``, one at least: of "forward", or of "both" and "backward" within it."""
    clock = _Clock(device)

    def forward() -> tuple[float, ...]:
        start = clock.start()
        passes.forward()
        return (clock.seconds(start, clock.mark()),)

    def both() -> tuple[float, ...]:
        start = clock.start()
        loss = passes.graph()
        middle = clock.mark()
        passes.gradients(loss)
        end = clock.mark()
        return clock.seconds(start, end), clock.seconds(middle, end)

    call, measured = (forward, ("forward",)) if name == "forward" else (both, ("both", "backward"))
    deadline = time.perf_counter() + seconds
    samples = [call()]
    while time.perf_counter() < deadline:
        samples.append(call())
    if len(samples) > 1 and samples[0][0] < _SHORT:
        del samples[0]
    return dict(zip(measured, map(list, zip(*samples, strict=True)), strict=True))


def time_alone(function: Function, device: str, *, calls: int, seconds: float) -> Spread:
    """Call one function again and again, after once to warm up, until one of the limits is reached."""
    function()
    return spread(_repeated(function, device, calls, seconds))


def fastest(function: Function, device: str, seconds: float) -> float:
    """Seconds of the fastest call in about ``seconds``, after one to warm up."""
    function()
    return min(_repeated(function, device, 1000, seconds))


def _repeated(function: Function, device: str, calls: int, seconds: float) -> list[float]:
    clock = _Clock(device)

    def once() -> float:
        start = clock.start()
        function()
        return clock.seconds(start, clock.mark())

    deadline = time.perf_counter() + seconds
    samples = [once()]
    while len(samples) < calls and time.perf_counter() < deadline:
        samples.append(once())
    return samples


class _Clock:
    """Marks of time: the processor's, or events of the current CUDA stream.

    On CUDA what is timed begins behind a pass over memory that leaves nothing of it in the caches, and that keeps the
    GPU busy for as long as the processor takes to launch something: small kernels are timed, not their launches.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._swept = torch.empty(_SWEPT, dtype=torch.int8, device="cuda") if self._cuda else None

    def start(self) -> Any:
        if self._swept is not None:
            self._swept.zero_()
        return self.mark()

    def mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        if not self._cuda:
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def spread(values: list[float]) -> Spread:
    """Median and percentiles of samples."""
    ordered = sorted(values)

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    p95, p99 = (quantile(share) if len(ordered) * (1 - share) >= 1 else None for share in (0.95, 0.99))
    return Spread(quantile(0.5), quantile(0.2), quantile(0.8), p95, p99, len(ordered))
