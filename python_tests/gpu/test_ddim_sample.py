"""Every way in which ddim_sample runs on a GPU: weights on the chip or streamed, one launch or one for each phase."""

from __future__ import annotations

import pytest
import torch

from survcore import _library
from survcore.diffusion import Denoiser, NoiseSchedule, sample
from survcore.diffusion.sampler import MOST_COMPILED_DRAWS
from survcore.reference import ddim_sample as reference
from survcore.reference.pack_denoiser import pack_denoiser
from survcore.testing import assert_close_to_oracle, convert
from survcore.testing.ddim_sample import ddim_arguments
from survcore.testing.op_case import Arguments

compiled = pytest.mark.skipif(
    _library.kernel_source("ddim_sample", "CUDA") != "compiled", reason="built without the CUDA kernel of ddim_sample"
)

# Draws, layers, width, steps, type of the matrices. By what an H200 has: 132 multiprocessors with 227 KB each.
WAYS = {
    "on the chip, as MUST": (5, 4, 256, 50, "float32"),
    "on the chip, bfloat16": (5, 4, 256, 50, "bfloat16"),
    "on the chip, float64": (3, 1, 64, 5, "float64"),
    "as many draws as one launch takes": (64, 2, 256, 4, "float32"),
    "streamed": (5, 2, 512, 4, "float32"),
    "streamed, bfloat16": (5, 3, 512, 4, "bfloat16"),
    "a launch for each phase": (65, 2, 256, 4, "float32"),
    "a launch for each phase, bfloat16": (65, 2, 256, 4, "bfloat16"),
    "working memory of blocks outside the chip": (65, 1, 1600, 2, "float32"),
}


def _arguments(draws: int, layers: int, width: int, steps: int, kind: str) -> Arguments:
    dtype = torch.float64 if kind == "float64" else torch.float32
    given = ddim_arguments(dtype, draws, width=width, heads=8, layers=layers, steps=steps, patients=3, tokens=3)
    return (*given[:4], pack_denoiser(given[4], kind, ""), *given[5:])


@compiled
@pytest.mark.parametrize("way", WAYS)
def test_equals_the_reference(way: str, busy_stream: torch.cuda.Stream) -> None:
    arguments = _arguments(*WAYS[way])
    moved = convert(arguments, device="cuda")
    found = torch.ops.survcore.ddim_sample(*moved)
    for _ in range(9):
        assert torch.equal(torch.ops.survcore.ddim_sample(*moved), found)
    # The weights are rounded once, by the pack; what is left is the kernel's own error.
    wide = (*convert(arguments[:4], torch.float64), arguments[4], *convert(arguments[5:], torch.float64))
    assert_close_to_oracle(found, reference.ddim_sample(*wide), reference.ddim_sample(*arguments), found.dtype, way)


@compiled
@pytest.mark.parametrize("way", ["on the chip, as MUST", "a launch for each phase"])
def test_replays_in_a_graph(way: str) -> None:
    moved = convert(_arguments(*WAYS[way]), device="cuda")
    expected = torch.ops.survcore.ddim_sample(*moved)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = torch.ops.survcore.ddim_sample(*moved)
    for _ in range(3):
        found.fill_(7)
        graph.replay()
        assert torch.equal(found, expected)


@pytest.mark.parametrize("draws", [5, MOST_COMPILED_DRAWS + 44])
@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_sampler_draws_what_the_processor_draws(draws: int, precision: str) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(64, heads=4, layers=2).eval()
    schedule = NoiseSchedule()
    noise, condition, index = torch.randn(draws, 64), torch.randn(2, 3, 64), torch.arange(draws) % 2
    with torch.no_grad():
        expected = sample(denoiser, noise, condition, index, schedule=schedule, num_steps=20)
        denoiser.cuda()
        given = (noise.cuda(), condition.cuda(), index.cuda())
        for _ in range(3):  # the second call finds its tables made
            found = sample(denoiser, *given, schedule=schedule, num_steps=20, precision=precision).cpu()
            if precision == "full":
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
            else:
                assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999
