"""Triton kernels of masked_mse: mean squared error of marked patches, and its gradient, in one pass.

Three launches:

1. the marks, counted, and written out as one byte per patch whatever form they had;
2. one pass over the values of scored patches: with the count the scale of the gradient is known, so that it is written
   where the values are read, and a sum per program goes to a workspace in float64. Values of other patches are not
   loaded: their gradient alone is written;
3. these sums, added up in a fixed order.

Bytes per value of float32: 8 read in scored patches, 4 written in all. The backward pass is one product.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from survcore.kernels._launch import launch
from survcore.kernels._masks import (
    NO_MARKS,
    finish,
    is_counted,
    mark_offsets,
    plan,
    read_marks,
    row_start,
    row_width,
    summed_counts,
)


@triton.jit(do_not_specialize=["mask_row_stride", "observed_row_stride", "patches", "all_patches", "blocks", "unset"])
def _count_kernel(
    mask,  # marks of [rows, patches]
    mask_row_stride,
    observed,  # likewise
    observed_row_stride,
    scored,  # [rows, patches], uint8
    counts,  # [programs], int32
    patches,
    all_patches,
    blocks,
    unset,
    MASK: tl.constexpr,
    OBSERVED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program has ``blocks`` blocks of patches: their marks as bytes, and how many are scored."""
    found = tl.zeros([BLOCK], tl.int32)
    first = tl.program_id(0).to(tl.int64) * blocks * BLOCK
    for block in range(0, blocks):
        start = first + block * BLOCK
        row = start // patches
        # Counted from the row that the block begins in: 32 bits are enough for the division of each patch.
        patch = (start - row * patches).to(tl.int32) + tl.arange(0, BLOCK)
        inside = start + tl.arange(0, BLOCK) < all_patches
        shift = (patch % patches) % 8
        hidden = inside.to(tl.uint8)
        if MASK != "none":
            offsets = row * mask_row_stride + mark_offsets(patch, patches, mask_row_stride, MASK)
            hidden = tl.load(mask + offsets, mask=inside, other=unset)
        seen = inside.to(tl.uint8)
        if OBSERVED != "none":
            offsets = row * observed_row_stride + mark_offsets(patch, patches, observed_row_stride, OBSERVED)
            seen = tl.load(observed + offsets, mask=inside, other=0)
        counted = is_counted(hidden, seen, inside, shift, unset, MASK, OBSERVED)
        tl.store(scored + start + tl.arange(0, BLOCK), counted.to(tl.uint8), mask=inside)
        found += counted.to(tl.int32)
    tl.store(counts + tl.program_id(0), tl.sum(found, 0))


@triton.jit(do_not_specialize=["count_programs", "entries", "length", "fold", "wide", "wide_rows", "rows"])
def _loss_kernel(
    prediction,  # [all patches, length]
    target,  # [all patches, length]
    scored,  # [all patches], uint8
    counts,  # [count_programs], int32
    count_programs,
    gradient,  # [all patches, length], float32
    workspace,  # [1], then [programs], float64: share, sums
    entries,
    length,
    fold,
    wide,
    wide_rows,
    rows,
    WITH_GRADIENT: tl.constexpr,
    ALIGNED: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """One tile of entries down a block of wide rows of ``fold`` patches each. The next row's marks are loaded before
    this row's values, which wait for theirs."""
    first = tl.program_id(1) * rows
    last = tl.minimum(first + rows, wide_rows)
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    patch = entry // length

    # Nothing to average is 0.
    count = tl.maximum(summed_counts(counts, 0, 1, count_programs, 1), 1)
    share = 1.0 / (count.to(tl.float64) * length)
    is_first = (tl.program_id(0) == 0) & (tl.program_id(1) == 0)
    tl.store(workspace + tl.arange(0, 1), share, mask=is_first)
    scale = tl.sum((2.0 * share).to(tl.float32), 0)

    inside = entry < row_width(first, last, wide_rows, wide, entries, ALIGNED)
    marks = tl.load(scored + first * fold.to(tl.int64) + patch, mask=inside, other=0)
    if ALIGNED:
        marks = tl.max_constancy(marks, 16)
    sums = tl.zeros([ENTRIES], tl.float32)
    for row in range(first, last):
        next_inside = entry < row_width(row + 1, last, wide_rows, wide, entries, ALIGNED)
        next_marks = tl.load(scored + (row + 1) * fold.to(tl.int64) + patch, mask=next_inside, other=0)
        if ALIGNED:
            next_marks = tl.max_constancy(next_marks, 16)
        start = row_start(tl.program_id(2), entries, row, 0, fold, wide, "flat", ALIGNED)
        counted = marks != 0
        predicted = tl.load(prediction + start + entry, mask=counted, other=0.0).to(tl.float32)
        wanted = tl.load(target + start + entry, mask=counted, other=0.0).to(tl.float32)
        difference = predicted - wanted
        sums += difference * difference
        if WITH_GRADIENT:
            tl.store(gradient + start + entry, difference * scale, mask=inside)
        inside = next_inside
        marks = next_marks
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(workspace + 1 + program, tl.sum(sums, 0).to(tl.float64))


def masked_mse(
    prediction: Tensor, target: Tensor, mask: Tensor, observed: Tensor, positions: str, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The op's forward pass; float64 is left to the reference."""
    if prediction.dtype == torch.float64:
        return NotImplemented
    rows, patches, length = prediction.shape
    loss = prediction.new_empty((), dtype=torch.float32)
    gradient = prediction.new_empty(prediction.shape if with_gradient else (0,), dtype=torch.float32)
    if prediction.numel() == 0:
        return loss.zero_(), gradient
    prediction, target = prediction.contiguous(), target.contiguous()
    hidden = NO_MARKS if positions == "all" else read_marks(mask, patches)
    seen = read_marks(observed, patches)

    block = 1024
    blocks = triton.cdiv(rows * patches, block)
    blocks_each = triton.cdiv(blocks, 256)
    count_programs = triton.cdiv(blocks, blocks_each)
    scored = prediction.new_empty(rows * patches, dtype=torch.uint8)
    counts = prediction.new_empty(count_programs, dtype=torch.int32)
    launch(
        _count_kernel,
        (count_programs,),
        hidden.values,
        hidden.row_stride,
        seen.values,
        seen.row_stride,
        scored,
        counts,
        patches,
        rows * patches,
        blocks_each,
        255 if positions == "visible" else 0,
        MASK=hidden.kind,
        OBSERVED=seen.kind,
        BLOCK=block,
    )
    pass_ = plan(1, rows * patches, length, tile=1024, programs=2048, most_rows=16)
    programs = pass_.tiles * pass_.blocks
    workspace = prediction.new_empty(1 + programs, dtype=torch.float64)
    launch(
        _loss_kernel,
        (pass_.tiles, pass_.blocks),
        prediction,
        target,
        scored,
        counts,
        count_programs,
        gradient if with_gradient else None,
        workspace,
        pass_.entries,
        length,
        pass_.fold,
        pass_.wide,
        pass_.wide_rows,
        pass_.rows,
        WITH_GRADIENT=with_gradient,
        ALIGNED=length % 16 == 0 and pass_.aligned(),
        ENTRIES=1024,
        num_warps=8,
    )
    finish(workspace, loss, 1, programs)
    return loss, gradient
