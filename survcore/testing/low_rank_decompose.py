"""OpCase of low_rank_decompose."""

from __future__ import annotations

import torch

from survcore.reference import low_rank_decompose as reference
from survcore.testing.op_case import Arguments, OpCase, convert


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


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    return {
        "two_modalities": low_rank_arguments(dtype, 2, 9, 16, 4, 0.0),
        "missing": low_rank_arguments(dtype, 3, 11, 16, 4, 0.4),
        "few_rows": low_rank_arguments(dtype, 2, 5, 12, 3, 0.3),
        "odd_sizes": low_rank_arguments(dtype, 4, 7, 19, 5, 0.5),
        "rank_one": low_rank_arguments(dtype, 2, 1, 3, 1, 0.0),
        "one_modality": low_rank_arguments(dtype, 1, 6, 8, 2, 0.2),
        "wide": low_rank_arguments(dtype, 2, 70, 256, 64, 0.2),
    }


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
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


CASE = OpCase(
    name="low_rank_decompose",
    reference=reference.low_rank_decompose,
    reference_backward=reference.low_rank_decompose_backward,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: low_rank_arguments(dtype, 3, 5_000, 32, 8, 0.3),
    differentiable=(0, 1, 2, 3),
    differentiable_outputs=(0, 1, 2),
)
