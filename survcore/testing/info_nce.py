"""OpCase of info_nce."""

from __future__ import annotations

import torch

from survcore.reference import info_nce as reference
from survcore.testing.op_case import Arguments, OpCase


def info_nce_arguments(
    dtype: torch.dtype,
    rows: int,
    width: int,
    *,
    groups: int = 0,
    masked: bool = False,
    temperature: float = 0.2,
    form: str = "cross_modal",
    normalize: bool = True,
    with_gradient: bool = False,
) -> Arguments:
    """Random rows whose partners resemble them; without ``groups``, of one problem."""
    generator = torch.Generator().manual_seed(23)
    shape = (groups, rows, width) if groups else (rows, width)
    query = torch.randn(shape, generator=generator)
    key = 0.5 * query + torch.randn(shape, generator=generator)
    mask = torch.rand(shape[:-1], generator=generator) < 0.7 if masked else torch.empty(0, dtype=torch.bool)
    scale = torch.tensor([temperature], dtype=dtype)
    return query.to(dtype), key.to(dtype), mask, scale, form, normalize, 0, 1, with_gradient


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    samples = {
        "plain": info_nce_arguments(dtype, 9, 6),
        "nt_xent": info_nce_arguments(dtype, 9, 6, form="nt_xent", with_gradient=True),
        "masked": info_nce_arguments(dtype, 12, 5, masked=True),
        "groups": info_nce_arguments(dtype, 7, 4, groups=3, masked=True),
        "nt_xent_groups": info_nce_arguments(dtype, 7, 4, groups=2, masked=True, form="nt_xent"),
        "not_normalized": info_nce_arguments(dtype, 10, 6, normalize=False),
        "cold": info_nce_arguments(dtype, 20, 6, temperature=0.01),
        "cold_nt_xent": info_nce_arguments(dtype, 20, 6, temperature=0.01, form="nt_xent"),
        "one_mask_of_groups": (
            *info_nce_arguments(dtype, 8, 4, groups=2)[:2],
            torch.arange(8) % 3 > 0,
            *info_nce_arguments(dtype, 8, 4)[3:],
        ),
    }
    # Around the 4 and 12 rows of a product, the 32 columns of a panel, the 96 rows of a tile, the 512 of a chunk.
    for rows, width in ((2, 3), (4, 31), (5, 32), (12, 33), (13, 64), (31, 16), (33, 40), (97, 17), (130, 8)):
        samples[f"{rows}x{width}"] = info_nce_arguments(dtype, rows, width)
        samples[f"nt_xent_{rows}x{width}"] = info_nce_arguments(dtype, rows, width, form="nt_xent")
    samples["chunks"] = info_nce_arguments(dtype, 530, 12, temperature=0.05)
    samples["masked_chunks"] = info_nce_arguments(dtype, 760, 10, masked=True, temperature=0.05)
    samples["nt_xent_chunks"] = info_nce_arguments(dtype, 530, 12, form="nt_xent", masked=True)
    made = {f"{name}_made": (*arguments[:-1], not arguments[-1]) for name, arguments in samples.items()}
    return samples | made


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    query, key, _, *options = info_nce_arguments(dtype, 6, 4)
    everybody = torch.empty(0, dtype=torch.bool)
    mask = torch.tensor([True, False, True, True, False, True])
    hidden_query, hidden_key, nan_query = query.clone(), key.clone(), query.clone()
    hidden_query[~mask], hidden_key[~mask], nan_query[2, 1] = torch.nan, torch.inf, torch.nan
    zero_row = query.clone()
    zero_row[3] = 0.0
    raw = info_nce_arguments(dtype, 6, 4, normalize=False)[3:]
    grouped = info_nce_arguments(dtype, 6, 4, groups=3)
    group_mask = torch.zeros(3, 6, dtype=torch.bool)
    group_mask[1, 2] = True
    group_mask[2] = mask
    among = ("nt_xent", *options[2:])
    extremes = {
        "no_rows": info_nce_arguments(dtype, 0, 4),
        "no_rows_nt_xent": info_nce_arguments(dtype, 0, 4, form="nt_xent"),
        "no_groups": (grouped[0][:0], grouped[1][:0], everybody, *grouped[3:]),
        "no_rows_of_groups": (grouped[0][:, :0], grouped[1][:, :0], everybody, *grouped[3:]),
        "one_row": info_nce_arguments(dtype, 1, 4),
        "one_row_nt_xent": info_nce_arguments(dtype, 1, 4, form="nt_xent"),
        "nobody_is_valid": (query, key, torch.zeros(6, dtype=torch.bool), *options),
        "one_is_valid": (query, key, torch.arange(6) == 4, *options),
        "one_is_valid_nt_xent": (query, key, torch.arange(6) == 4, options[0], *among),
        "empty_and_single_groups": (grouped[0], grouped[1], group_mask, *grouped[3:]),
        "masked_rows_are_not_finite": (hidden_query, hidden_key, mask, *options),
        "masked_rows_are_not_finite_nt_xent": (hidden_query, hidden_key, mask, options[0], *among),
        "nan": (nan_query, key, everybody, *options),
        "zero_row": (zero_row, key, everybody, *options),
        "logits_of_a_thousand": (8 * query, 8 * key, everybody, *raw),
        "logits_far_apart": (query * torch.logspace(-3, 2, 6).unsqueeze(1).to(dtype), key, everybody, *raw),
    }
    return extremes | {f"{name}_made": (*arguments[:-1], True) for name, arguments in extremes.items()}


CASE = OpCase(
    name="info_nce",
    reference=reference.info_nce,
    reference_backward=reference.info_nce_backward,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: info_nce_arguments(dtype, 1500, 48, masked=True, form="nt_xent", with_gradient=True),
    differentiable=(0, 1, 3),
    differentiable_outputs=(0,),
)
