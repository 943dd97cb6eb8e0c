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
    """Every provider on the inputs, against its oracle on the same values in float64."""
    exact = mapped(_widened, inputs)
    oracles: dict[str, list[Tensor]] = {}
    found = {}
    for name, provider in providers.items():
        source = case.oracles.get(name, case.oracle)
        if source not in oracles:
            oracles[source] = _result_and_gradients(providers[source], exact)
        try:
            values = _result_and_gradients(provider, inputs)
        except LeftOut as error:
            found[name] = Agreement(f"left out: {error}")
            continue
        except Exception as error:  # a rival that cannot run here (no compiler, say) is a finding, not the end
            line = str(error).splitlines()[0][:80] if str(error) else ""
            found[name] = Agreement(f"failed: {type(error).__name__}: {line}")
            continue
        found[name] = _compare(values, oracles[source], ALLOWED[dtype])
    return found


def _compare(values: list[Tensor], oracle: list[Tensor], allowed: float) -> Agreement:
    largest = 0.0
    for position, (value, exact) in enumerate(zip(values, oracle, strict=True)):
        what = f"gradient {position}" if position else "output" if exact.dim() else "loss"
        if value.shape != exact.shape:
            return Agreement(f"wrong: {what} has shape {tuple(value.shape)}, expected {tuple(exact.shape)}")
        error = ((value.double() - exact).abs().max() / exact.abs().max()).item()
        if not error <= allowed:  # so that NaN is wrong too
            return Agreement(f"wrong: {what} has relative error {error:.1e}")
        largest = max(largest, error)
    rows, exact = values[0], oracle[0]
    cosine = torch.cosine_similarity(rows.double(), exact, dim=1).min().item() if exact.dim() == 2 else None
    return Agreement(error=largest, cosine=cosine)


def _result_and_gradients(provider: Provider, inputs: Inputs) -> list[Tensor]:
    wanted = leaves(inputs)
    with torch.set_grad_enabled(bool(wanted)):
        result = provider(*inputs)
    return [result.detach(), *(torch.autograd.grad(result, wanted) if wanted else ())]


def _widened(value: Tensor) -> Tensor:
    return value.detach().double().requires_grad_(value.requires_grad) if value.is_floating_point() else value
