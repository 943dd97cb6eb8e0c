"""Small cases of the ops with kernels of their own on CUDA, forward and backward, for tools that slow kernels down.

Values are compared by the tests; here they are only made.
"""

from __future__ import annotations

import sys

import torch

import survcore.ops  # noqa: F401 (registers the kernels)
from survcore import _library
from survcore.reference.pack_denoiser import pack_denoiser
from survcore.testing import OP_CASES, OpCase, convert
from survcore.testing.cox_ph_loss import cox_arguments
from survcore.testing.ddim_sample import ddim_arguments
from survcore.testing.op_case import Arguments

# Numbers that a case may have, and cases per op of a quick run.
_LARGEST, _QUICK_CASES = 40_000, 6


def _of_other_kernels() -> dict[str, list[Arguments]]:
    """Cases, of every run, of kernels that small ones do not reach: tiles of the Cox loss and late entries, launches
    of single phases of the sampler, and matrices in bfloat16."""
    draws = ddim_arguments(torch.float32, 5, steps=2)
    bfloat16 = pack_denoiser(draws[4], "bfloat16", "")
    return {
        "cox_ph_loss": [
            cox_arguments(torch.float32, 20_000, times=20, strata=5),
            cox_arguments(torch.float32, 600, strata=3, entry=True, weighted=True),
        ],
        "ddim_sample": [ddim_arguments(torch.float32, 65, steps=2), (*draws[:4], bfloat16, *draws[5:])],
    }


def main(compiled: bool, quick: bool) -> int:
    sources = ("compiled",) if compiled else ("compiled", "triton")
    ran, others = {}, _of_other_kernels()
    for case in OP_CASES.values():
        if _library.kernel_source(case.name, "CUDA") not in sources:
            continue
        given = [*case.samples(torch.float32).values(), *case.extremes(torch.float32).values()]
        small = [arguments for arguments in given if _numbers(arguments) <= _LARGEST]
        if quick:
            small = small[:: max(1, len(small) // _QUICK_CASES)]
        small += others.get(case.name, [])
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
