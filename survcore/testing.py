"""One :class:`OpCase` per compiled op: sample and extreme inputs, its reference, and the tolerances of all ops.

The generic op tests and the benchmarks read these cases, so an op that is described here is tested like every other.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from survcore.reference import cox_baseline_hazard as _cox_baseline
from survcore.reference import cox_ph_loss as _cox
from survcore.reference import ddim_sample as _ddim
from survcore.reference import discrete_hazard_nll as _hazard
from survcore.reference import low_rank_decompose as _low_rank
from survcore.reference.cox_risk_sets import CoxPlan, cox_risk_sets
from survcore.reference.pack_denoiser import BlockWeights, DenoiserWeights, flatten_denoiser, weight_shapes

# Error allowed to a kernel in a dtype: twice the error of the reference in that dtype plus this floor, both against the
# reference in float64 and relative to its largest absolute value.
FLOORS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

Arguments = tuple[Any, ...]
Make = Callable[[torch.dtype], dict[str, Arguments]]


@dataclass(frozen=True)
class OpCase:
    """How to test one op.

    Attributes:
        name: the op's name, without namespace.
        reference: its plain PyTorch definition, with the op's schema.
        reference_backward: likewise for the backward op; None for an op without gradient.
        samples: dtype -> named ordinary arguments, on the CPU, finite and away from kinks.
        extremes: dtype -> named arguments at the edges of the contract: empty, infinite, out of range, absent.
        large: dtype -> arguments large enough that several threads share them.
        differentiable: positions of the arguments that have a gradient.
        differentiable_outputs: positions of the outputs that have one.
    """

    name: str
    reference: Callable[..., Any]
    reference_backward: Callable[..., Any] | None
    samples: Make
    extremes: Make
    large: Callable[[torch.dtype], Arguments]
    differentiable: tuple[int, ...]
    differentiable_outputs: tuple[int, ...]

    @property
    def op(self) -> Any:
        """``torch.ops.survcore.<name>``, default overload."""
        importlib.import_module("survcore.ops")
        return getattr(torch.ops.survcore, self.name).default

    @property
    def function(self) -> Callable[..., Any]:
        """The op with its gradient, if it has one, as the public function calls it."""
        return importlib.import_module(f"survcore.ops.{self.name}").__dict__.get("_apply", self.op)


def tolerance(oracle: Tensor, reference: Tensor, dtype: torch.dtype) -> float:
    """Absolute error allowed to a kernel, given float64 oracle and the reference computed in ``dtype``."""
    finite = oracle.isfinite() & reference.isfinite()
    if not finite.any():
        return 0.0
    error = (reference.double() - oracle)[finite].abs().max().item()
    return 2.0 * error + FLOORS[dtype] * oracle[finite].abs().max().item()


def assert_close_to_oracle(actual: Tensor, oracle: Tensor, reference: Tensor, dtype: torch.dtype, what: str) -> None:
    """Raise AssertionError unless ``actual`` is as good as plain code in ``dtype``, NaN and infinities included."""
    actual, oracle, reference = (tensor.detach().cpu() for tensor in (actual, oracle, reference))
    assert actual.shape == oracle.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    assert torch.equal(actual.isnan(), oracle.isnan()), f"{what}: NaN in other places than the reference"
    # Where the narrower dtype overflows, the reference in that dtype says so.
    infinite = reference.isinf()
    assert torch.equal(actual.double()[infinite], reference.double()[infinite]), f"{what}: infinities differ"
    finite = oracle.isfinite() & ~infinite
    error = (actual.double() - oracle)[finite].abs().max().item() if finite.any() else 0.0
    allowed = tolerance(oracle, reference, dtype)
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g} in {dtype}"


def convert(arguments: Arguments, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Arguments:
    """The arguments with their floating tensors in ``dtype`` and all tensors on ``device``."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype) if dtype is not None and value.is_floating_point() else value.to(device)

    return tuple(one(value) for value in arguments)


