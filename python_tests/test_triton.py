"""Triton kernels without a GPU: in the interpreter, and compiled for every architecture."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import survcore.ops  # noqa: F401 (registers the kernels)
from survcore import _library
from survcore.testing import OP_CASES, OpCase

triton = pytest.importorskip("triton", reason="triton is not installed")

# Shared memory that one program may have, by compute capability. 8.0 and 8.9 get the instructions of 8.6 and have as
# much memory or more.
SHARED_MEMORY = {86: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Small samples and rarer types where it is least: they compile for the others if they do there.
LEAST = min(SHARED_MEMORY, key=SHARED_MEMORY.__getitem__)
# Forward and backward, of a small batch.
LAUNCHES = {
    "deephit_loss": (1, 0),
    "info_nce": (3, 5),
    "low_rank_decompose": (3, 4),
    "masked_bce_with_logits": (3, 1),
    "masked_mse": (3, 0),
}
KERNELS = [case for name, case in OP_CASES.items() if _library.has_triton_kernel(name)]


@pytest.mark.skipif(
    not triton.__version__.startswith("3.6."), reason="interpreted/ is written for the interpreter of Triton 3.6"
)
@pytest.mark.parametrize("third", range(3))
def test_kernels_in_the_interpreter(third: int) -> None:
    """In processes of their own: Triton looks whether to interpret when it is imported."""
    files = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))[third::3]
    own = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": "", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    result = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def _launches(case: OpCase, small: bool) -> Iterator[Any]:
    """Of the forward and the backward pass of a large sample, in the types that models are trained in, and of a small
    one if asked for."""
    from survcore.kernels import _launch

    kernels = importlib.import_module(f"survcore.kernels.{case.name}")
    backward = getattr(kernels, f"{case.name}_backward", None)
    for dtype in (torch.float32, torch.bfloat16):
        for arguments in (case.large(dtype), *list(case.samples(dtype).values())[:small]):
            with _launch.recorded() as launches:
                outputs = getattr(kernels, case.name)(*arguments)
                outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
                if backward is not None:
                    cotangents = [torch.ones_like(outputs[position]) for position in case.differentiable_outputs]
                    backward(*case.backward_arguments(arguments, outputs, cotangents))
            yield from launches


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.name)
def test_small_batches_take_few_launches(case: OpCase) -> None:
    from survcore.kernels import _launch

    kernels = importlib.import_module(f"survcore.kernels.{case.name}")
    backward = getattr(kernels, f"{case.name}_backward", None)
    arguments = next(iter(case.samples(torch.float32).values()))
    with _launch.recorded() as forward_launches:
        outputs = getattr(kernels, case.name)(*arguments)
    with _launch.recorded() as backward_launches:
        if backward is not None:
            cotangents = [torch.ones_like(outputs[position]) for position in case.differentiable_outputs]
            backward(*case.backward_arguments(arguments, outputs, cotangents))
    assert (len(forward_launches), len(backward_launches)) == LAUNCHES[case.name]


def _source(launch: Any, target: Any) -> tuple[Any, dict[str, Any], str]:
    """What Triton would compile for a launch: the source with all specialisations, the options, and a name for both."""
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel = launch.kernel
    backend = make_backend(target)
    keywords = launch.constants | {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = binder(*launch.arguments, **keywords)
    options, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
    name = f"{kernel.fn.__name__} {specialization} {sorted(keywords.items(), key=str)}"
    return ASTSource(kernel, signature, constants, attributes), options.__dict__, name


def _check_compiled(launches: Iterator[Any], capability: int) -> None:
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", capability, 32)
    seen = set()
    for launch in launches:
        source, options, name = _source(launch, target)
        if name in seen:
            continue
        seen.add(name)
        compiled = triton.compile(source, target=target, options=options)
        assert compiled.metadata.shared <= SHARED_MEMORY[capability], name
        # A program that would need more tensor memory than there is compiles to nothing.
        assert "st.global" in compiled.asm["ptx"], name
    assert seen


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.name)
def test_kernels_compile_within_shared_memory(case: OpCase, capability: int) -> None:
    _check_compiled(_launches(case, small=capability == LEAST), capability)


def _nystrom_launches(every: bool) -> Iterator[Any]:
    """Of a Nystrom layer on a slide, in float32 and with bfloat16 products of float32 rows; with ``every`` also of
    bfloat16 rows, and of six tokens that ask a bag."""
    from survcore.kernels import _launch
    from survcore.kernels import nystrom_layer as kernels

    count, width, heads, landmarks = 2_000, 256, 8, 128
    narrow = torch.bfloat16
    for dtype, dot_dtype in ((torch.float32, torch.float32), (torch.float32, narrow), (narrow, narrow))[: 2 + every]:
        rows, weight = torch.zeros(count, width, dtype=dtype), torch.zeros(2 * width, width, dtype=dtype)
        offsets, few = torch.tensor([0, count]), torch.zeros(1, heads, landmarks, width // heads)
        norm, square = (weight[0], weight[1]), weight[:width]
        made = torch.zeros(count, width, dtype=dot_dtype)
        with _launch.recorded() as launches:
            _, statistics = kernels.landmark_means(rows, offsets, *norm, 1e-5, landmarks)
            normed = (statistics, *norm)
            kernels.attend_to_bag(few, rows, offsets, count, *normed, weight, None, dot_dtype, landmarks, made)
            weights = (square, weight[:heads, :33].contiguous(), few, few, square, weight[0])
            kernels.mix_landmarks(rows, made, offsets, count, *normed, *weights, None, dot_dtype)
            if every and dtype == narrow:
                asking = (None, None, None, weight, weight[:, 0].contiguous())
                kernels.attend_to_bag(few[:, :, :6], rows, offsets, count, *asking, dot_dtype)
        yield from launches


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_nystrom_kernels_compile_within_shared_memory(capability: int) -> None:
    _check_compiled(_nystrom_launches(every=capability == LEAST), capability)
