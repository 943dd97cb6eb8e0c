"""OpCase of discrete_hazard_nll."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.reference import discrete_hazard_nll as reference
from survcore.testing.op_case import Arguments, OpCase


def hazard_arguments(dtype: torch.dtype, rows: int, bins: int) -> Arguments:
    """Random rows, unweighted, mean of the likelihood, with its gradient."""
    generator = torch.Generator().manual_seed(7)
    logits = (2.0 * torch.randn(rows, bins, generator=generator)).to(dtype)
    time_bin = torch.randint(0, bins, (rows,), generator=generator)
    event = torch.randint(0, 2, (rows,), generator=generator)
    return logits, time_bin, event, torch.empty(0, dtype=dtype), "end", "likelihood", 0.0, "mean", True


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    logits, time_bin, event, none, *_ = hazard_arguments(dtype, 37, 5)
    weights = torch.linspace(0.1, 2.0, 37).to(dtype)
    likelihood = ("end", "likelihood", 0.0)
    samples: dict[str, Arguments] = {
        "plain": (logits, time_bin, event, none, *likelihood, "mean", True),
        "weighted": (logits, time_bin, event, weights, *likelihood, "mean", True),
        "sum": (logits, time_bin, event, weights, *likelihood, "sum", True),
        "per_row": (logits, time_bin, event, weights, *likelihood, "none", True),
        "bool_event": (logits, time_bin, event.bool(), none, *likelihood, "mean", True),
        "floating_event": (logits, time_bin, event.to(dtype), none, *likelihood, "mean", True),
        "int32_event": (logits, time_bin, event.int(), none, *likelihood, "mean", True),
        "censored_at_start": (logits, time_bin, event, weights, "start", "likelihood", 0.0, "mean", True),
        "must_eq6": (logits, time_bin, event, weights, "end", "must_eq6", 0.0, "mean", True),
        "alpha": (logits, time_bin, event, weights, "end", "likelihood", 0.3, "mean", True),
        "all_events": (logits, time_bin, torch.ones_like(event), none, *likelihood, "mean", True),
        "no_events": (logits, time_bin, torch.zeros_like(event), none, *likelihood, "mean", True),
        "uniform_sum": (logits, time_bin, event, none, *likelihood, "sum", True),
        "uniform_at_start": (logits, time_bin, event, none, "start", "likelihood", 0.0, "mean", True),
        "uniform_per_row": (logits, time_bin, event, none, *likelihood, "none", True),
        "without_gradient": (logits, time_bin, event, none, *likelihood, "mean", False),
        "weighted_without_gradient": (logits, time_bin, event, weights, *likelihood, "mean", False),
    }
    # Around the sixteen rows of a tile, the 512 rows of a chunk and the 64 bins that are held at once.
    for count, bins in ((1, 1), (1, 4), (15, 3), (16, 4), (17, 8), (513, 20), (20, 63), (20, 64), (33, 131)):
        samples[f"{count}x{bins}"] = hazard_arguments(dtype, count, bins)
    return samples


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    infinity, nan = torch.inf, torch.nan
    time_bin = torch.tensor([0, 1, 2, 2])
    event = torch.tensor([1, 0, 1, 0])
    likelihood = ("end", "likelihood", 0.0)
    none = torch.empty(0, dtype=dtype)

    def case(
        rows: list[list[float]],
        *,
        bins: Tensor = time_bin,
        events: Tensor = event,
        weights: Tensor = none,
        alpha: float = 0.0,
        reduction: str = "none",
    ) -> Arguments:
        logits = torch.tensor(rows, dtype=dtype)
        return logits, bins, events, weights, "end", "likelihood", alpha, reduction, True

    ordinary = [[0.5, -1.0, 2.0]] * 4
    read_by_none = [[0.5, nan, nan], [0.5, 1.0, nan], [0.5, 1.0, -2.0], [0.0, 0.0, 0.0]]
    empty = (torch.empty(0, 3, dtype=dtype), time_bin[:0], event[:0], none, *likelihood)
    extremes: dict[str, Arguments] = {}
    for reduction in ("none", "sum"):
        extremes |= {
            f"huge_{reduction}": case([[1e4, -1e4, 1e4]] * 4, reduction=reduction),
            f"hazard_one_{reduction}": case([[infinity] * 3] * 4, reduction=reduction),
            f"hazard_zero_{reduction}": case([[-infinity] * 3] * 4, reduction=reduction),
            f"nan_logit_{reduction}": case([[nan, 0.0, 1.0]] * 4, reduction=reduction),
            f"nan_after_own_bin_{reduction}": case(read_by_none, reduction=reduction),
            f"bin_out_of_range_{reduction}": case(
                ordinary, bins=torch.tensor([-1, 3, 2**40, 2**31 - 1]), reduction=reduction
            ),
            f"one_bin_out_of_range_{reduction}": case(ordinary, bins=torch.tensor([0, 1, 7, 2]), reduction=reduction),
            f"nan_event_{reduction}": case(
                ordinary, events=torch.tensor([1.0, nan, 0.0, nan], dtype=dtype), reduction=reduction
            ),
            f"empty_{reduction}": (*empty, reduction, True),
        }
    return extremes | {
        "tiny_hazards_keep_their_digits": case([[-30.0, -40.0, -50.0]] * 4, events=0 * event, reduction="mean"),
        "zero_weight_hides_row": case(
            [[nan] * 3, [0.5, -1.0, 2.0], [infinity] * 3, [0.0] * 3],
            bins=torch.tensor([0, 1, -5, 2]),
            weights=torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=dtype),
        ),
        "all_weights_zero": case(ordinary, weights=torch.zeros(4, dtype=dtype), reduction="mean"),
        "alpha_one_leaves_events": case(ordinary, alpha=1.0),
        "empty_mean": (*empty, "mean", True),
    }


CASE = OpCase(
    name="discrete_hazard_nll",
    reference=reference.discrete_hazard_nll,
    reference_backward=reference.discrete_hazard_nll_backward,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: hazard_arguments(dtype, 100_000, 5),
    differentiable=(0,),
    differentiable_outputs=(0,),
)