def hazard_arguments(dtype: torch.dtype, rows: int, bins: int) -> Arguments:
    """Random rows, unweighted, mean of the likelihood."""
    generator = torch.Generator().manual_seed(7)
    logits = (2.0 * torch.randn(rows, bins, generator=generator)).to(dtype)
    time_bin = torch.randint(0, bins, (rows,), generator=generator)
    event = torch.randint(0, 2, (rows,), generator=generator)
    return logits, time_bin, event, torch.empty(0, dtype=dtype), "end", "likelihood", 0.0, "mean"


def _hazard_samples(dtype: torch.dtype) -> dict[str, Arguments]:
    logits, time_bin, event, none, *_ = hazard_arguments(dtype, 37, 5)
    weights = torch.linspace(0.1, 2.0, 37).to(dtype)
    likelihood = ("end", "likelihood", 0.0)
    samples: dict[str, Arguments] = {
        "plain": (logits, time_bin, event, none, *likelihood, "mean"),
        "weighted": (logits, time_bin, event, weights, *likelihood, "mean"),
        "sum": (logits, time_bin, event, weights, *likelihood, "sum"),
        "per_row": (logits, time_bin, event, weights, *likelihood, "none"),
        "bool_event": (logits, time_bin, event.bool(), none, *likelihood, "mean"),
        "floating_event": (logits, time_bin, event.to(dtype), none, *likelihood, "mean"),
        "int32_event": (logits, time_bin, event.int(), none, *likelihood, "mean"),
        "censored_at_start": (logits, time_bin, event, weights, "start", "likelihood", 0.0, "mean"),
        "must_eq6": (logits, time_bin, event, weights, "end", "must_eq6", 0.0, "mean"),
        "alpha": (logits, time_bin, event, weights, "end", "likelihood", 0.3, "mean"),
        "all_events": (logits, time_bin, torch.ones_like(event), none, *likelihood, "mean"),
        "no_events": (logits, time_bin, torch.zeros_like(event), none, *likelihood, "mean"),
    }
    # Around the sixteen rows of a tile, the 512 rows of a chunk and the 64 bins that are held at once.
    for count, bins in ((1, 1), (1, 4), (15, 3), (16, 4), (17, 8), (513, 20), (20, 63), (20, 64), (33, 131)):
        samples[f"{count}x{bins}"] = hazard_arguments(dtype, count, bins)
    return samples


def _hazard_extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    infinity, nan = torch.inf, torch.nan
    time_bin = torch.tensor([0, 1, 2, 2])
    event = torch.tensor([1, 0, 1, 0])
    options = ("end", "likelihood", 0.0, "none")
    none = torch.empty(0, dtype=dtype)

    def case(
        rows: list[list[float]], *, bins: Tensor = time_bin, events: Tensor = event, weights: Tensor = none
    ) -> Arguments:
        return (torch.tensor(rows, dtype=dtype), bins, events, weights, *options)

    ordinary = [[0.5, -1.0, 2.0]] * 4
    empty = (torch.empty(0, 3, dtype=dtype), time_bin[:0], event[:0], none)
    return {
        "huge": case([[1e4, -1e4, 1e4]] * 4),
        "hazard_one": case([[infinity] * 3] * 4),
        "hazard_zero": case([[-infinity] * 3] * 4),
        "nan_logit": case([[nan, 0.0, 1.0]] * 4),
        "nan_after_own_bin": case([[0.5, nan, nan], [0.5, 1.0, nan], [0.5, 1.0, -2.0], [0.0, 0.0, 0.0]]),
        "bin_out_of_range": case(ordinary, bins=torch.tensor([-1, 3, 2**40, 2**31 - 1])),
        "nan_event": case(ordinary, events=torch.tensor([1.0, nan, 0.0, nan], dtype=dtype)),
        "zero_weight_hides_row": case(
            [[nan] * 3, [0.5, -1.0, 2.0], [infinity] * 3, [0.0] * 3],
            bins=torch.tensor([0, 1, -5, 2]),
            weights=torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=dtype),
        ),
        "all_weights_zero": (*case(ordinary, weights=torch.zeros(4, dtype=dtype))[:-1], "mean"),
        "alpha_one_leaves_events": (*case(ordinary)[:-2], 1.0, "mean"),
        "empty_mean": (*empty, *options[:-1], "mean"),
        "empty_rows": (*empty, *options),
    }


