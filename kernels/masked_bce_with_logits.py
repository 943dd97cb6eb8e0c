"""Triton kernels of masked_bce_with_logits: binary cross-entropy over marked entries, and its gradient, in one pass.

Forward, three launches for up to eight modalities (and two more for each further eight):

1. the marks alone, counted per view and modality (or once for all views, where they share them);
2. one pass over the logits: with the counts the share of an entry in its loss is known, so that the gradient is written
   where the logit is read, and sums of losses per program, view and modality go to a workspace in float64;
3. these sums, added up in a fixed order by one program per loss.

Bytes per entry of float32 logits with one byte each for target and mask: 4 + 1 + 1 read, 4 written, 1 for counting;
46 to 57 instructions, among them two of the special function unit (the exponential and a reciprocal). The backward
pass of losses with factors of their own is one launch that reads and writes the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from survcore.kernels._launch import launch
from survcore.kernels._masks import (
    NO_MARKS,
    column_of,
    finish,
    is_counted,
    is_set,
    load_marks,
    mark_offsets,
    plan,
    read_marks,
    read_target,
    row_start,
    row_width,
    summed_counts,
)

# Modalities of a launch: their limits are arguments, so that no table of them has to reach the device.
_GROUP = 8
_LIMITS = [f"limit_{number}" for number in range(_GROUP + 1)]
_SIZES = ["entries", "columns", "fold", "wide", "wide_rows", "rows"]
_MARKS = ["mask_view_stride", "mask_row_stride", "observed_view_stride", "observed_row_stride", "unset"]


@triton.jit
def _modality_of(
    column,
    limit_0,
    limit_1,
    limit_2,
    limit_3,
    limit_4,
    limit_5,
    limit_6,
    limit_7,
    limit_8,
    MODALITIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The modality of each column, counted from the first one of this launch; with several launches below 0, or not
    below their number, where it has none."""
    modality = tl.zeros_like(column)
    if MODALITIES > 1:
        modality += (column >= limit_1).to(tl.int32)
    if MODALITIES > 2:
        modality += (column >= limit_2).to(tl.int32) + (column >= limit_3).to(tl.int32)
    if MODALITIES > 4:
        modality += (column >= limit_4).to(tl.int32) + (column >= limit_5).to(tl.int32)
        modality += (column >= limit_6).to(tl.int32) + (column >= limit_7).to(tl.int32)
    if SPLIT:
        modality += (column >= limit_0).to(tl.int32) + (column >= limit_8).to(tl.int32) - 1
    return modality


@triton.jit
def _log1p_of_zero_to_one(a):
    """log(1 + a) for a in [0, 1] with its relative accuracy: a polynomial for log(1 + a) / a, as on the CPU."""
    u = a - 0.5
    p = 0.005126102141 * u - 0.008569656114
    p = p * u + 0.01163957536
    p = p * u - 0.02023034057
    p = p * u + 0.03662560597
    p = p * u - 0.06771118662
    p = p * u + 0.1326094941
    p = p * u - 0.2885266734
    return a * (p * u + 0.8109302162)


@triton.jit
def _softplus(x):
    """softplus(x) = max(x, 0) + log(1 + exp(-|x|)) and its slope, the sigmoid, accurate in both tails."""
    small = tl.exp(-tl.abs(x))
    upper = 1.0 / (1.0 + small)
    return tl.maximum(x, 0.0) + _log1p_of_zero_to_one(small), tl.where(x < 0.0, small * upper, upper)


@triton.jit
def _entropy_of_probability(x, target, weight, WEIGHTED: tl.constexpr):
    """Loss and slope for targets within 0..1. A part that target or weight leave out is 0, however large others are."""
    small = tl.exp(-tl.abs(x))
    upper = 1.0 / (1.0 + small)
    lower = small * upper
    logarithm = _log1p_of_zero_to_one(small)
    of_negative = 1.0 - target
    of_positive = target
    if WEIGHTED:
        of_positive = tl.where(target == 0.0, 0.0, target * weight)
    below = x < 0.0
    negative_loss = tl.where(of_negative != 0.0, of_negative * (tl.maximum(x, 0.0) + logarithm), 0.0)
    positive_loss = tl.where(of_positive != 0.0, of_positive * (tl.maximum(-x, 0.0) + logarithm), 0.0)
    negative_slope = tl.where(of_negative != 0.0, of_negative * tl.where(below, lower, upper), 0.0)
    positive_slope = tl.where(of_positive != 0.0, of_positive * tl.where(below, upper, lower), 0.0)
    return negative_loss + positive_loss, negative_slope - positive_slope


