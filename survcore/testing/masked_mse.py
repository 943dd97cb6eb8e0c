"""OpCase of masked_mse."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.reference import masked_mse as reference
from survcore.testing.op_case import Arguments, OpCase


def patch_arguments(
    dtype: torch.dtype, rows: int, patches: int, length: int, *, observed: bool = False, positions: str = "masked"
) -> Arguments:
    """Random patches, half of them masked."""
    generator = torch.Generator().manual_seed(29)
    shape = (rows, patches, length)
    prediction, target = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    mask = torch.rand(rows, patches, generator=generator) < 0.5
    seen = torch.rand(rows, patches, generator=generator) < 0.8 if observed else torch.empty(0, dtype=torch.bool)
    return prediction, target, mask, seen, positions, True


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    plain = patch_arguments(dtype, 5, 6, 12)
    samples = {
        "plain": plain,
        "observed": patch_arguments(dtype, 5, 6, 12, observed=True),
        "visible": patch_arguments(dtype, 5, 6, 12, positions="visible"),
        "visible_observed": patch_arguments(dtype, 5, 6, 12, observed=True, positions="visible"),
        "all": patch_arguments(dtype, 5, 6, 12, positions="all"),
        "all_without_mask": (*plain[:2], torch.empty(0, dtype=torch.bool), *plain[3:4], "all", True),
        "bytes": (*plain[:2], plain[2].to(torch.uint8) * 5, *plain[3:]),
        # Patches 0 and 3 of the first row, none of the second and so on.
        "bits": (*plain[:2], torch.tensor([[9], [0], [63], [32], [1]], dtype=torch.uint8), *plain[3:]),
    }
    for length in (1, 3, 15, 16, 17, 100, 513):
        samples[f"length_{length}"] = patch_arguments(dtype, 4, 5, length)
    return samples


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    infinity, nan = torch.inf, torch.nan
    prediction, target, _, none, *rest = patch_arguments(dtype, 2, 3, 4)
    some = torch.tensor([[True, False, True], [False, True, False]])

    def case(value: float, mask: Tensor, *, of_target: bool = False, observed: Tensor = none) -> Arguments:
        changed, other = (target.clone(), prediction) if of_target else (prediction.clone(), target)
        changed[0, 1], changed[1, 2] = value, value
        return *((other, changed) if of_target else (changed, other)), mask, observed, *rest

    return {
        "nan_behind_the_mask": case(nan, some),
        "nan_target_behind_the_mask": case(nan, some, of_target=True),
        "infinite_behind_the_mask": case(infinity, some),
        "nan": case(nan, ~some),
        "nan_target_of_no_patch": case(nan, torch.ones_like(some), of_target=True, observed=some),
        "infinite": case(infinity, ~some),
        "nothing_masked": case(nan, torch.zeros_like(some)),
        "nothing_observed": case(nan, torch.ones_like(some), observed=torch.zeros_like(some)),
        "one_patch": (prediction[:1, :1], target[:1, :1], torch.ones(1, 1, dtype=torch.bool), none, *rest),
        "no_rows": patch_arguments(dtype, 0, 3, 4),
        "no_patches": patch_arguments(dtype, 3, 0, 4),
        "no_values": patch_arguments(dtype, 3, 2, 0),
    }


CASE = OpCase(
    name="masked_mse",
    reference=reference.masked_mse,
    reference_backward=reference.masked_mse_backward,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: patch_arguments(dtype, 60, 32, 512),
    differentiable=(0,),
    differentiable_outputs=(0,),
)
