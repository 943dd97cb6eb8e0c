"""What info_nce needs of each row before rows are compared: lengths, own logits, and in backward logarithms of sums."""

from __future__ import annotations

import triton
import triton.language as tl

from survcore.kernels._info_nce_entries import log1p_of_exp, sigmoid, valid_rows


@triton.jit
def _inverse_length(squared, valid, NORMALIZE: tl.constexpr):
    inverse = tl.full(squared.shape, 1.0, tl.float32)
    if NORMALIZE:
        length = tl.sqrt_rn(squared)
        inverse = tl.div_rn(inverse, tl.where(length < 1e-12, 1e-12, length))
    return tl.where(valid, inverse, -1.0)


@triton.jit
def _store_unit_rows(
    values, unit_rows, inverse, valid, width, unit_width, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr
):
    for first in range(0, unit_width, BLOCK_WIDTH):
        place = first + tl.arange(0, BLOCK_WIDTH)
        value = tl.load(values[:, None] + place[None, :], mask=valid[:, None] & (place < width)[None, :], other=0.0)
        value = value.to(tl.float32) * tl.where(valid, inverse, 0.0)[:, None]
        # A length that is NaN stays in the row's own columns.
        value = tl.where(valid[:, None] & (place < width)[None, :], value, 0.0)
        target = unit_rows[:, None] + place[None, :]
        tl.store(target, value.to(unit_rows.dtype.element_ty), mask=(place < unit_width)[None, :])


@triton.jit
def _store_logarithm(numbers, plane, others, own):
    """log(exp(others) + exp(own)) in two parts of float32, so that large logits lose nothing."""
    higher = tl.where(others > own, others, own)
    distance = tl.where(others == own, 0.0, -tl.abs(others - own))
    logarithm = higher + log1p_of_exp(distance)
    high = logarithm.to(tl.float32)
    tl.store(numbers + plane, high)
    tl.store(numbers + 2 * plane, (logarithm - high.to(tl.float64)).to(tl.float32))


@triton.jit(do_not_specialize=["mask_group", "grad_group", "plane", "rows", "rank"])
def prepare(
    query,  # [groups, rows, width]
    key,  # [groups, rows, width]
    row_mask,  # [groups, rows] or None
    temperature,  # [1]
    statistics,  # [groups, 3, rows], float64; in forward the third of them is written, in backward all are read
    numbers,  # [4, groups, 2, padded]: inverse lengths, and in backward logarithms in two parts and weights of pairs
    unit_rows,  # [groups, 2, padded, unit_width], in backward; None in forward
    grad_loss,  # [groups], in backward; None stands for ones
    factors,  # [groups], float64, in backward: what all gradients of a group are multiplied by
    query_group,
    query_row,
    key_group,
    key_row,
    mask_group,
    grad_group,
    plane,  # groups * 2 * padded
    rows,
    padded,
    width,
    unit_width,
    rank,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """ROWS rows of both sides, read once in forward and twice in backward, which also writes them with length 1, rows
    that take no part as zeros. Own logits are those of rank 0: ranks' statistics are joined by adding exponentials."""
    blocks = padded // ROWS
    group = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    row = block * ROWS + tl.arange(0, ROWS)
    valid = row < rows
    if row_mask is not None:
        row_mask += group * mask_group
        valid = valid & (tl.load(row_mask + row, mask=valid, other=0) != 0)
    queries = query + group * query_group + row.to(tl.int64) * query_row
    keys = key + group * key_group + row.to(tl.int64) * key_row
    squared_query = tl.zeros([ROWS, BLOCK_WIDTH], tl.float32)
    squared_key = tl.zeros([ROWS, BLOCK_WIDTH], tl.float32)
    products = tl.zeros([ROWS, BLOCK_WIDTH], tl.float32)
    for first in range(0, width, BLOCK_WIDTH):
        place = first + tl.arange(0, BLOCK_WIDTH)
        inside = valid[:, None] & (place < width)[None, :]
        of_query = tl.load(queries[:, None] + place[None, :], mask=inside, other=0.0).to(tl.float32)
        of_key = tl.load(keys[:, None] + place[None, :], mask=inside, other=0.0).to(tl.float32)
        squared_query += of_query * of_query
        squared_key += of_key * of_key
        products += of_query * of_key
    inverse_query = _inverse_length(tl.sum(squared_query, 1), valid, NORMALIZE)
    inverse_key = _inverse_length(tl.sum(squared_key, 1), valid, NORMALIZE)
    entry = group * 2 * padded + row
    tl.store(numbers + entry, inverse_query)
    tl.store(numbers + entry + padded, inverse_key)
    degrees = tl.load(temperature).to(tl.float64)
    of_group = statistics + group * 3 * rows + row
    if unit_rows is None:
        own = tl.sum(products, 1).to(tl.float64) * inverse_query.to(tl.float64) * inverse_key.to(tl.float64) / degrees
        tl.store(of_group + 2 * rows, tl.where(valid & (rank == 0), own, float("-inf")), mask=row < rows)
    else:
        others_query = tl.load(of_group, mask=valid, other=0.0)
        others_key = tl.load(of_group + rows, mask=valid, other=0.0)
        own = tl.load(of_group + 2 * rows, mask=valid, other=0.0)
        plane = plane.to(tl.int64)
        _store_logarithm(numbers + entry, plane, others_query, own)
        _store_logarithm(numbers + entry + padded, plane, others_key, own)
        # Both softmaxes at the pair, less one each: 1 - p would be noise for pairs that are told apart.
        pair = -(sigmoid(others_query - own) + sigmoid(others_key - own)).to(tl.float32)
        tl.store(numbers + 3 * plane + entry, pair)
        tl.store(numbers + 3 * plane + entry + padded, pair)
        target = unit_rows + (group * 2 * padded + row) * unit_width
        _store_unit_rows(queries, target, inverse_query, valid, width, unit_width, ROWS, BLOCK_WIDTH)
        target += padded.to(tl.int64) * unit_width
        _store_unit_rows(keys, target, inverse_key, valid, width, unit_width, ROWS, BLOCK_WIDTH)
        if block == 0:
            count = tl.maximum(valid_rows(row_mask, rows, 1024), 1)
            factor = 1.0 / (2.0 * count.to(tl.float64) * degrees)
            if grad_loss is not None:
                factor = factor * tl.load(grad_loss + group * grad_group).to(tl.float64)
            tl.store(factors + group, factor)