def cox_arguments(
    dtype: torch.dtype,
    rows: int,
    *,
    times: int = 0,
    strata: int = 0,
    entry: bool = False,
    weighted: bool = False,
    in_order: bool = False,
    event_rate: float = 0.5,
    scale: float = 1.0,
    ties: str = "efron",
    reduction: str = "mean",
) -> Arguments:
    """Random rows at ``times`` distinct times (0: all differ), in time order or not, in ``strata`` strata (0: one)."""
    generator = torch.Generator().manual_seed(19)
    log_hazard = scale * torch.randn(rows, generator=generator)
    time = (
        torch.randint(1, times + 1, (rows,), generator=generator)
        if times
        else 1 + torch.randperm(rows, generator=generator)
    )
    event = (torch.rand(rows, generator=generator) < event_rate).long()
    if in_order:  # falling, at one time events last
        order = torch.argsort(2 * time - event, descending=True, stable=True)
        time, event = time[order], event[order]
    none = torch.empty(0, dtype=torch.int64)
    entered = time * torch.rand(rows, generator=generator) - 0.5 if entry else torch.empty(0)
    stratum = torch.randint(0, strata, (rows,), generator=generator) if strata else none
    weights = torch.rand(rows, generator=generator) + 0.1 if weighted else torch.empty(0)
    plan = cox_risk_sets(time.double(), event, entered.double(), stratum)
    return log_hazard.to(dtype), _as_a_whole(plan), weights.to(dtype), ties, reduction, True


def _as_a_whole(plan: Tensor) -> Tensor:
    """[1, length]: tests that repeat the first row of an argument leave it what it is, which no part of it is."""
    return plan.unsqueeze(0)


def _cox_samples(dtype: torch.dtype) -> dict[str, Arguments]:
    samples = {
        "plain": cox_arguments(dtype, 37),
        "tied": cox_arguments(dtype, 40, times=5),
        "breslow": cox_arguments(dtype, 40, times=5, ties="breslow"),
        "everything": cox_arguments(dtype, 60, times=9, strata=3, entry=True, weighted=True, reduction="sum"),
        "weighted": cox_arguments(dtype, 40, times=8, weighted=True),
        "in_order": cox_arguments(dtype, 40, times=8, in_order=True),
        "strata": cox_arguments(dtype, 50, times=6, strata=4),
        "entry": cox_arguments(dtype, 50, times=12, entry=True),
        "entry_and_strata": cox_arguments(dtype, 50, strata=2, entry=True, ties="breslow"),
        "all_events": cox_arguments(dtype, 30, times=4, event_rate=1.0),
        "one_time": cox_arguments(dtype, 30, times=1),
        "no_events": cox_arguments(dtype, 30, event_rate=0.0),
        "one_event": cox_arguments(dtype, 1, event_rate=1.0),
        "one_censored": cox_arguments(dtype, 1, event_rate=0.0),
        # Exponents beyond what float32, and what float64, hold as plain sums.
        "wide": cox_arguments(dtype, 50, times=20, scale=30.0),
        "wide_weighted": cox_arguments(dtype, 50, times=20, scale=30.0, weighted=True),
        "wide_entry": cox_arguments(dtype, 50, times=20, scale=30.0, entry=True),
        "huge": cox_arguments(dtype, 50, times=20, scale=3000.0),
        "huge_entry": cox_arguments(dtype, 50, times=20, scale=3000.0, strata=2, entry=True, weighted=True),
    }
    # Around the 512 rows of four sums beside each other and the 8192 rows of a chunk.
    for rows in (511, 512, 513, 8191, 8192, 8193):
        samples[f"{rows}_rows"] = cox_arguments(dtype, rows, times=70, in_order=rows % 2 == 0)
    samples["chunks_and_strata"] = cox_arguments(dtype, 20_000, times=20, strata=5)
    samples["a_time_of_several_chunks"] = cox_arguments(dtype, 30_000, times=3, weighted=True)
    return samples


