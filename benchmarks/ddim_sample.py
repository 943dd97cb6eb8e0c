"""ddim_sample against the same prefix denoiser in PyTorch: sweeps along each axis around one patient of five draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from survcore.benchmarks.case import Bar, BenchmarkCase, Inputs, OnCuda, Work, mapped
from survcore.ops import ddim_sample, pack_denoiser
from survcore.reference.ddim_sample import sampling_loop, sampling_step
from survcore.reference.pack_denoiser import unflatten_denoiser
from survcore.testing.ddim_sample import ddim_arguments

_HEADS = 8
_CONDITION_ROWS = 2
_DRAWS = 5  # of each patient
_BASE = {"rows": 5, "steps": 50, "layers": 4, "width": 256}
_SWEEPS = {"rows": (5, 20, 100, 500), "steps": (10, 20, 50), "layers": (2, 4, 6), "width": (128, 256, 512)}


def _inputs(dtype: torch.dtype, device: str, *, rows: int, steps: int, layers: int, width: int) -> Inputs:
    """Arguments of the reference, all in ``dtype``, and those of the op: packed weights, and the rest in float32.

    Both hold the same values, so that rounding the weights to ``dtype`` is no part of any error. The coefficients are
    float64, as :class:`survcore.diffusion.NoiseSchedule` makes them.
    """
    noise, condition, _, _, flat, modulation, _ = ddim_arguments(
        dtype,
        rows,
        patients=-(-rows // _DRAWS),
        tokens=_CONDITION_ROWS,
        width=width,
        heads=_HEADS,
        layers=layers,
        steps=steps,
        noisy=False,
    )
    weights = mapped(lambda tensor: tensor.to(dtype, copy=True), unflatten_denoiser(flat)[0])
    index = torch.arange(rows) // _DRAWS
    # DDIM for a denoiser that predicts the velocity turns x towards F (Salimans & Ho 2022); here by equal angles.
    angle = 0.5 * math.pi / steps
    coefficients = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0, 0.0, 0.0]] * steps, dtype=torch.float64)
    reference = (noise, condition, index, None, weights, modulation, coefficients)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    # Each device has its own pack.
    packed = pack_denoiser(mapped(lambda tensor: tensor.to(device), weights), heads=_HEADS, dtype=dtype)
    op = (noise.to(real), condition.to(real), index, packed, modulation.to(real), coefficients)
    return mapped(lambda tensor: tensor.to(device), (reference, op))


def _survcore(_: Inputs, op: Inputs) -> Tensor:
    return ddim_sample(*op)


def _eager(reference: Inputs, _: Inputs) -> Tensor:
    return sampling_loop(*reference, heads=_HEADS)


@cache
def _compiled_step() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(sampling_step, dynamic=False)


def _compiled(reference: Inputs, _: Inputs) -> Tensor:
    """One step compiled, in a loop in Python: to compile the whole loop takes minutes."""
    return sampling_loop(*reference, heads=_HEADS, step=_compiled_step())


def _joint(reference: Inputs, _: Inputs) -> Tensor:
    """Another function: condition rows see x, and run through every step with it."""
    return sampling_loop(*reference, heads=_HEADS, attention="joint")


def _one_draw_at_a_time(reference: Inputs, _: Inputs) -> Tensor:
    noise, condition, index, *rest = reference
    draws = [
        sampling_loop(noise[draw : draw + 1], condition, index[draw : draw + 1], *rest, heads=_HEADS)
        for draw in range(len(noise))
    ]
    return torch.cat(draws)


def _work(_passes: str, _: Inputs, op: Inputs) -> Work:
    """Products with the weights (attention's own are few), and one pass over the packed weights per step.

    A pass per step is the floor of any implementation that keeps no weights in registers; the op makes several where
    there are many draws.
    """
    noise, condition, _, packed, modulation, _ = op
    steps, layers, _, width = modulation.shape
    block = 12 * width**2
    in_steps = steps * noise.shape[0] * (layers * block + width**2)
    of_conditions = condition.shape[0] * condition.shape[1] * layers * block
    return Work(steps * packed.numel(), products=2.0 * (in_steps + of_conditions), held=packed.numel())


def _name(size: dict[str, int]) -> str:
    return "{rows} rows x {steps} steps x {layers} layers of {width}".format(**size)


_SIZES: list[dict[str, Any]] = [_BASE | {axis: value} for axis, values in _SWEEPS.items() for value in values]

CASE = BenchmarkCase(
    name="ddim_sample",
    sizes={_name(size): size for size in _SIZES},
    quick=(_name(_BASE), _name(_BASE | {"rows": 100})),
    inputs=_inputs,
    providers={"survcore": _survcore, "eager": _eager, "compiled": _compiled},
    context={"eager, joint": _joint, "eager, one draw at a time": _one_draw_at_a_time},
    oracles={"eager, joint": "eager, joint"},
    work=_work,
    latency=("survcore", "eager"),
    also=("bfloat16",),
    bars={_name(_BASE): 10.0, (_name(_BASE), "bfloat16"): 6.0},
    cuda=OnCuda(
        quick=(_name(_BASE | {"rows": 100}),),
        bars={_name(_BASE): Bar(milliseconds=2.0), (_name(_BASE), "bfloat16"): Bar(milliseconds=2.0)},
    ),
)
