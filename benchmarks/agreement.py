"""Whether a provider computes what it should: its result against the same function in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from survcore.benchmarks.case import BenchmarkCase, Inputs, LeftOut, Provider, leaves, mapped

# Largest error relative to the largest absolute value of the oracle, for the result and for each gradient.
ALLOWED = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Agreement:
    """How a provider compares with its oracle.

    Attributes:
        problem: why it is not timed; empty if it is.
        error: the largest relative error, as in ``ALLOWED``.
        cosine: the lowest of all rows, for a result [rows, D]; else None.
    """

    problem: str = ""
    error: float | None = None
    cosine: float | None = None


def agreements(
    case: BenchmarkCase, providers: dict[str, Provider], inputs: Inputs, dtype: torch.dtype
) -> dict[str, Agreement]:
    """Every provider on the inputs, against its oracle on the same values in float64, in this process."""
    exact = mapped(widened, inputs)
    oracles: dict[str, list[Tensor]] = {}
    found = {}
    for name, provider in providers.items():
        source = case.oracles.get(name, case.oracle)
        if source not in oracles:
            oracles[source] = values_of((case.providers | case.context)[source], exact)
        try:
            found[name] = compare(values_of(provider, inputs), oracles[source], allowed(case, name, dtype))
        except Exception as error:
            found[name] = Agreement(told(error))
    return found


def allowed(case: BenchmarkCase, provider: str, dtype: torch.dtype) -> float:
    """The largest error of a provider that is given inputs of a type."""
    return ALLOWED[case.computes_in.get(provider, dtype)]


def told(error: Exception) -> str:
    """Why a provider gave nothing, in a line: a rival that cannot run here is a finding, not the end."""
    if isinstance(error, LeftOut):
        return f"left out: {error}"
    line = str(error).splitlines()[0][:120] if str(error) else ""
    return f"failed: {type(error).__name__}: {line}"


def widened(value: Tensor) -> Tensor:
    """The value in float64, a leaf where it was one."""
    return value.detach().double().requires_grad_(value.requires_grad) if value.is_floating_point() else value


def values_of(provider: Provider, inputs: Inputs) -> list[Tensor]:
    """The result without a graph and, where inputs require a gradient, the result with one and the gradients."""
    with torch.no_grad():
        alone = provider(*inputs)
    wanted = leaves(inputs)
    if not wanted:
        return [alone]
    result = provider(*inputs)
    return [alone, result.detach(), *torch.autograd.grad(result, wanted)]


def compare(values: list[Tensor], oracle: list[Tensor], largest_allowed: float) -> Agreement:
    """What a provider gave against what its oracle gave, both as :func:`values_of` returns them."""
    largest = 0.0
    for position, (value, exact) in enumerate(zip(values, oracle, strict=True)):
        result = "output" if exact.dim() else "loss"
        what = f"gradient {position - 1}" if position > 1 else f"{result} with a graph" if position else result
        if value.shape != exact.shape:
            return Agreement(f"wrong: {what} has shape {tuple(value.shape)}, expected {tuple(exact.shape)}")
        error = ((value.double() - exact).abs().max() / exact.abs().max()).item()
        if not error <= largest_allowed:  # so that NaN is wrong too
            return Agreement(f"wrong: {what} has relative error {error:.1e}")
        largest = max(largest, error)
    rows, exact = values[0], oracle[0]
    cosine = torch.cosine_similarity(rows.double(), exact, dim=1).min().item() if exact.dim() == 2 else None
    return Agreement(error=largest, cosine=cosine)
