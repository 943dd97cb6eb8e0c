"""Timing of several functions in one run, in turns, so that a disturbance of the machine strikes all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Spread:
    """Seconds per call: median, and the 20th and 80th percentile."""

    median: float
    low: float
    high: float


def time_in_turns(functions: dict[str, Callable[[], object]], device: str, seconds: float) -> dict[str, Spread]:
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


def _once(function: Callable[[], object], device: str) -> float:
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

    return Spread(median=quantile(0.5), low=quantile(0.2), high=quantile(0.8))