def _cox_extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    infinity = torch.inf
    log_hazard, _, _, *options = cox_arguments(dtype, 6, event_rate=1.0)
    none = torch.empty(0, dtype=dtype)

    def case(*values: float, weights: Tensor = none, late: bool = False) -> Arguments:
        sets = cox_arguments(dtype, 6, event_rate=1.0, entry=late)[1]
        return torch.tensor(values, dtype=dtype), sets, weights, *options

    ordinary = log_hazard.tolist()
    partly, sets, *rest = cox_arguments(dtype, 6)
    plan = CoxPlan.read(sets)
    zero = partly.index_fill(0, plan.order[~plan.event], -infinity)
    return {
        "no_rows": cox_arguments(dtype, 0),
        "no_rows_sum": cox_arguments(dtype, 0, reduction="sum"),
        "ten_thousand": case(1e4, -1e4, 1e4, -1e4, 0.0, 1e4),
        "ten_thousand_and_entry": case(1e4, -1e4, 1e4, -1e4, 0.0, 1e4, late=True),
        "nan": case(0.5, torch.nan, 1.0, 0.0, -1.0, 2.0),
        "all_nan": case(*[torch.nan] * 6),
        "hazard_zero": (zero, sets, *rest),
        "event_of_hazard_zero": case(0.5, -infinity, 1.0, 0.0, -1.0, 2.0),
        "all_hazards_zero": case(*[-infinity] * 6),
        "hazard_infinite": case(0.5, infinity, 1.0, 0.0, -1.0, 2.0),
        "some_weights_zero": case(*ordinary, weights=torch.tensor([0.0, 1.0, 2.0, 0.0, 0.5, 0.0], dtype=dtype)),
        "largest_hazard_has_no_weight": case(
            0.0, 1e4, 1.0, 2.0, 9e3, -3.0, weights=torch.tensor([1.0, 0, 1, 2, 0, 1]).to(dtype)
        ),
        "all_weights_zero": case(*ordinary, weights=torch.zeros(6, dtype=dtype)),
        "all_weights_zero_and_entry": case(*ordinary, weights=torch.zeros(6, dtype=dtype), late=True),
    }


def _baseline_arguments(arguments: Arguments) -> Arguments:
    """Those of a loss without reduction and gradient."""
    return arguments[:4]


def _baseline_samples(dtype: torch.dtype) -> dict[str, Arguments]:
    # The reference holds a table of groups and events.
    samples = {name: case for name, case in _cox_samples(dtype).items() if len(case[0]) < 1000}
    return {name: _baseline_arguments(case) for name, case in samples.items()}


def _baseline_extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    return {name: _baseline_arguments(case) for name, case in _cox_extremes(dtype).items()}


def low_rank_arguments(
    dtype: torch.dtype, modalities: int, rows: int, width: int, rank: int, missing: float
) -> Arguments:
    """A free basis: with an orthonormal one, cosines of u_hat and c_hat are 0 up to rounding, the kink of |cos|."""
    generator = torch.Generator().manual_seed(11)
    basis = torch.randn(width, rank, generator=generator) / width**0.5
    whole, specific = torch.randn(2, modalities, rows, width, generator=generator)
    cross = torch.randn(modalities, modalities, rows, width, generator=generator)
    availability = torch.rand(rows, modalities, generator=generator) >= missing
    return convert((basis, whole, specific, cross, availability), dtype)


