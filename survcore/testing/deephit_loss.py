"""OpCase of deephit_loss."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.reference import deephit_loss as reference
from survcore.testing.op_case import Arguments, OpCase


def deephit_arguments(
    dtype: torch.dtype,
    rows: int,
    bins: int,
    causes: int = 0,
    *,
    weighted: bool = False,
    alpha: float = 0.2,
    sigma: float = 0.1,
    scale: float = 1.0,
) -> Arguments:
    """Random rows, logits [rows, bins], or [rows, causes, bins] if ``causes`` is not 0."""
    generator = torch.Generator().manual_seed(11)
    shape = (rows, causes, bins) if causes else (rows, bins)
    logits = (scale * torch.randn(shape, generator=generator)).to(dtype)
    time_bin = torch.randint(0, bins, (rows,), generator=generator)
    event = torch.randint(0, max(causes, 1) + 1, (rows,), generator=generator)
    weights = (torch.rand(rows, generator=generator) + 0.1 if weighted else torch.empty(0)).to(dtype)
    return logits, time_bin, event, weights, alpha, sigma, True


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    plain = deephit_arguments(dtype, 37, 5)
    logits, time_bin, event, *rest = plain
    samples = {
        "plain": plain,
        "weighted": deephit_arguments(dtype, 37, 5, weighted=True),
        "two_causes": deephit_arguments(dtype, 40, 4, 2, weighted=True),
        "one_cause": deephit_arguments(dtype, 20, 4, 1),
        "three_causes": deephit_arguments(dtype, 70, 6, 3),
        "bool_event": (logits, time_bin, event.bool(), *rest),
        "floating_event": (logits, time_bin, event.to(dtype), *rest),
        "int32_event": (logits, time_bin, event.int(), *rest),
        "likelihood_only": deephit_arguments(dtype, 37, 5, alpha=1.0),
        "ranking_only": deephit_arguments(dtype, 37, 5, 2, alpha=0.0),
        "all_events": (logits, time_bin, torch.ones_like(event), *rest),
        "no_events": (logits, time_bin, torch.zeros_like(event), *rest),
        "one_time": (logits, torch.full_like(time_bin, 2), event, *rest),
        "wide": deephit_arguments(dtype, 60, 9, 2, scale=30.0, weighted=True),
        "shallow": deephit_arguments(dtype, 60, 9, sigma=3.0),
        # About the smallest sigma for one shift, and below it for float32 and for float64, where what the exponent
        # magnifies is kept small.
        "steep": deephit_arguments(dtype, 60, 9, sigma=0.026, scale=0.3),
        "steeper": deephit_arguments(dtype, 60, 9, 2, sigma=0.01, scale=0.1, weighted=True),
        "steepest": deephit_arguments(dtype, 60, 5, sigma=0.001, scale=0.01),
        "steepest_likelihood": deephit_arguments(dtype, 20, 5, sigma=0.001, alpha=1.0),
    }
    # Around the sixteen rows of a tile, the 512 rows of a chunk, the 64 columns that are turned at once, and beyond
    # what is kept between the passes.
    for rows, bins in (
        (1, 1),
        (1, 4),
        (15, 3),
        (16, 4),
        (17, 8),
        (513, 20),
        (20, 63),
        (20, 64),
        (33, 131),
        (1500, 131),
    ):
        samples[f"{rows}x{bins}"] = deephit_arguments(dtype, rows, bins)
    samples["33x3x50"] = deephit_arguments(dtype, 33, 50, 3)
    return samples


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    infinity, nan = torch.inf, torch.nan
    none = torch.empty(0, dtype=dtype)
    alternating = torch.tensor([1, 0, 1, 0])
    ordinary = [[0.5, -1.0, 2.0], [1.0, 0.2, -0.3], [0.1, 0.7, 0.4], [-0.6, 0.0, 1.0]]

    def case(
        rows: list[list[float]],
        *,
        bins: tuple[int, ...] = (0, 1, 2, 2),
        events: Tensor = alternating,
        weights: Tensor = none,
        alpha: float = 0.2,
        sigma: float = 0.1,
    ) -> Arguments:
        return torch.tensor(rows, dtype=dtype), torch.tensor(bins), events, weights, alpha, sigma, True

    def weigh(*values: float) -> Tensor:
        return torch.tensor(values, dtype=dtype)

    censored = torch.zeros(4, dtype=torch.int64)
    unknown = weigh(1.0, nan, 0.0, nan)
    level = [[0.01 * logit for logit in row] for row in ordinary]
    certain = [[40.0, 0.0], [-40.0, 0.0], [0.0, 0.0]]
    there = torch.tensor([0, 1, 0])
    unread = [*ordinary[:3], [nan, 0.0, infinity]]
    far = [[200.0, -1.0, 2.0], [300.0, 250.0, 240.0], [90.0, 0.0, -30.0], [5.0, 200.0, 200.0]]
    return {
        "huge": case([[1e4, -1e4, 1e4]] * 4),
        "possible_outcomes_are_improbable": case(far),
        "possible_outcomes_are_improbable_steep": case(far, sigma=0.5 if dtype == torch.float64 else 0.02, alpha=0.9),
        "censored_where_little_is_left": case(far, events=censored),
        "certain": case([[infinity, 0.0, 1.0], [0.0, 1.0, infinity], [0.0, 1.0, infinity], [0.5, 0.2, 0.1]]),
        "certain_twice": case([[infinity, infinity, 1.0]] * 4, bins=(0, 0, 1, 0)),
        "impossible_event": case([[-infinity, 0.0, 1.0], *ordinary[1:]]),
        "certainly_not": case([[infinity, 0.0, 1.0]] * 4),
        "impossible": case([[-infinity] * 3] * 4, events=censored),
        "impossible_event_ranked_only": case([[-infinity, 0.0, 1.0], *ordinary[1:]], alpha=0.0),
        "certain_ranked_only": case([[infinity, 0.0, 1.0], *ordinary[1:]], alpha=0.0),
        "nan_logit": case([[nan, 0.0, 1.0], *ordinary[1:]]),
        "nan_logit_of_all": case([[nan, 0.0, 1.0]] * 4),
        "nan_logit_steep": case([*level[:3], [nan, 0.0, 0.01]], sigma=0.001),
        "nan_compared_without_weight": case([*ordinary[:3], [nan, 0.0, 1.0]], weights=weigh(1, 1, 2, 0)),
        "nan_event_without_weight": case([[nan, 0.0, 1.0], *ordinary[1:]], weights=weigh(0, 1, 2, 1)),
        # A ranking gradient of a probability of 1, far larger than the likelihood's, is not to take that one with it.
        "certain_and_censored_there": case(certain, bins=(0, 0, 1), events=there),
        "certain_and_censored_there_sharply": case(certain, bins=(0, 0, 1), events=there, sigma=0.025),
        # Rows without weight that are compared with no event.
        "unread_out_of_range": case(unread, bins=(0, 1, 2, -1), weights=weigh(1, 1, 1, 0)),
        "unread_event_in_the_first_bin": case(
            unread, bins=(0, 1, 2, 0), events=torch.ones(4), weights=weigh(1, 1, 1, 0)
        ),
        "unread_before_all_events": case(unread, bins=(1, 2, 2, 0), weights=weigh(1, 1, 1, 0)),
        "unread_likelihood_only": case(unread, weights=weigh(1, 1, 1, 0), alpha=1.0),
        "unread_steep": case(
            [*level[:3], [nan, 0.0, infinity]], bins=(0, 1, 2, -1), weights=weigh(1, 1, 1, 0), sigma=0.001
        ),
        "bin_out_of_range": case(ordinary, bins=(-1, 3, 2**40, 2**31 - 1)),
        "one_bin_out_of_range": case(ordinary, bins=(0, 1, 3, 2)),
        "one_bin_out_of_range_steep": case(level, bins=(2, 1, 3, 2), sigma=0.001),
        "bin_out_of_range_without_weight": case(ordinary, bins=(0, 1, 3, 2), weights=weigh(1, 1, 0, 2)),
        "cause_out_of_range": case(ordinary, events=torch.tensor([1, 0, 2, -1])),
        "nan_event": case(ordinary, events=unknown),
        "half_an_event": case(ordinary, events=weigh(1.0, 0.5, 0.0, 0.0)),
        "all_weights_zero": case(ordinary, weights=torch.zeros(4, dtype=dtype)),
        "all_weights_zero_steep": case(level, weights=torch.zeros(4, dtype=dtype), sigma=0.001),
        "empty": deephit_arguments(dtype, 0, 3),
        "empty_two_causes": deephit_arguments(dtype, 0, 3, 2),
    }


CASE = OpCase(
    name="deephit_loss",
    reference=reference.deephit_loss_over_pairs,
    reference_backward=reference.deephit_loss_backward,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: deephit_arguments(dtype, 100_000, 5),
    differentiable=(0,),
    differentiable_outputs=(0,),
)
