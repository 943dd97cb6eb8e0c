"""Small cases of the ops with kernels of their own on CUDA, forward and backward, for tools that slow kernels down.

Values are compared by the tests; here they are only made.
"""

from __future__ import annotations

import sys

import torch

import survcore.ops  # noqa: F401 (registers the kernels)
from survcore import _library
from survcore.testing import OP_CASES, OpCase, convert

# Numbers that a case may have, and cases per op of a quick run.
_LARGEST, _QUICK_CASES = 40_000, 6


def main(compiled: bool, quick: bool) -> int:
    sources = ("compiled",) if compiled else ("compiled", "triton")
    ran = {}
    for case in OP_CASES.values():
        if _library.kernel_source(case.name, "CUDA") not in sources:
            continue
        given = [*case.samples(torch.float32).values(), *case.extremes(torch.float32).values()]
        small = [arguments for arguments in given if _numbers(arguments) <= _LARGEST]
        if quick:
            small = small[:: max(1, len(small) // _QUICK_CASES)]
        for arguments in small:
            _call(case, convert(arguments, device="cuda"))
        torch.cuda.synchronize()
        ran[case.name] = len(small)
    if not ran:
        print("no op has a kernel of its own on CUDA")
        return 1
    print("small cases ran:", ", ".join(f"{name} {count}" for name, count in ran.items()), flush=True)
    return 0


def _numbers(arguments: tuple) -> int:
    return sum(value.numel() for value in arguments if isinstance(value, torch.Tensor))


def _call(case: OpCase, arguments: tuple) -> None:
    arguments = tuple(
        value.requires_grad_() if position in case.differentiable else value for position, value in enumerate(arguments)
    )
    results = case.function(*arguments)
    results = results if isinstance(results, tuple) else (results,)
    total = sum((results[position].float().sum() for position in case.differentiable_outputs), torch.zeros(()))
    if case.differentiable:
        (2 * total).backward()


if __name__ == "__main__":
    sys.exit(main("--compiled" in sys.argv, "--quick" in sys.argv))