def _low_rank_samples(dtype: torch.dtype) -> dict[str, Arguments]:
    return {
        "two_modalities": low_rank_arguments(dtype, 2, 9, 16, 4, 0.0),
        "missing": low_rank_arguments(dtype, 3, 11, 16, 4, 0.4),
        "few_rows": low_rank_arguments(dtype, 2, 5, 12, 3, 0.3),
        "odd_sizes": low_rank_arguments(dtype, 4, 7, 19, 5, 0.5),
        "rank_one": low_rank_arguments(dtype, 2, 1, 3, 1, 0.0),
        "one_modality": low_rank_arguments(dtype, 1, 6, 8, 2, 0.2),
        "wide": low_rank_arguments(dtype, 2, 70, 256, 64, 0.2),
    }


def _low_rank_extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    basis, whole, specific, cross, availability = low_rank_arguments(dtype, 3, 6, 8, 2, 0.5)
    absent = ~availability.T
    pair_absent = absent.unsqueeze(1) | absent.unsqueeze(0) | torch.eye(3, dtype=torch.bool).unsqueeze(-1)
    hidden = (
        basis,
        whole.masked_fill(absent.unsqueeze(-1), torch.nan),
        specific.masked_fill(absent.unsqueeze(-1), torch.nan),
        cross.masked_fill(pair_absent.unsqueeze(-1), torch.nan),
        availability,
    )
    everybody = torch.ones_like(availability)
    nan_row = whole.clone()
    nan_row[0, 0, 0] = torch.nan
    return {
        "absent_values_are_nan": hidden,
        "nobody_has_anything": (basis, whole, specific, cross, torch.zeros_like(availability)),
        "nobody_has_two": (basis, whole, specific, cross, torch.eye(3, dtype=torch.bool).repeat(2, 1)),
        "nan_in_a_read_value": (basis, nan_row, specific, cross, everybody),
        "no_rows": (basis, whole[:, :0], specific[:, :0], cross[:, :, :0], availability[:0]),
    }


def denoiser_weights(dtype: torch.dtype, layers: int, width: int) -> DenoiserWeights:
    """Random weights of a size at which every part of the denoiser matters to its output."""
    generator = torch.Generator().manual_seed(13)
    tensors = [
        (torch.randn(shape, generator=generator) / shape[-1] ** 0.5 + (0.5 if len(shape) == 1 else 0.0)).to(dtype)
        for shape in weight_shapes(layers, width)
    ]
    size = len(BlockWeights._fields)
    blocks = tuple(BlockWeights(*tensors[size * layer : size * (layer + 1)]) for layer in range(layers))
    return DenoiserWeights(blocks, *tensors[size * layers :])


def ddim_arguments(
    dtype: torch.dtype,
    draws: int,
    *,
    patients: int = 2,
    tokens: int = 2,
    width: int = 16,
    heads: int = 4,
    layers: int = 2,
    steps: int = 3,
    noisy: bool = True,
) -> Arguments:
    """Random draws, and coefficients that use every term of a step; the weights in their flat form."""
    generator = torch.Generator().manual_seed(17)
    weights = denoiser_weights(torch.float64 if dtype == torch.float64 else torch.float32, layers, width)
    noise = torch.randn(draws, width, generator=generator)
    condition = torch.randn(patients, tokens, width, generator=generator)
    index = torch.randint(0, max(patients, 1), (draws,), generator=generator)
    step_noise = torch.randn(steps, draws, width, generator=generator) if noisy else torch.empty(0)
    modulation = 0.5 * torch.randn(steps, layers, 6, width, generator=generator)
    coefficients = torch.tensor([0.9, 0.3, 0.2, 0.1, -0.1]) + 0.05 * torch.randn(steps, 5, generator=generator)
    return convert(
        (noise, condition, index, step_noise, flatten_denoiser(weights, heads), modulation, coefficients), dtype
    )


