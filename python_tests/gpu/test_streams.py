"""Any stream, any device, no wait for the GPU, autocast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from survcore.testing import OP_CASES, OpCase

CASES = [pytest.param(case, id=case.name) for case in OP_CASES.values()]
DIFFERENTIABLE = [parameter for parameter in CASES if parameter.values[0].differentiable]


def _sample(case: OpCase) -> tuple:
    return next(iter(case.samples(torch.float32).values()))


def _equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for position, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one.cpu().nan_to_num(7.0), other.cpu().nan_to_num(7.0)), f"result {position}"


@pytest.mark.parametrize("case", CASES)
def test_runs_on_the_current_stream(case: OpCase, on_cuda, run_op) -> None:
    """Inputs that are written late on a stream are read after that: a launch on another one would come too early."""
    arguments = on_cuda(case, _sample(case))
    expected = run_op(case, arguments)
    late = tuple(
        torch.zeros_like(value) if isinstance(value, Tensor) and value.is_floating_point() and value.is_cuda else value
        for value in arguments
    )
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: a tenth of a second
        for into, value in zip(late, arguments, strict=True):
            if into is not value:
                into.copy_(value)
        found = run_op(case, late)
    stream.synchronize()
    _equal(found, expected)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """What waits for the GPU through torch raises."""
    mode = torch.cuda.get_sync_debug_mode()
    yield
    torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("case", CASES)
def test_does_not_wait_for_the_gpu(case: OpCase, own_kernel, on_cuda, run_op) -> None:
    own_kernel(case)
    for arguments in (_sample(case), case.large(torch.float32)):
        moved = on_cuda(case, arguments)
        run_op(case, moved)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        run_op(case, moved)
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("case", CASES)
def test_runs_on_the_device_of_its_inputs(case: OpCase, on_cuda, run_op) -> None:
    expected = run_op(case, on_cuda(case, _sample(case), "cuda:0"))
    with torch.cuda.device(0):
        found = run_op(case, on_cuda(case, _sample(case), "cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(value.device == torch.device("cuda", 1) for value in found)
    _equal(found, expected)


def test_current_stream_is_that_of_torch() -> None:
    """The symbol that survcore's kernels ask is in the libtorch_cuda of this process, and says what torch says."""
    import ctypes
    import os

    library = ctypes.CDLL("libtorch_cuda.so", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    stream, found = torch.cuda.Stream(), ctypes.c_void_p()
    with torch.cuda.stream(stream):
        assert library.aoti_torch_get_current_cuda_stream(ctypes.c_int32(0), ctypes.byref(found)) == 0
    assert found.value == stream.cuda_stream


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_autocast_changes_nothing(case: OpCase, on_cuda, run_op) -> None:
    """Losses are computed in float32 at least, whatever autocast would have matrix products do."""
    arguments = on_cuda(case, _sample(case))
    expected = run_op(case, arguments)
    with torch.autocast("cuda", torch.bfloat16):
        _equal(run_op(case, arguments), expected)


def test_losses_of_a_network_under_autocast() -> None:
    """bfloat16 logits out of a linear layer, and a gradient that reaches its float32 weights."""
    from survcore.losses import DiscreteHazardNLL

    torch.manual_seed(0)
    network = torch.nn.Linear(16, 5, device="cuda")
    features, time_bin = torch.randn(64, 16, device="cuda"), torch.randint(0, 5, (64,), device="cuda")
    event = torch.randint(0, 2, (64,), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        logits = network(features)
        loss = DiscreteHazardNLL()(logits, time_bin, event)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    loss.backward()
    exact = DiscreteHazardNLL()(logits.detach().double().cpu(), time_bin.cpu(), event.cpu())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert network.weight.grad is not None and network.weight.grad.isfinite().all()
