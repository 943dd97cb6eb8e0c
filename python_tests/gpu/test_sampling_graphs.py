"""The sampling loop as a CUDA graph, which serves where survcore was built without its CUDA kernel."""

from __future__ import annotations

import pytest
import torch

from survcore.ops._sampling_graphs import SamplingGraphs
from survcore.reference import ddim_sample as reference
from survcore.reference.pack_denoiser import HEADER_BYTES
from survcore.testing import convert
from survcore.testing.ddim_sample import ddim_arguments
from survcore.testing.op_case import Arguments


def _given(call: int, draws: int = 5, device: str = "cuda") -> Arguments:
    """Other noise and other weights in each call."""
    noise, *middle, pack, modulation, coefficients = ddim_arguments(torch.float32, draws, width=64)
    pack = pack.clone()
    pack[HEADER_BYTES:].view(torch.float32).mul_(1 + 0.05 * call)
    return convert((noise + call, *middle, pack, modulation, coefficients), device=device)


def _check(found: torch.Tensor, given: Arguments) -> None:
    expected = reference.ddim_sample(*given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_later_calls_replay_what_the_second_recorded() -> None:
    graphs = SamplingGraphs()
    for call in range(4):
        _check(graphs(*_given(call)), _given(call))
    assert any(kind for kind in graphs._kinds.values())


def test_streams_take_turns() -> None:
    graphs = SamplingGraphs()
    given = [_given(call) for call in range(6)]
    for call in range(2):
        graphs(*given[call])
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream() for _ in range(2)], []
    for call in range(2, 6):
        with torch.cuda.stream(streams[call % 2]):
            found.append(graphs(*given[call]))
    torch.cuda.synchronize()
    for values, arguments in zip(found, given[2:], strict=True):
        _check(values, arguments)


def test_inside_a_capture_of_the_caller() -> None:
    graphs = SamplingGraphs()
    given = _given(0)
    for _ in range(2):
        graphs(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = graphs(*given)
    graph.replay()
    _check(found, given)


def test_kinds_that_push_each_other_out() -> None:
    graphs = SamplingGraphs()
    graphs.most_kinds = 1
    for call in range(9):
        given = _given(call, draws=4 + call // 3)
        _check(graphs(*given), given)
    assert len(graphs._kinds) == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_device_that_is_not_the_current_one() -> None:
    from survcore.ops.ddim_sample import _plain

    with torch.cuda.device(0):
        for call in range(4):
            given = _given(call, device="cuda:1")
            _check(_plain(*given), given)