def _ddim_samples(dtype: torch.dtype) -> dict[str, Arguments]:
    samples = {
        "plain": ddim_arguments(dtype, 5, noisy=False),
        "step_noise": ddim_arguments(dtype, 5),
        "one_draw": ddim_arguments(dtype, 1, patients=1, steps=1),
        "odd_heads": ddim_arguments(dtype, 3, width=15, heads=3),
        "one_head": ddim_arguments(dtype, 4, width=7, heads=1, layers=1),
        "no_condition_rows": ddim_arguments(dtype, 3, tokens=0),
        "many_condition_rows": ddim_arguments(dtype, 6, patients=3, tokens=5),
        "wide": ddim_arguments(dtype, 7, width=96, heads=2),
    }
    # Around the six and twelve rows of a product, the 16 and 32 of tiles, and the 32 draws of a block.
    for draws in (6, 7, 12, 13, 16, 17, 32, 33, 40, 70):
        samples[f"{draws}_draws"] = ddim_arguments(dtype, draws, patients=9, width=24, heads=2, steps=2)
    return samples


def _ddim_extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    noise, condition, index, step_noise, *rest = ddim_arguments(dtype, 6, patients=3)
    index = torch.tensor([0, 1, 2, 2, 1, 0])
    nan_condition, nan_noise, infinite = condition.clone(), noise.clone(), noise.clone()
    nan_condition[1, 0, 3] = torch.nan
    nan_noise[2, 0] = torch.nan
    infinite[4, 1] = torch.inf
    return {
        "no_draws": (noise[:0], condition, index[:0], step_noise[:, :0], *rest),
        "no_steps": (noise, condition, index, step_noise[:0], rest[0], rest[1][:0], rest[2][:0]),
        "no_patients": (noise, condition[:0], index, step_noise, *rest),
        "index_out_of_range": (noise, condition, torch.tensor([0, -1, 2, 3, 2**40, 1]), step_noise, *rest),
        "nan_condition": (noise, nan_condition, index, step_noise, *rest),
        "nan_noise": (nan_noise, condition, index, step_noise, *rest),
        "infinite_noise": (infinite, condition, index, step_noise, *rest),
    }


OP_CASES = {
    case.name: case
    for case in (
        OpCase(
            name="cox_baseline_hazard",
            reference=_cox_baseline.cox_baseline_hazard,
            reference_backward=None,
            samples=_baseline_samples,
            extremes=_baseline_extremes,
            large=lambda dtype: _baseline_arguments(cox_arguments(dtype, 3_000, times=700)),
            differentiable=(),
            differentiable_outputs=(),
        ),
        OpCase(
            name="cox_ph_loss",
            reference=_cox.cox_ph_loss,
            reference_backward=_cox.cox_ph_loss_backward,
            samples=_cox_samples,
            extremes=_cox_extremes,
            large=lambda dtype: cox_arguments(dtype, 300_000, times=100_000),
            differentiable=(0,),
            differentiable_outputs=(0,),
        ),
        OpCase(
            name="ddim_sample",
            reference=_ddim.ddim_sample,
            reference_backward=None,
            samples=_ddim_samples,
            extremes=_ddim_extremes,
            large=lambda dtype: ddim_arguments(dtype, 100, patients=20, width=64, steps=10),
            differentiable=(),
            differentiable_outputs=(),
        ),
        OpCase(
            name="discrete_hazard_nll",
            reference=_hazard.discrete_hazard_nll,
            reference_backward=_hazard.discrete_hazard_nll_backward,
            samples=_hazard_samples,
            extremes=_hazard_extremes,
            large=lambda dtype: hazard_arguments(dtype, 100_000, 5),
            differentiable=(0,),
            differentiable_outputs=(0,),
        ),
        OpCase(
            name="low_rank_decompose",
            reference=_low_rank.low_rank_decompose,
            reference_backward=_low_rank.low_rank_decompose_backward,
            samples=_low_rank_samples,
            extremes=_low_rank_extremes,
            large=lambda dtype: low_rank_arguments(dtype, 3, 5_000, 32, 8, 0.3),
            differentiable=(0, 1, 2, 3),
            differentiable_outputs=(0, 1, 2),
        ),
    )
}
