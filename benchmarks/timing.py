"""Timing: several functions in turns, so that a disturbance of the machine strikes all of them, or one alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Function = Callable[[], object]


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


def time_in_turns(functions: dict[str, Function], device: str, seconds: float) -> dict[str, Spread]:
    """Call each function in turn for about ``seconds`` per function, five rounds at least, after two to warm up."""
    for function in functions.values():
        for _ in range(2):
            function()
    samples: dict[str, list[float]] = {name: [] for name in functions}
    deadline = time.perf_counter() + seconds * len(functions)
    rounds = 0
    while rounds < 5 or (time.perf_counter() < deadline and rounds < 2000):
        for name, function in functions.items():
            samples[name].append(_once(function, device))
        rounds += 1
    return {name: _spread(values) for name, values in samples.items()}


def time_alone(function: Function, device: str, *, calls: int, seconds: float) -> Spread:
    """Call one function again and again, after once to warm up, until one of the limits is reached."""
    function()
    return _spread(_repeated(function, device, calls, seconds))


def fastest(function: Function, device: str, seconds: float) -> float:
    """Seconds of the fastest call in about ``seconds``, after one to warm up."""
    function()
    return min(_repeated(function, device, 1000, seconds))


def _repeated(function: Function, device: str, calls: int, seconds: float) -> list[float]:
    deadline = time.perf_counter() + seconds
    samples = [_once(function, device)]
    while len(samples) < calls and time.perf_counter() < deadline:
        samples.append(_once(function, device))
    return samples


def _once(function: Function, device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    function()
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event) / 1e3


def _spread(values: list[float]) -> Spread:
    ordered = sorted(values)

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    p95, p99 = (quantile(share) if len(ordered) * (1 - share) >= 1 else None for share in (0.95, 0.99))
    return Spread(quantile(0.5), quantile(0.2), quantile(0.8), p95, p99, len(ordered))
