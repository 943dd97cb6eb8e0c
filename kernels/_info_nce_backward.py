"""Backward pass of info_nce: weights of pairs block by block, their products with rows, and gradients from those."""

from __future__ import annotations

import triton
import triton.language as tl

from survcore.kernels._info_nce_entries import logits_of_tile, takes_part, tile_in_bands


@triton.jit
def _shares(logits, numbers, plane, entry, AXIS: tl.constexpr, TWO_PARTS: tl.constexpr):
    """exp(logits - log of the sum of their entries), at most 1 but for rounding."""
    below = logits - tl.expand_dims(tl.load(numbers + plane + entry), AXIS)
    if TWO_PARTS:
        below -= tl.expand_dims(tl.load(numbers + 2 * plane + entry), AXIS)
    return tl.exp(tl.where(below > 0.0, 0.0, below))


@triton.jit(
    do_not_specialize=[
        "plane",
        "tiles",
        "first_group",
        "first_row_tile",
        "first_column_tile",
        "row_tiles",
        "column_tiles",
    ]
)
def weights_of_block(
    query,  # [groups, rows, width]
    key,  # [groups, rows, width]
    numbers,  # [4, groups, 2, padded]: inverse lengths, logarithms of sums in two parts, weights of pairs
    temperature,  # [1]
    weights,  # [groups of this launch, row tiles * BLOCK, column tiles * BLOCK]
    query_group,
    query_row,
    key_group,
    key_row,
    plane,  # groups * 2 * padded
    tiles,  # of one side
    first_group,
    first_row_tile,
    first_column_tile,
    row_tiles,  # of this launch
    column_tiles,  # of this launch
    width,
    AMONG: tl.constexpr,
    TWO_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of logits, made again, and with how much weight either of its entries enters the other's gradient: both
    softmaxes at it, less 2 for partners. Of entries that take no part they are some numbers: their rows are zeros."""
    of_group = row_tiles * column_tiles
    place = (tl.program_id(0) // of_group).to(tl.int64)
    row_tile, column_tile = tile_in_bands(tl.program_id(0) % of_group, row_tiles, column_tiles)
    group = first_group + place
    padded = tiles * BLOCK
    numbers += group * 2 * padded
    offset = tl.arange(0, BLOCK)
    row_entry = (first_row_tile + row_tile) * BLOCK + offset
    row_values = query + group * query_group
    row_stride = query_row
    row = row_entry
    column = (first_column_tile + column_tile) * BLOCK + offset
    column_entry = column + padded
    column_values = key + group * key_group
    column_stride = key_row
    if AMONG:
        if first_row_tile + row_tile >= tiles:
            row_values = key + group * key_group
            row_stride = key_row
            row = row_entry - padded
        column_entry = column
        if first_column_tile + column_tile < tiles:
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
    far = plane.to(tl.int64)
    weight = _shares(logits, numbers, far, row_entry, 1, TWO_PARTS)
    weight += _shares(logits, numbers, far, column_entry, 0, TWO_PARTS)
    pair = tl.load(numbers + 3 * far + row_entry)
    weight = tl.where(row[:, None] == column[None, :], pair[:, None], weight)
    if AMONG:
        weight = tl.where(row_entry[:, None] == column_entry[None, :], 0.0, weight)
    length = column_tiles * BLOCK
    line = place * row_tiles * BLOCK + row_tile * BLOCK + offset
    target = weights + line[:, None] * length + (column_tile * BLOCK + offset)[None, :]
    tl.store(target, weight.to(weights.dtype.element_ty))


@triton.jit
def _weighted(
    weights,
    unit_rows,
    line,
    place,
    count,
    length,
    unit_width,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
    BLOCK_COUNT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    found = tl.zeros([BLOCK, BLOCK_PLACES], tl.float32)
    inside = place < unit_width
    for first in range(0, count, BLOCK_COUNT):
        other = first + tl.arange(0, BLOCK_COUNT)
        if TRANSPOSED:
            left = tl.load(weights + other.to(tl.int64)[None, :] * length + line[:, None])
        else:
            left = tl.load(weights + line.to(tl.int64)[:, None] * length + other[None, :])
        right = tl.load(
            unit_rows + other.to(tl.int64)[:, None] * unit_width + place[None, :], mask=inside[None, :], other=0.0
        )
        found = tl.dot(left, right, found, input_precision=PRECISION)
    return found


@triton.jit(do_not_specialize=["first_group", "first_row", "first_column"])
def products_of_block(
    weights,  # [groups of this launch, rows, columns]
    unit_rows,  # [groups, entries, unit_width]
    sums,  # [groups, entries, unit_width], float32
    first_group,
    first_row,  # entry of the first row of weights
    first_column,  # entry of the first column of weights
    rows,  # of weights, a multiple of BLOCK and of BLOCK_COUNT
    columns,  # of weights, likewise
    entries,  # of a group: 2 * padded
    unit_width,
    BOTH: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
    BLOCK_COUNT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Rows of unit length summed with the weights of a block: those of its columns for its rows and, with BOTH, those
    of its rows for its columns. ADD to what earlier launches have found, in their order."""
    across = tl.cdiv(unit_width, BLOCK_PLACES)
    height = rows // BLOCK
    if BOTH:
        height += columns // BLOCK
    group = (tl.program_id(0) // (across * height)).to(tl.int64)
    tile = tl.program_id(0) % (across * height) // across
    place = tl.program_id(0) % across * BLOCK_PLACES + tl.arange(0, BLOCK_PLACES)
    offset = tl.arange(0, BLOCK)
    weights += group * rows * columns
    first_of_group = (first_group + group) * entries
    line = tile * BLOCK + offset
    entry = first_row + line
    if BOTH:
        if tile < rows // BLOCK:
            values = unit_rows + (first_of_group + first_column) * unit_width
            found = _weighted(
                weights,
                values,
                line,
                place,
                columns,
                columns,
                unit_width,
                False,
                BLOCK,
                BLOCK_PLACES,
                BLOCK_COUNT,
                PRECISION,
            )
        else:
            line -= rows
            entry = first_column + line
            values = unit_rows + (first_of_group + first_row) * unit_width
            found = _weighted(
                weights,
                values,
                line,
                place,
                rows,
                columns,
                unit_width,
                True,
                BLOCK,
                BLOCK_PLACES,
                BLOCK_COUNT,
                PRECISION,
            )
    else:
        values = unit_rows + (first_of_group + first_column) * unit_width
        found = _weighted(
            weights,
            values,
            line,
            place,
            columns,
            columns,
            unit_width,
            False,
            BLOCK,
            BLOCK_PLACES,
            BLOCK_COUNT,
            PRECISION,
        )
    target = sums + (first_of_group + entry)[:, None] * unit_width + place[None, :]
    inside = (place < unit_width)[None, :]
    if ADD:
        found += tl.load(target, mask=inside, other=0.0)
    tl.store(target, found, mask=inside)


@triton.jit
def _gradient(
    values,
    sums,
    inverse,
    factor,
    gradient,
    inside_rows,
    width,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Writes a side's gradients; returns how far the sums lie along their rows, [ROWS], 0 for who takes no part."""
    valid = takes_part(inverse) & inside_rows
    products = tl.zeros([ROWS, BLOCK_WIDTH], tl.float32)
    for first in range(0, width, BLOCK_WIDTH):
        place = first + tl.arange(0, BLOCK_WIDTH)
        inside = valid[:, None] & (place < width)[None, :]
        value = tl.load(values[:, None] + place[None, :], mask=inside, other=0.0).to(tl.float32)
        found = tl.load(sums[:, None] + place[None, :], mask=inside, other=0.0)
        products += (value * inverse[:, None]) * found
    along = tl.where(valid, tl.sum(products, 1), 0.0)
    radial = tl.zeros([ROWS], tl.float32)
    if NORMALIZE:
        # A length that was raised to the least one does not depend on the row.
        radial = tl.where(inverse >= 0.999e12, 0.0, along)
    scale = inverse * factor.to(tl.float32)
    for first in range(0, width, BLOCK_WIDTH):
        place = first + tl.arange(0, BLOCK_WIDTH)
        inside = valid[:, None] & (place < width)[None, :]
        value = tl.load(values[:, None] + place[None, :], mask=inside, other=0.0).to(tl.float32)
        found = tl.load(sums[:, None] + place[None, :], mask=inside, other=0.0)
        result = scale[:, None] * (found - radial[:, None] * (value * inverse[:, None]))
        result = tl.where(inside, result, 0.0).to(gradient.dtype.element_ty)
        tl.store(gradient[:, None] + place[None, :], result, mask=inside_rows[:, None] & (place < width)[None, :])
    return along


@triton.jit(do_not_specialize=["rows"])
def gradients_of_rows(
    query,  # [groups, rows, width]
    key,  # [groups, rows, width]
    sums,  # [groups, 2, padded, unit_width]
    numbers,  # [groups, 2, padded]
    factors,  # [groups], float64
    temperature,  # [1]
    to_query,  # [groups, rows, width], contiguous
    to_key,  # [groups, rows, width], contiguous
    parts,  # [groups, padded // ROWS], float64: of the temperature's gradient
    query_group,
    query_row,
    key_group,
    key_row,
    rows,
    padded,
    width,
    unit_width,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """ROWS rows of both sides, read twice: what the sums become through scaling to length 1, masked rows 0, and the
    part of the temperature's gradient that falls out of it."""
    blocks = padded // ROWS
    group = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    entry = group * 2 * padded + row
    factor = tl.load(factors + group)
    start = (group * rows + row) * width
    along = _gradient(
        query + group * query_group + row.to(tl.int64) * query_row,
        sums + entry * unit_width,
        tl.load(numbers + entry),
        factor,
        to_query + start,
        inside,
        width,
        NORMALIZE,
        ROWS,
        BLOCK_WIDTH,
    )
    along += _gradient(
        key + group * key_group + row.to(tl.int64) * key_row,
        sums + (entry + padded) * unit_width,
        tl.load(numbers + entry + padded),
        factor,
        to_key + start,
        inside,
        width,
        NORMALIZE,
        ROWS,
        BLOCK_WIDTH,
    )
    degrees = tl.load(temperature).to(tl.float64)
    # All of the group's entries enter the loss through logits that are proportional to 1 / temperature.
    tl.store(parts + tl.program_id(0), tl.sum(along.to(tl.float64), 0) * factor * -0.5 / degrees)
