"""OpCase of masked_bce_with_logits."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore.reference import masked_bce_with_logits as reference
from survcore.testing.op_case import Arguments, OpCase


def masked_arguments(
    dtype: torch.dtype,
    views: int,
    rows: int,
    sizes: tuple[int, ...],
    *,
    targets: str = "bool",
    observed: bool = False,
    weighted: bool = False,
    shared_mask: bool = False,
    positions: str = "masked",
    reduction: str = "none",
) -> Arguments:
    """Random entries, 70 % of them masked; views = 0 gives [rows, columns]; ``targets`` are "bool" or "floating"."""
    generator = torch.Generator().manual_seed(23)
    columns = sum(sizes)
    shape = (views, rows, columns) if views else (rows, columns)
    logits = (2.0 * torch.randn(shape, generator=generator)).to(dtype)
    probability = torch.rand(rows, columns, generator=generator)
    target = probability < 0.3 if targets == "bool" else probability.to(dtype)
    mask = torch.rand(shape[-2:] if shared_mask else shape, generator=generator) < 0.7
    seen = torch.rand(rows, columns, generator=generator) < 0.8 if observed else torch.empty(0, dtype=torch.bool)
    weight = (0.5 + 3.0 * torch.rand(columns, generator=generator)).to(dtype) if weighted else torch.empty(0).to(dtype)
    limits = [sum(sizes[:m]) for m in range(len(sizes) + 1)]
    # As a matrix of one row: tests that repeat the first row of an argument leave it what it is.
    boundaries = torch.tensor([limits]) if len(sizes) > 1 else torch.empty(0, dtype=torch.int64)
    return logits, target, mask, seen, weight, boundaries, positions, reduction, True


def _packed(values: Tensor) -> Tensor:
    """As survcore.ops.pack_bits has it, one byte at a time."""
    columns = values.shape[-1]
    parts = [
        sum(values[..., j].to(torch.uint8) << j % 8 for j in range(i, min(i + 8, columns)))
        for i in range(0, columns, 8)
    ]
    return torch.stack(parts, -1)


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    sizes = (5, 3, 13)
    plain = masked_arguments(dtype, 2, 7, sizes)
    everything = masked_arguments(dtype, 2, 7, sizes, observed=True, weighted=True)
    bits = (everything[0], *(_packed(value) for value in everything[1:4]), *everything[4:])
    samples = {
        "plain": plain,
        "mean": masked_arguments(dtype, 3, 6, sizes, reduction="mean"),
        "weighted": masked_arguments(dtype, 2, 7, sizes, weighted=True),
        "one_view": masked_arguments(dtype, 0, 7, (21,)),
        "floating_target": masked_arguments(dtype, 2, 7, sizes, targets="floating", weighted=True),
        "floating_target_unweighted": masked_arguments(dtype, 0, 7, (21,), targets="floating"),
        "everything": everything,
        "everything_mean": masked_arguments(
            dtype, 2, 7, sizes, observed=True, weighted=True, positions="visible", reduction="mean"
        ),
        "observed": masked_arguments(dtype, 2, 7, sizes, observed=True),
        "visible": masked_arguments(dtype, 2, 7, sizes, positions="visible"),
        "visible_observed": masked_arguments(dtype, 2, 7, sizes, observed=True, positions="visible"),
        "all_observed": masked_arguments(dtype, 2, 7, sizes, observed=True, positions="all"),
        "all_without_mask": (
            *masked_arguments(dtype, 2, 7, sizes, positions="all")[:2],
            torch.empty(0, dtype=torch.bool),
            *masked_arguments(dtype, 2, 7, sizes, positions="all")[3:],
        ),
        "one_mask_for_all_views": masked_arguments(dtype, 2, 7, sizes, shared_mask=True),
        "target_of_each_view": (plain[0], torch.stack((plain[1], ~plain[1])), *plain[2:]),
        "one_weight": (*plain[:4], torch.tensor([2.5], dtype=dtype), *plain[5:]),
        "bytes": (plain[0], *(value.to(torch.uint8) * 3 for value in plain[1:3]), *plain[3:]),
        "integer_target": (plain[0], plain[1].long(), *plain[2:]),
        "bits": bits,
        "empty_modality": masked_arguments(dtype, 1, 5, (0, 4, 0, 6)),
    }
    # Around the sixteen entries of a step, the 32 sums beside each other, the 512 columns of a block, and the 64 terms
    # of a product.
    for columns in (1, 15, 16, 17, 33, 511, 512, 513, 1181):
        samples[f"{columns}_columns"] = masked_arguments(dtype, 1, 3, (columns,))
    samples["modalities_across_blocks"] = masked_arguments(dtype, 2, 70, (509, 1, 520, 3), weighted=False)
    samples["weighted_across_blocks"] = masked_arguments(dtype, 2, 70, (509, 1, 520, 3), weighted=True)
    return samples


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    infinity, nan = torch.inf, torch.nan

    def case(values: list[list[float]], *, target: Tensor | None = None, positions: str = "masked", **changes: Tensor):
        logits = torch.tensor(values, dtype=dtype)
        given = {
            "target": torch.tensor([True, False, True, False]).expand(logits.shape) if target is None else target,
            "mask": torch.ones(logits.shape, dtype=torch.bool),
            "observed": torch.empty(0, dtype=torch.bool),
            "pos_weight": torch.empty(0, dtype=dtype),
        } | changes
        return logits, *given.values(), torch.empty(0, dtype=torch.int64), positions, "none", True

    ordinary = [[0.5, -1.0, 2.0, 0.0]] * 2
    behind = torch.tensor([[True, True, True, False], [True, True, False, True]])
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    empty = masked_arguments(dtype, 2, 0, (3, 4))
    return {
        "huge": case([[1e4, -1e4, -1e4, 1e4]]),
        "small": case([[30.0, -30.0, 60.0, -60.0]]),
        "right_for_sure": case([[infinity, -infinity, infinity, -infinity]]),
        "wrong_for_sure": case([[-infinity, infinity, -infinity, infinity]]),
        "sure_of_a_floating_target": case(
            [[infinity, -infinity, 1.0, -1.0]], target=torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=dtype)
        ),
        "between_and_sure": case([[infinity, 0.5, 1.0, -1.0]], target=torch.full((1, 4), 0.25, dtype=dtype)),
        "nan_target": case(ordinary, target=torch.tensor([[1.0, nan, 0.0, 1.0]] * 2, dtype=dtype)),
        "nan_target_unobserved": case(
            ordinary, target=torch.tensor([[1.0, 0.0, 0.0, nan], [1.0, 1.0, nan, 0.0]], dtype=dtype), observed=behind
        ),
        "nan": case([[0.5, nan, 2.0, 0.0]]),
        "nan_behind_the_mask": case([[0.5, -1.0, 2.0, nan], [0.5, -1.0, infinity, 0.0]], mask=behind),
        "nan_of_no_entry": case([[0.5, -1.0, 2.0, nan], [0.5, -1.0, nan, 0.0]], observed=behind, positions="all"),
        "nothing_masked": case(ordinary, mask=nothing),
        "nothing_visible": case(ordinary, positions="visible"),
        "nothing_observed": case([[nan] * 4] * 2, observed=nothing),
        "one_positive": case(ordinary, target=nothing.clone().index_fill(1, torch.tensor([2]), True)),
        "weight_zero": case(ordinary, pos_weight=torch.zeros(4, dtype=dtype)),
        "one_entry": case([[0.3]], target=torch.ones(1, 1, dtype=torch.bool)),
        "no_rows": empty,
        "no_rows_mean": (*empty[:-2], "mean", True),
        "no_views": (torch.empty(0, 3, 7, dtype=dtype), *masked_arguments(dtype, 1, 3, (7,), shared_mask=True)[1:]),
    }


CASE = OpCase(
    name="masked_bce_with_logits",
    reference=reference.masked_bce_with_logits,
    reference_backward=reference.masked_bce_with_logits_backward,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: masked_arguments(dtype, 2, 400, (300, 20)),
    differentiable=(0,),
    differentiable_outputs=(0,),
)
