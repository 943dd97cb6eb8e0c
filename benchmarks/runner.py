"""Runs a case: every provider must agree with the float64 oracle before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase, Inputs
from survcore.benchmarks.timing import Spread, time_in_turns

# Largest error relative to the largest absolute value of the oracle, for the loss and for each gradient.
AGREEMENT = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Result:
    """One provider at one size: its time, or why there is none."""

    op: str
    size: str
    provider: str
    spread: Spread | None
    problem: str = ""


def run_case(case: BenchmarkCase, *, device: str, dtype: torch.dtype, quick: bool) -> Iterator[list[Result]]:
    """Results of each size in turn, forward and backward together."""
    for size in case.quick if quick else case.sizes:
        inputs = case.inputs(dtype, device, **case.sizes[size])
        providers = case.providers | {"compiled": torch.compile(case.providers["eager"], dynamic=False)}
        problems = _check(case, providers, inputs, dtype)
        steps = {name: _step(provider, inputs) for name, provider in providers.items() if name not in problems}
        spreads = time_in_turns(steps, device, seconds=0.3 if quick else 1.5)
        yield [Result(case.name, size, name, spreads.get(name), problems.get(name, "")) for name in providers]


def _step(provider: Callable[..., Tensor], inputs: Inputs) -> Callable[[], None]:
    leaves = _leaves(inputs)

    def step() -> None:
        torch.autograd.grad(provider(*inputs), leaves)

    return step


def _check(
    case: BenchmarkCase, providers: dict[str, Callable[..., Tensor]], inputs: Inputs, dtype: torch.dtype
) -> dict[str, str]:
    """Provider -> what is wrong with it."""
    exact = tuple(
        value.detach().double().requires_grad_(value.requires_grad) if _floating(value) else value for value in inputs
    )
    oracle = _loss_and_gradients(case.providers["eager"], exact)
    problems = {}
    for name, provider in providers.items():
        try:
            values = _loss_and_gradients(provider, inputs)
        except Exception as error:  # a rival that cannot run here (no compiler, say) is a finding, not the end
            problems[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
            continue
        problem = _disagreement(values, oracle, AGREEMENT[dtype])
        if problem:
            problems[name] = f"wrong: {problem}"
    return problems


def _disagreement(values: list[Tensor], oracle: list[Tensor], allowed: float) -> str:
    """What is wrong with loss and gradients; empty if nothing is."""
    for position, (value, exact) in enumerate(zip(values, oracle, strict=True)):
        what = f"gradient {position}" if position else "loss"
        if value.shape != exact.shape:
            return f"{what} has shape {tuple(value.shape)}, expected {tuple(exact.shape)}"
        error = ((value.double() - exact).abs().max() / exact.abs().max()).item()
        if not error <= allowed:  # so that NaN is wrong too
            return f"{what} has relative error {error:.1e}"
    return ""


def _loss_and_gradients(provider: Callable[..., Tensor], inputs: Inputs) -> list[Tensor]:
    loss = provider(*inputs)
    return [loss.detach(), *torch.autograd.grad(loss, _leaves(inputs))]


def _leaves(inputs: Inputs) -> list[Tensor]:
    return [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]


def _floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
