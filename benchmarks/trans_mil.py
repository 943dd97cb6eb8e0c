"""TransMIL over one slide, from stored patch features to the class output, against plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.benchmarks.case import BenchmarkCase, Inputs, OnCuda, Work, leaf
from survcore.nn import PatchProjection, TransMIL
from survcore.reference.trans_mil import trans_mil

FEATURES, WIDTH, HEADS, LANDMARKS = 1536, 256, 8, 128


def _module() -> nn.Sequential:
    return nn.Sequential(PatchProjection(FEATURES, WIDTH), TransMIL(WIDTH, HEADS, LANDMARKS))


with torch.device("meta"):
    NAMES = [name for name, _ in _module().named_parameters()]


def _inputs(dtype: torch.dtype, device: str, *, patches: int, training: int = 0) -> Inputs:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = [parameter.detach().to(device, dtype) for parameter in _module().parameters()]
        features = torch.randn(patches, FEATURES).to(device, torch.float16)
    return features, *(leaf(weight, dtype, device) if training else weight for weight in weights)


def _survcore(features: Tensor, *weights: Tensor) -> Tensor:
    with torch.device("meta"):
        projection, attention = _module()
    patches = torch.func.functional_call(projection, _of("0.", weights), (features,))
    return _result(torch.func.functional_call(attention, _of("1.", weights), (patches,))[0])


def _eager(features: Tensor, *weights: Tensor) -> Tensor:
    projection = _of("0.projection.", weights)
    tokens = functional.relu(functional.linear(features.to(weights[0].dtype), *projection.values()))
    return _result(trans_mil(tokens, _of("1.", weights), heads=HEADS, landmarks=LANDMARKS)[0].unsqueeze(0))


def _of(part: str, weights: tuple[Tensor, ...]) -> dict[str, Tensor]:
    named = zip(NAMES, weights, strict=True)
    return {name.removeprefix(part): weight for name, weight in named if name.startswith(part)}


def _result(output: Tensor) -> Tensor:
    """The class output [1, D], or a loss of it where weights collect a gradient.

    The output is standardised, so its sum and its square say nothing.
    """
    return (output * torch.linspace(-1, 1, WIDTH).to(output)).sum() if output.requires_grad else output


def _work(passes: str, features: Tensor, *weights: Tensor) -> Work:
    """Products of the projection, of a whole layer, of the convolutions, and of the keys and values of the last layer.

    A backward pass is twice the work of its forward pass.
    """
    projection, attention = FEATURES * WIDTH, LANDMARKS * WIDTH
    first = 4 * WIDTH**2 + 4 * attention + (33 + 49) * WIDTH
    second = 2 * WIDTH**2 + 2 * attention
    forward = 2.0 * features.shape[0] * (projection + first + second)
    if passes == "forward":
        return Work(features.nbytes, products=forward)
    return Work(features.nbytes, products=3 * forward - 2.0 * features.shape[0] * projection)  # features need none


CASE = BenchmarkCase(
    name="trans_mil",
    sizes={
        "1,000 patches": {"patches": 1_000},
        "10,000 patches": {"patches": 10_000},
        "50,000 patches": {"patches": 50_000},
        "10,000 patches, training": {"patches": 10_000, "training": 1},
    },
    quick=("1,000 patches",),
    inputs=_inputs,
    providers={"survcore": _survcore, "eager": _eager},
    work=_work,
    cuda=OnCuda(quick=("10,000 patches",)),
)
