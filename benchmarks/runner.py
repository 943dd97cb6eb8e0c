"""Runs a case: every provider must agree with its float64 oracle before it is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from survcore.benchmarks.agreement import Agreement, agreements
from survcore.benchmarks.case import BenchmarkCase, Inputs, Provider, Work, leaves
from survcore.benchmarks.latency import Latency, measure_latency
from survcore.benchmarks.roofs import Roofs, matrix_product_rate, read_rate
from survcore.benchmarks.timing import Function, Spread, time_in_turns


@dataclass(frozen=True)
class Result:
    """One provider at one size: its time, or why there is none (``agreement.problem``)."""

    provider: str
    agreement: Agreement
    spread: Spread | None
    rival: bool


@dataclass(frozen=True)
class Report:
    """What was measured at one size.

    Attributes:
        op, size: which.
        passes: "forward and backward" or "forward".
        results: of all providers, timed in turns.
        work, roofs: of a case that states its work, else None.
        latencies: at the first size, of the providers that the case names.
    """

    op: str
    size: str
    passes: str
    results: list[Result]
    work: Work | None
    roofs: Roofs | None
    latencies: list[Latency]


@dataclass(frozen=True)
class Effort:
    """How long is measured: seconds per provider in turns, per roof, and the limits of a latency."""

    seconds: float
    roof_seconds: float
    latency_calls: int
    latency_seconds: float


FULL = Effort(seconds=1.5, roof_seconds=0.5, latency_calls=300, latency_seconds=10.0)
QUICK = Effort(seconds=0.3, roof_seconds=0.1, latency_calls=100, latency_seconds=2.0)


def run_case(case: BenchmarkCase, *, device: str, dtype: torch.dtype, quick: bool) -> Iterator[Report]:
    """The report of each size in turn."""
    effort = QUICK if quick else FULL
    product_rate = matrix_product_rate(dtype, device, effort.roof_seconds) if case.work else 0.0
    for size in case.quick if quick else case.sizes:
        yield _run_size(case, size, device, dtype, effort, product_rate)


def _run_size(
    case: BenchmarkCase, size: str, device: str, dtype: torch.dtype, effort: Effort, product_rate: float
) -> Report:
    torch.compiler.reset()  # else torch.compile gives up on a function after a few sizes, without a word
    first = size == next(iter(case.sizes))
    inputs = case.inputs(dtype, device, **case.sizes[size])
    rivals = dict(case.providers)
    if "eager" in rivals and "compiled" not in rivals:
        rivals["compiled"] = torch.compile(rivals["eager"], dynamic=False)
    context = case.context if first else {}

    found = agreements(case, rivals | context, inputs, dtype)
    functions = {
        name: _function(provider, inputs) for name, provider in (rivals | context).items() if not found[name].problem
    }
    spreads: dict[str, Spread] = {}
    for group in (rivals, context):
        timed = {name: function for name, function in functions.items() if name in group}
        spreads |= time_in_turns(timed, device, effort.seconds)

    work = case.work(*inputs) if case.work else None
    roofs = Roofs(product_rate, *read_rate(work.weight_bytes, device, effort.roof_seconds)) if work else None
    alone = {name: functions[name] for name in case.latency if name in functions and first and device == "cpu"}
    return Report(
        op=case.name,
        size=size,
        passes="forward and backward" if leaves(inputs) else "forward",
        results=[Result(name, found[name], spreads.get(name), name in rivals) for name in found],
        work=work,
        roofs=roofs,
        latencies=measure_latency(alone, calls=effort.latency_calls, seconds=effort.latency_seconds),
    )


def _function(provider: Provider, inputs: Inputs) -> Function:
    """One call of a provider, backward included where there is a gradient."""
    wanted = leaves(inputs)

    @torch.no_grad()
    def forward() -> None:
        provider(*inputs)

    def forward_and_backward() -> None:
        torch.autograd.grad(provider(*inputs), wanted)

    return forward_and_backward if wanted else forward