@triton.jit(do_not_specialize=[*_MARKS, *_SIZES, *_LIMITS, "first_modality", "modalities"])
def _count_kernel(
    mask,  # marks of [views, rows, columns]
    mask_view_stride,
    mask_row_stride,
    observed,  # likewise
    observed_view_stride,
    observed_row_stride,
    counts,  # [views of marks, modalities, programs], int32
    unset,
    entries,
    columns,
    fold,
    wide,
    wide_rows,
    rows,
    first_modality,
    modalities,
    limit_0,
    limit_1,
    limit_2,
    limit_3,
    limit_4,
    limit_5,
    limit_6,
    limit_7,
    limit_8,
    MODALITIES: tl.constexpr,
    SPLIT: tl.constexpr,
    MASK: tl.constexpr,
    OBSERVED: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """Scored entries of each view and modality. Reads one byte (or bit) per entry and mark, ROWS rows at a time, adds
    them up per entry of a wide row, and these per modality in the end."""
    view = tl.program_id(2)
    first = tl.program_id(1) * rows
    last = tl.minimum(first + rows, wide_rows)
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    column = column_of(entry, columns)
    mask_offsets = mark_offsets(entry, columns, mask_row_stride, MASK)
    observed_offsets = mark_offsets(entry, columns, observed_row_stride, OBSERVED)
    shift = column % 8
    found = tl.zeros([ENTRIES], tl.int32)
    for start in range(first, last, ROWS):
        for step in tl.static_range(ROWS):
            row = start + step
            inside = entry < row_width(row, last, wide_rows, wide, entries, ALIGNED)
            hidden = load_marks(
                mask,
                view,
                mask_view_stride,
                row,
                mask_row_stride,
                fold,
                wide,
                mask_offsets,
                inside,
                unset,
                MASK,
                ALIGNED,
            )
            seen = load_marks(
                observed,
                view,
                observed_view_stride,
                row,
                observed_row_stride,
                fold,
                wide,
                observed_offsets,
                inside,
                0,
                OBSERVED,
                ALIGNED,
            )
            found += is_counted(hidden, seen, inside, shift, unset, MASK, OBSERVED).to(tl.int32)
    modality = tl.arange(0, MODALITIES)
    of_entry = _modality_of(
        column, limit_0, limit_1, limit_2, limit_3, limit_4, limit_5, limit_6, limit_7, limit_8, MODALITIES, SPLIT
    )
    count = tl.sum(tl.where(of_entry[None, :] == modality[:, None], found[None, :], 0), 1)
    group = view * modalities + first_modality + modality
    programs = tl.num_programs(0) * tl.num_programs(1)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(counts + group * programs + program, count, mask=first_modality + modality < modalities)


@triton.jit(
    do_not_specialize=[
        *_MARKS,
        *_SIZES,
        *_LIMITS,
        "target_view_stride",
        "target_row_stride",
        "weight_stride",
        "count_view_stride",
        "count_programs",
        "divisor",
        "first_modality",
        "modalities",
    ]
)
def _loss_kernel(
    logits,  # [views, rows, columns]
    target,  # marks of them, or values as flat
    target_view_stride,
    target_row_stride,
    mask,  # marks of them
    mask_view_stride,
    mask_row_stride,
    observed,  # marks of them
    observed_view_stride,
    observed_row_stride,
    weight,  # [columns], or [1] with stride 0
    weight_stride,
    counts,  # [views of marks, modalities, count_programs], int32
    count_view_stride,
    count_programs,
    gradient,  # [views, rows, columns], float32
    workspace,  # [views, modalities], then [views, modalities, programs], float64: shares, sums
    unset,
    divisor,
    entries,
    columns,
    fold,
    wide,
    wide_rows,
    rows,
    first_modality,
    modalities,
    limit_0,
    limit_1,
    limit_2,
    limit_3,
    limit_4,
    limit_5,
    limit_6,
    limit_7,
    limit_8,
    MODALITIES: tl.constexpr,
    SPLIT: tl.constexpr,
    TARGET: tl.constexpr,
    MASK: tl.constexpr,
    OBSERVED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    ALIGNED: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """One tile of entries down a block of wide rows. The next row is loaded before this one is computed. Values of
    entries that are not scored come along with their neighbours' and are dropped by a select, never by a product."""
    view = tl.program_id(2)
    first = tl.program_id(1) * rows
    last = tl.minimum(first + rows, wide_rows)
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    column = column_of(entry, columns)
    shift = column % 8
    target_offsets = mark_offsets(entry, columns, target_row_stride, TARGET)
    mask_offsets = mark_offsets(entry, columns, mask_row_stride, MASK)
    observed_offsets = mark_offsets(entry, columns, observed_row_stride, OBSERVED)

    modality = tl.arange(0, MODALITIES)
    of_entry = _modality_of(
        column, limit_0, limit_1, limit_2, limit_3, limit_4, limit_5, limit_6, limit_7, limit_8, MODALITIES, SPLIT
    )
    group = view * modalities + first_modality + modality
    in_use = first_modality + modality < modalities
    count = summed_counts(counts + view * count_view_stride, first_modality, modalities, count_programs, MODALITIES)
    share = 1.0 / ((count.to(tl.float64) + 1e-8) * divisor)
    is_first = (tl.program_id(0) == 0) & (tl.program_id(1) == 0)
    tl.store(workspace + group, share, mask=in_use & is_first)
    scale = tl.sum(tl.where(of_entry[None, :] == modality[:, None], share.to(tl.float32)[:, None], 0.0), 0)
    weights = scale
    positive_scale = scale
    if WEIGHTED:
        weights = tl.load(weight + column * weight_stride).to(tl.float32)
        positive_scale = weights * scale

    inside = entry < row_width(first, last, wide_rows, wide, entries, ALIGNED)
    if SPLIT:
        inside = inside & (of_entry >= 0) & (of_entry < MODALITIES)
    start = row_start(view, entries, first, 0, fold, wide, "flat", ALIGNED)
    values = tl.load(logits + start + entry, mask=inside, other=0.0)
    wanted = load_marks(
        target,
        view,
        target_view_stride,
        first,
        target_row_stride,
        fold,
        wide,
        target_offsets,
        inside,
        0,
        TARGET,
        ALIGNED,
    )
    hidden = load_marks(
        mask, view, mask_view_stride, first, mask_row_stride, fold, wide, mask_offsets, inside, unset, MASK, ALIGNED
    )
    seen = load_marks(
        observed,
        view,
        observed_view_stride,
        first,
        observed_row_stride,
        fold,
        wide,
        observed_offsets,
        inside,
        0,
        OBSERVED,
        ALIGNED,
    )
    sums = tl.zeros([ENTRIES], tl.float32)
    for row in range(first, last):
        next_inside = entry < row_width(row + 1, last, wide_rows, wide, entries, ALIGNED)
        if SPLIT:
            next_inside = next_inside & (of_entry >= 0) & (of_entry < MODALITIES)
        next_start = row_start(view, entries, row + 1, 0, fold, wide, "flat", ALIGNED)
        next_values = tl.load(logits + next_start + entry, mask=next_inside, other=0.0)
        next_wanted = load_marks(
            target,
            view,
            target_view_stride,
            row + 1,
            target_row_stride,
            fold,
            wide,
            target_offsets,
            next_inside,
            0,
            TARGET,
            ALIGNED,
        )
        next_hidden = load_marks(
            mask,
            view,
            mask_view_stride,
            row + 1,
            mask_row_stride,
            fold,
            wide,
            mask_offsets,
            next_inside,
            unset,
            MASK,
            ALIGNED,
        )
        next_seen = load_marks(
            observed,
            view,
            observed_view_stride,
            row + 1,
            observed_row_stride,
            fold,
            wide,
            observed_offsets,
            next_inside,
            0,
            OBSERVED,
            ALIGNED,
        )

        counted = is_counted(hidden, seen, inside, shift, unset, MASK, OBSERVED)
        if TARGET == "floating":
            loss, slope = _entropy_of_probability(values.to(tl.float32), wanted.to(tl.float32), weights, WEIGHTED)
            step = slope * scale
        else:
            positive = is_set(wanted, shift, TARGET)
            x = values.to(tl.float32)
            loss, slope = _softplus(tl.where(positive, -x, x))
            step = slope * tl.where(positive, -positive_scale, scale)
            if WEIGHTED:
                loss *= tl.where(positive, weights, 1.0)
                # A weight of 0 leaves nothing, whatever the logit is.
                counted = counted & ((weights != 0.0) | ~positive)
        sums += tl.where(counted, loss, 0.0)
        if WITH_GRADIENT:
            tl.store(gradient + start + entry, tl.where(counted, step, 0.0), mask=inside)

        inside = next_inside
        start = next_start
        values = next_values
        wanted = next_wanted
        hidden = next_hidden
        seen = next_seen

    total = tl.sum(tl.where(of_entry[None, :] == modality[:, None], sums[None, :], 0.0), 1)
    programs = tl.num_programs(0) * tl.num_programs(1)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    shares = tl.num_programs(2) * modalities
    tl.store(workspace + shares + group.to(tl.int64) * programs + program, total.to(tl.float64), mask=in_use)


@triton.jit(do_not_specialize=[*_SIZES, *_LIMITS, "view_stride", "modality_stride", "first_modality", "modalities"])
def _backward_kernel(
    grad_loss,  # [views, modalities], or one number with strides 0
    view_stride,
    modality_stride,
    gradient,  # [views, rows, columns], float32
    result,  # [views, rows, columns], float32
    entries,
    columns,
    fold,
    wide,
    wide_rows,
    rows,
    first_modality,
    modalities,
    limit_0,
    limit_1,
    limit_2,
    limit_3,
    limit_4,
    limit_5,
    limit_6,
    limit_7,
    limit_8,
    MODALITIES: tl.constexpr,
    SPLIT: tl.constexpr,
    ALIGNED: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """What forward has made, times the gradient of each view's and modality's loss: 8 bytes per entry."""
    view = tl.program_id(2)
    first = tl.program_id(1) * rows
    last = tl.minimum(first + rows, wide_rows)
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    of_entry = _modality_of(
        column_of(entry, columns),
        limit_0,
        limit_1,
        limit_2,
        limit_3,
        limit_4,
        limit_5,
        limit_6,
        limit_7,
        limit_8,
        MODALITIES,
        SPLIT,
    )
    modality = tl.arange(0, MODALITIES)
    position = first_modality + modality
    factor = tl.load(
        grad_loss + view * view_stride + position * modality_stride, mask=position < modalities, other=0.0
    ).to(tl.float32)
    factors = tl.sum(tl.where(of_entry[None, :] == modality[:, None], factor[:, None], 0.0), 0)
    for row in range(first, last):
        inside = entry < row_width(row, last, wide_rows, wide, entries, ALIGNED)
        if SPLIT:
            inside = inside & (of_entry >= 0) & (of_entry < MODALITIES)
        start = row_start(view, entries, row, 0, fold, wide, "flat", ALIGNED)
        tl.store(result + start + entry, factors * tl.load(gradient + start + entry, mask=inside), mask=inside)


def masked_bce_with_logits(
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    observed: Tensor,
    pos_weight: Tensor,
    boundaries: Tensor,
    positions: str,
    reduction: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The op's forward pass; float64 is left to the reference."""
    if logits.dtype == torch.float64:
        return NotImplemented
    views = logits.shape[0] if logits.dim() == 3 else 1
    rows, columns = logits.shape[-2:]
    limits = _limits(boundaries, columns)
    modalities = len(limits) - 1
    mean = reduction == "mean"
    loss = logits.new_empty(() if mean else (views, modalities), dtype=torch.float32)
    gradient = logits.new_empty(logits.shape if with_gradient else (0,), dtype=torch.float32)
    if logits.numel() == 0:
        return loss.zero_(), gradient
    logits = logits.contiguous()
    wanted = read_target(target, columns)
    hidden = NO_MARKS if positions == "all" else read_marks(mask, columns)
    seen = read_marks(observed, columns)
    unset = 255 if positions == "visible" else 0
    split = modalities > _GROUP

    mark_views = views if hidden.view_stride or seen.view_stride else 1
    counting = plan(mark_views, rows, columns, tile=2048, programs=256 * mark_views, most_rows=8)
    count_programs = counting.tiles * counting.blocks
    vectors = counting.aligned(hidden, seen) and all(one.kind in ("flat", "none") for one in (hidden, seen))
    counts = logits.new_empty(mark_views * modalities * count_programs, dtype=torch.int32)
    pass_ = plan(views, rows, columns, tile=1024, programs=2048, most_rows=16)
    programs = pass_.tiles * pass_.blocks
    workspace = logits.new_empty(views * modalities * (1 + programs), dtype=torch.float64)
    for first, of_launch, width in _launches(limits, columns):
        launch(
            _count_kernel,
            (counting.tiles, counting.blocks, mark_views),
            hidden.values,
            hidden.view_stride,
            hidden.row_stride,
            seen.values,
            seen.view_stride,
            seen.row_stride,
            counts,
            unset,
            counting.entries,
            columns,
            counting.fold,
            counting.wide,
            counting.wide_rows,
            counting.rows,
            first,
            modalities,
            *of_launch,
            MODALITIES=width,
            SPLIT=split,
            MASK=hidden.kind,
            OBSERVED=seen.kind,
            ALIGNED=counting.aligned(hidden, seen),
            ROWS=4 if vectors else 1,  # single bytes take a register each
            ENTRIES=2048,
        )
        launch(
            _loss_kernel,
            (pass_.tiles, pass_.blocks, views),
            logits,
            wanted.values,
            wanted.view_stride,
            wanted.row_stride,
            hidden.values,
            hidden.view_stride,
            hidden.row_stride,
            seen.values,
            seen.view_stride,
            seen.row_stride,
            pos_weight if pos_weight.numel() else None,
            0 if pos_weight.numel() == 1 else pos_weight.stride(0),
            counts,
            modalities * count_programs if mark_views > 1 else 0,
            count_programs,
            gradient if with_gradient else None,
            workspace,
            unset,
            views if mean else 1,
            pass_.entries,
            columns,
            pass_.fold,
            pass_.wide,
            pass_.wide_rows,
            pass_.rows,
            first,
            modalities,
            *of_launch,
            MODALITIES=width,
            SPLIT=split,
            TARGET=wanted.kind,
            MASK=hidden.kind,
            OBSERVED=seen.kind,
            WEIGHTED=pos_weight.numel() > 0,
            WITH_GRADIENT=with_gradient,
            ALIGNED=not split and pass_.aligned(wanted, hidden, seen),
            ENTRIES=1024,
            num_warps=8,
        )
    finish(workspace, loss, views * modalities, programs)
    return loss, gradient


def masked_bce_with_logits_backward(grad_loss: Tensor, gradient: Tensor, boundaries: Tensor) -> Tensor:
    """The op's backward pass; float64 is left to the reference."""
    if gradient.dtype == torch.float64:
        return NotImplemented
    result = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    if gradient.numel() == 0:
        return result
    gradient = gradient.contiguous()
    views = gradient.shape[0] if gradient.dim() == 3 else 1
    rows, columns = gradient.shape[-2:]
    limits = [0, columns] if grad_loss.dim() == 0 else _limits(boundaries, columns)
    view_stride, modality_stride = grad_loss.stride() if grad_loss.dim() else (0, 0)
    split = len(limits) - 1 > _GROUP
    pass_ = plan(views, rows, columns, tile=1024, programs=2048, most_rows=16)
    for first, of_launch, width in _launches(limits, columns):
        launch(
            _backward_kernel,
            (pass_.tiles, pass_.blocks, views),
            grad_loss,
            view_stride,
            modality_stride,
            gradient,
            result,
            pass_.entries,
            columns,
            pass_.fold,
            pass_.wide,
            pass_.wide_rows,
            pass_.rows,
            first,
            len(limits) - 1,
            *of_launch,
            MODALITIES=width,
            SPLIT=split,
            ALIGNED=not split and pass_.aligned(),
            ENTRIES=1024,
            num_warps=8,
        )
    return result


def _limits(boundaries: Tensor, columns: int) -> list[int]:
    """The first column of each modality, and D: they live on the CPU."""
    return boundaries.flatten().tolist() if boundaries.numel() else [0, columns]


def _launches(limits: list[int], columns: int) -> Iterator[tuple[int, list[int], int]]:
    """Of each launch its first modality, the limits of its modalities, and the power of 2 that they are padded to."""
    modalities = len(limits) - 1
    width = min(_GROUP, triton.next_power_of_2(modalities))
    for first in range(0, modalities, _GROUP):
        of_launch = limits[first : first + _GROUP + 1]
        yield first, of_launch + [columns] * (_GROUP + 1 - len(of_launch)), width
