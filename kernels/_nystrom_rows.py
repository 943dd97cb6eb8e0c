"""Rows of a bag for the kernels of nystrom_layer: their LayerNorm statistics, the means of landmarks, normalised tiles.

Rows of all bags lie one after the other in [N, D]; bag b has those from offsets[b] up to offsets[b + 1]. Its landmark j
is the mean of rows [j * length - padding, (j + 1) * length - padding) with length = ceil(count / landmarks) and
padding = length * landmarks - count: what lies before the first row counts as zero.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bag_of(offsets, bag):
    """First row of a bag and how many it has."""
    first = tl.load(offsets + bag)
    return first, (tl.load(offsets + bag + 1) - first).to(tl.int32)


@triton.jit
def normalised(
    rows,  # [.., D], from the bag's first row on
    row_stride,
    statistics,  # [.., 2], likewise; None: rows are taken as they are
    norm_weight,  # [D]
    norm_bias,  # [D]
    row,  # [R]
    inside,  # [R]: the others are zero, and not read
    column,  # [C]
    WIDTH: tl.constexpr,
    TYPE: tl.constexpr,
):
    """A tile of normalised rows, [R, C]."""
    within = column < WIDTH
    both = inside[:, None] & within[None, :]
    row = row.to(tl.int64)
    values = tl.load(rows + row[:, None] * row_stride + column[None, :], mask=both, other=0.0)
    if statistics is not None:
        mean = tl.load(statistics + 2 * row, mask=inside, other=0.0)
        inverse = tl.load(statistics + 2 * row + 1, mask=inside, other=0.0)
        weight = tl.load(norm_weight + column, mask=within, other=0.0).to(tl.float32)
        bias = tl.load(norm_bias + column, mask=within, other=0.0).to(tl.float32)
        values = (values.to(tl.float32) - mean[:, None]) * inverse[:, None]
        values = tl.where(both, values * weight[None, :] + bias[None, :], 0.0)
    return values.to(TYPE)


@triton.jit(do_not_specialize=["splits"])
def landmark_parts(
    rows,  # [N, D]
    offsets,  # [bags + 1], int64
    statistics,  # [N, 2]: mean and 1 / deviation of each row, an output
    parts,  # [bags, landmarks, splits, D], float32
    row_stride,
    splits,
    eps,
    WIDTH: tl.constexpr,
    LANDMARKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Statistics of the rows of one landmark, or of a share of them, and the sum of (x - mean) / deviation. Rows are
    read once and held whole, so that the variance is that of centred values."""
    landmark = tl.program_id(0)
    split = tl.program_id(1)
    bag = tl.program_id(2).to(tl.int64)
    first, count = bag_of(offsets, bag)
    rows += first * row_stride
    statistics += first * 2
    length = tl.cdiv(count, LANDMARKS)
    padding = length * LANDMARKS - count
    share = tl.cdiv(length, splits)
    start = landmark * length + tl.minimum(split * share, length) - padding
    stop = landmark * length + tl.minimum((split + 1) * share, length) - padding
    column = tl.arange(0, BLOCK_WIDTH)
    within = column < WIDTH
    total = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for at in range(tl.maximum(start, 0), stop, BLOCK_ROWS):
        row = at + tl.arange(0, BLOCK_ROWS)
        inside = row < stop
        both = inside[:, None] & within[None, :]
        place = row.to(tl.int64)
        values = tl.load(rows + place[:, None] * row_stride + column[None, :], mask=both, other=0.0).to(tl.float32)
        mean = tl.sum(values, 1) / WIDTH
        centred = tl.where(within[None, :], values - mean[:, None], 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / WIDTH + eps)
        tl.store(statistics + 2 * place, mean, mask=inside)
        tl.store(statistics + 2 * place + 1, inverse, mask=inside)
        total += centred * inverse[:, None]
    part = (bag * LANDMARKS + landmark) * splits + split
    tl.store(parts + part * WIDTH + column, tl.sum(total, 0), mask=within)


@triton.jit(do_not_specialize=["splits"])
def landmark_means_of_parts(
    parts,  # [bags, landmarks, splits, D], float32
    offsets,  # [bags + 1], int64
    norm_weight,  # [D]
    norm_bias,  # [D]
    means,  # [bags, landmarks, D], float32
    splits,
    WIDTH: tl.constexpr,
    LANDMARKS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Adds the parts of one landmark in a fixed order; scale and shift of the norm come last."""
    landmark = tl.program_id(0)
    bag = tl.program_id(1).to(tl.int64)
    _, count = bag_of(offsets, bag)
    length = tl.cdiv(count, LANDMARKS)
    stop = (landmark + 1) * length - (length * LANDMARKS - count)
    found = tl.minimum(tl.maximum(stop, 0), length).to(tl.float32)
    column = tl.arange(0, BLOCK_WIDTH)
    within = column < WIDTH
    split = tl.arange(0, BLOCK_SPLITS)
    place = (bag * LANDMARKS + landmark) * splits * WIDTH + split[:, None] * WIDTH + column[None, :]
    total = tl.sum(tl.load(parts + place, mask=(split < splits)[:, None] & within[None, :], other=0.0), 0)
    weight = tl.load(norm_weight + column, mask=within, other=0.0).to(tl.float32)
    bias = tl.load(norm_bias + column, mask=within, other=0.0).to(tl.float32)
    mean = (total * weight + found * bias) / tl.maximum(length, 1).to(tl.float32)
    tl.store(means + (bag * LANDMARKS + landmark) * WIDTH + column, mean, mask=within)
