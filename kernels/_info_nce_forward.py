"""Forward pass of info_nce: sums of exponentials of tiles of logits, and what becomes of them."""

from __future__ import annotations

import triton
import triton.language as tl

from survcore.kernels._info_nce_entries import (
    exp_below,
    log1p_of_exp,
    logits_of_tile,
    takes_part,
    tile_in_bands,
    valid_rows,
)


@triton.jit
def _store_sums(parts, apart, logits, shift, AXIS: tl.constexpr):
    # A shift of a row without logits, or with an infinite one, would make NaN of it.
    centre = tl.where(tl.abs(shift) == float("inf"), 0.0, shift)
    sums = tl.sum(tl.exp(logits - tl.expand_dims(centre, AXIS)), AXIS)
    tl.store(parts, shift)
    tl.store(parts + apart, sums)


@triton.jit(do_not_specialize=["tiles", "first_tile", "row_tiles"])
def sums_of_tiles(
    query,  # [groups, rows, width]
    key,  # [groups, rows, width]
    numbers,  # [groups, 2, padded]
    temperature,  # [1]
    row_parts,  # [groups, column tiles, 2, row tiles * BLOCK]: shifts and sums of the rows of each tile
    column_parts,  # [groups, row tiles, 2, padded]: of the columns of each tile; None if AMONG
    query_group,
    query_row,
    key_group,
    key_row,
    tiles,  # of one side
    first_tile,  # of the rows of this launch
    row_tiles,  # of this launch
    width,
    AMONG: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of logits, made by one product and never stored: the largest of each row and the sum of
    exp(s - largest), and, between sides, those of each column. Logits of an entry with itself and with its partner are
    left out."""
    column_tiles = tiles
    if AMONG:
        column_tiles = 2 * tiles
    group = (tl.program_id(0) // (row_tiles * column_tiles)).to(tl.int64)
    row_tile, column_tile = tile_in_bands(tl.program_id(0) % (row_tiles * column_tiles), row_tiles, column_tiles)
    padded = tiles * BLOCK
    numbers += group * 2 * padded
    offset = tl.arange(0, BLOCK)
    row_entry = (first_tile + row_tile) * BLOCK + offset
    row_values = query + group * query_group
    row_stride = query_row
    row = row_entry
    column = column_tile * BLOCK + offset
    column_entry = column + padded
    column_values = key + group * key_group
    column_stride = key_row
    if AMONG:
        if first_tile + row_tile >= tiles:
            row_values = key + group * key_group
            row_stride = key_row
            row = row_entry - padded
        column_entry = column
        if column_tile < tiles:
            column_values = query + group * query_group
            column_stride = query_row
        else:
            column = column_entry - padded
    row_inverse = tl.load(numbers + row_entry)
    column_inverse = tl.load(numbers + column_entry)
    logits = logits_of_tile(
        row_values,
        column_values,
        row,
        column,
        row_stride,
        column_stride,
        row_inverse,
        column_inverse,
        temperature,
        width,
        BLOCK,
        BLOCK_WIDTH,
        PRECISION,
    )
    compared = takes_part(row_inverse)[:, None] & takes_part(column_inverse)[None, :]
    compared = compared & (row[:, None] != column[None, :])
    logits = tl.where(compared, logits, float("-inf"))
    stripe = row_tiles * BLOCK
    place = (group * column_tiles + column_tile) * 2 * stripe + row_tile * BLOCK + offset
    _store_sums(row_parts + place, stripe, logits, tl.max(logits, 1), 1)
    if not AMONG:
        place = (group * row_tiles + row_tile) * 2 * padded + column_tile * BLOCK + offset
        _store_sums(column_parts + place, padded, logits, tl.max(logits, 0), 0)


@triton.jit
def _with_parts(shift, total, parts, count, length, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """Shifts and float64 sums of BLOCK entries with those of ``count`` tiles added, which lie 2 * length apart."""
    for first in range(0, count, PARTS):
        part = first + tl.arange(0, PARTS)
        place = parts + part.to(tl.int64)[:, None] * (2 * length) + tl.arange(0, BLOCK)[None, :]
        inside = (part < count)[:, None]
        shifts = tl.load(place, mask=inside, other=float("-inf"))
        sums = tl.load(place + length, mask=inside, other=0.0)
        higher = tl.maximum(shift, tl.max(shifts, 0))
        scaled = sums.to(tl.float64) * exp_below(shifts, higher[None, :]).to(tl.float64)
        total = total * exp_below(shift, higher).to(tl.float64) + tl.sum(scaled, 0)
        shift = higher
    return shift, total


@triton.jit(
    do_not_specialize=["mask_group", "rows", "tiles", "first_tile", "row_tiles", "tiles_of_program", "programs"]
)
def join_parts(
    row_parts,  # [groups, column tiles, 2, row tiles * BLOCK]
    column_parts,  # [groups, row tiles, 2, padded], or None
    kept_shifts,  # [groups, 2, padded], from launch to launch; None if FIRST and LAST
    kept_sums,  # [groups, 2, padded], float64; likewise
    numbers,  # [groups, 2, padded]
    row_mask,  # [groups, rows] or None
    statistics,  # [groups, 3, rows], float64
    losses,  # [groups, programs of a group]: parts of the mean loss
    mask_group,
    rows,
    tiles,  # of one side
    first_tile,  # of the rows that were compared
    row_tiles,  # of them
    tiles_of_program,
    programs,  # of a group
    AMONG: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Adds the sums of all tiles of an entry in a fixed order, in float64, and in the last launch turns them into the
    statistics and the loss: 16 bytes are read per entry and tile."""
    group = (tl.program_id(0) // programs).to(tl.int64)
    first_of_program = (tl.program_id(0) % programs) * tiles_of_program
    padded = tiles * BLOCK
    stripe = row_tiles * BLOCK
    column_tiles = tiles
    if AMONG:
        column_tiles = 2 * tiles
    offset = tl.arange(0, BLOCK)
    terms = tl.zeros([BLOCK], tl.float64)
    for tile in range(first_of_program, tl.minimum(first_of_program + tiles_of_program, 2 * tiles)):
        side = (tile >= tiles).to(tl.int32)
        row = (tile - side * tiles) * BLOCK + offset
        entry = group * 2 * padded + tile * BLOCK + offset
        shift = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float64)
        if not FIRST:
            shift = tl.load(kept_shifts + entry)
            total = tl.load(kept_sums + entry)
        place = tile - first_tile
        compared = (place >= 0) & (place < row_tiles)
        parts = row_parts + group * column_tiles * 2 * stripe + place * BLOCK
        shift, total = _with_parts(shift, total, parts, tl.where(compared, column_tiles, 0), stripe, BLOCK, PARTS)
        if not AMONG:
            parts = column_parts + group * row_tiles * 2 * padded + (tile - tiles) * BLOCK
            shift, total = _with_parts(shift, total, parts, row_tiles * side, padded, BLOCK, PARTS)
        if LAST:
            valid = takes_part(tl.load(numbers + entry))
            nothing = total == 0.0
            others = tl.where(nothing, float("-inf"), tl.log(tl.where(nothing, 1.0, total)) + shift.to(tl.float64))
            of_group = statistics + group * 3 * rows + row
            own = tl.load(of_group + 2 * rows, mask=row < rows, other=0.0)
            terms += tl.where(valid, log1p_of_exp(tl.where(valid, others - own, 0.0)), 0.0)
            tl.store(of_group + side * rows, others, mask=row < rows)
        else:
            tl.store(kept_shifts + entry, shift)
            tl.store(kept_sums + entry, total)
    if LAST:
        if row_mask is not None:
            row_mask += group * mask_group
        count = tl.maximum(valid_rows(row_mask, rows, 1024), 1)
        mean = tl.sum(terms, 0) / (2.0 * count.to(tl.float64))
        tl.store(losses + tl.program_id(0), mean.to(losses.dtype.element_ty))
