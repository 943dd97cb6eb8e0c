"""Few queries ask the rows of bags, whose keys are made tile by tile and never stored."""

from __future__ import annotations

import triton
import triton.language as tl

from survcore.kernels._nystrom_rows import bag_of, normalised


@triton.jit(do_not_specialize=["queries", "splits"])
def attend_to_parts(
    query,  # [bags, heads, queries, d], scaled
    rows,  # [N, D]
    offsets,  # [bags + 1], int64
    statistics,  # [N, 2], or None
    norm_weight,  # [D], or None
    norm_bias,  # [D], or None
    weight,  # [2 D, D]: of keys, then of values
    bias,  # [2 D], or None
    made_values,  # [N, D], or None: values of all rows, an output
    sums,  # [bags, splits, heads, queries, d], float32
    shifts,  # [bags, splits, 2, heads, queries], float32: the largest score, and the sum of exp(score - largest)
    row_stride,
    queries,
    splits,
    HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head, one block of queries, one share of a bag's rows: softmax of the scores under a running shift. The heads
    of a share are neighbours on the grid, so that all but one find its rows in the second-level cache."""
    TYPE: tl.constexpr = weight.dtype.element_ty
    head = tl.program_id(0) % HEADS
    asking = (tl.program_id(0) // HEADS) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    split = tl.program_id(1)
    bag = tl.program_id(2).to(tl.int64)
    first, count = bag_of(offsets, bag)
    rows += first * row_stride
    if statistics is not None:
        statistics += first * 2
    if made_values is not None:
        made_values += first * WIDTH
    share = tl.cdiv(tl.cdiv(count, BLOCK_ROWS), splits) * BLOCK_ROWS
    feature = tl.arange(0, HEAD_WIDTH)
    asks = asking < queries
    place = ((bag * HEADS + head) * queries + asking[:, None]) * HEAD_WIDTH + feature[None, :]
    asked = tl.load(query + place, mask=asks[:, None], other=0.0)
    key_row = head * HEAD_WIDTH + feature
    shift = tl.full([BLOCK_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_QUERIES], tl.float32)
    found = tl.zeros([BLOCK_QUERIES, HEAD_WIDTH], tl.float32)
    stop = tl.minimum((split + 1) * share, count)
    for start in range(split * share, stop, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        inside = row < stop
        key = tl.zeros([BLOCK_ROWS, HEAD_WIDTH], tl.float32)
        value = tl.zeros([BLOCK_ROWS, HEAD_WIDTH], tl.float32)
        for column_start in range(0, WIDTH, BLOCK_WIDTH):
            column = column_start + tl.arange(0, BLOCK_WIDTH)
            tile = normalised(rows, row_stride, statistics, norm_weight, norm_bias, row, inside, column, WIDTH, TYPE)
            of_key = weight + key_row[None, :] * WIDTH + column[:, None]
            within = (column < WIDTH)[:, None]
            key = tl.dot(tile, tl.load(of_key, mask=within, other=0.0), key, input_precision=PRECISION)
            of_value = of_key + WIDTH * WIDTH
            value = tl.dot(tile, tl.load(of_value, mask=within, other=0.0), value, input_precision=PRECISION)
        if bias is not None:
            key += tl.load(bias + key_row)[None, :].to(tl.float32)
            value += tl.load(bias + WIDTH + key_row)[None, :].to(tl.float32)
        value = value.to(TYPE)
        if made_values is not None:
            if tl.program_id(0) < HEADS:
                made = made_values + row.to(tl.int64)[:, None] * WIDTH + key_row[None, :]
                tl.store(made, value, mask=inside[:, None])
        scores = tl.dot(asked, tl.trans(key.to(TYPE)), input_precision=PRECISION)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(shift, tl.max(scores, 1))
        scores = tl.exp(scores - higher[:, None])
        smaller = tl.exp(shift - higher)
        total = total * smaller + tl.sum(scores, 1)
        found = tl.dot(scores.to(TYPE), value, found * smaller[:, None], input_precision=PRECISION)
        shift = higher
    line = ((bag * splits + split) * HEADS + head) * queries + asking
    tl.store(sums + line[:, None] * HEAD_WIDTH + feature[None, :], found, mask=asks[:, None])
    line = ((bag * splits + split) * 2 * HEADS + head) * queries + asking
    tl.store(shifts + line, shift, mask=asks)
    tl.store(shifts + line + HEADS * queries, total, mask=asks)


@triton.jit(do_not_specialize=["queries", "splits"])
def join_attended(
    sums,  # [bags, splits, heads, queries, d], float32
    shifts,  # [bags, splits, 2, heads, queries], float32
    offsets,  # [bags + 1], int64
    values,  # [bags, heads, queries, d], float32
    log_weight,  # [bags, heads, queries], float32
    queries,
    splits,
    HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    LANDMARKS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
):
    """One query of one head: its sums over all shares of the bag, added in a fixed order. With LANDMARKS, the zero rows
    that make the count a multiple of it are keys of score 0 with values of 0."""
    of_bag = HEADS * queries
    bag = (tl.program_id(0) // of_bag).to(tl.int64)
    asking = tl.program_id(0) % of_bag
    split = tl.arange(0, BLOCK_SPLITS)
    there = split < splits
    line = (bag * splits + split) * 2 * of_bag + asking
    shift = tl.load(shifts + line, mask=there, other=float("-inf"))
    total = tl.load(shifts + line + of_bag, mask=there, other=0.0)
    highest = tl.max(shift, 0)
    zeros = 0
    if LANDMARKS > 0:
        _, count = bag_of(offsets, bag)
        zeros = tl.cdiv(count, LANDMARKS) * LANDMARKS - count
        highest = tl.where(zeros > 0, tl.maximum(highest, 0.0), highest)
    # A bag without rows has no largest score.
    centre = tl.where(highest == float("-inf"), 0.0, highest)
    weight = tl.exp(shift - centre)
    whole = tl.sum(weight * total, 0)
    if LANDMARKS > 0:
        whole += zeros.to(tl.float32) * tl.exp(-centre)
    feature = tl.arange(0, HEAD_WIDTH)
    place = ((bag * splits + split) * of_bag + asking)[:, None] * HEAD_WIDTH + feature[None, :]
    found = tl.sum(tl.load(sums + place, mask=there[:, None], other=0.0) * weight[:, None], 0)
    nothing = whole == 0.0
    found = tl.where(nothing, 0.0, found / tl.where(nothing, 1.0, whole))
    line = bag * of_bag + asking
    tl.store(values + line * HEAD_WIDTH + feature, found)
    tl.store(log_weight + line, tl.where(nothing, float("-inf"), centre + tl.log(tl.where(nothing, 1.0, whole))))
