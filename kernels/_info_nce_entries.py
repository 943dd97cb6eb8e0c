"""Device code that the passes of info_nce share: entries, their logits, and sums of shifted exponentials.

Rows of query and key are the entries of one list, first those of query, in tiles of BLOCK: ``padded`` of each side, of
which those past the last row are nobody's. An entry's number in ``numbers[0]`` is what its row is multiplied by to have
length 1 (1 where rows are not normalised), and -1 for who takes no part, so that it says both.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def takes_part(inverse_length):
    """Whether an entry is compared with others; one that is NaN is."""
    return (inverse_length < 0.0) == 0


@triton.jit
def tile_in_bands(place, row_tiles, column_tiles):
    """Row and column of a tile. Bands of eight rows of tiles go column by column: what they share stays in cache."""
    of_band = 8 * column_tiles
    first = (place // of_band) * 8
    height = tl.minimum(row_tiles - first, 8)
    return first + (place % of_band) % height, (place % of_band) // height


@triton.jit
def logits_of_tile(
    row_values,  # of the tile's rows, [.., width] with a row_stride
    column_values,  # of the tile's columns, [.., width] with a column_stride
    row,  # [BLOCK]
    column,  # [BLOCK]
    row_stride,
    column_stride,
    row_inverse,  # [BLOCK], see above
    column_inverse,  # [BLOCK]
    temperature,  # [1]
    width,
    BLOCK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Logits of a tile's rows and columns, [BLOCK, BLOCK]. Lengths are divided out of the products and not of the rows:
    half-precision ones enter as they are, and products are as exact as float32 sums."""
    row_start = row_values + row.to(tl.int64) * row_stride
    column_start = column_values + column.to(tl.int64) * column_stride
    row_valid = takes_part(row_inverse)
    column_valid = takes_part(column_inverse)
    products = tl.zeros([BLOCK, BLOCK], tl.float32)
    for first in range(0, width, BLOCK_WIDTH):
        place = first + tl.arange(0, BLOCK_WIDTH)
        inside = place < width
        left = tl.load(row_start[:, None] + place[None, :], mask=row_valid[:, None] & inside[None, :], other=0.0)
        right = tl.load(column_start[None, :] + place[:, None], mask=column_valid[None, :] & inside[:, None], other=0.0)
        products = tl.dot(left, right, products, input_precision=PRECISION)
    # Rounded once: of cold logits every rounding shows in the weights of pairs.
    row_scale = (row_inverse.to(tl.float64) * (1.0 / tl.load(temperature).to(tl.float64))).to(tl.float32)
    return products * (row_scale[:, None] * column_inverse[None, :])


@triton.jit
def exp_below(value, shift):
    """exp(value - shift) of what is at most the shift; 1 where they are equal, infinite ones included."""
    return tl.where(value == shift, 1.0, tl.exp(value - shift))


@triton.jit
def log1p_of_exp(x):
    """log(1 + exp(x)) in float64, with the relative accuracy of float64; infinite x included."""
    small = tl.exp(-tl.abs(x))
    total = 1.0 + small
    exact = total - 1.0
    nothing = exact == 0.0
    corrected = tl.log(total) * (small / tl.where(nothing, 1.0, exact))
    return tl.where(x > 0.0, x, 0.0) + tl.where(nothing, small, corrected)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) in float64; infinite x included."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x > 0.0, 1.0, small) / (1.0 + small)


@triton.jit
def valid_rows(row_mask, rows, BLOCK: tl.constexpr):
    """How many rows of a group take part; row_mask, [rows], is that group's, or None."""
    count = rows
    if row_mask is not None:
        found = tl.zeros([BLOCK], tl.int32)
        for first in range(0, rows, BLOCK):
            row = first + tl.arange(0, BLOCK)
            found += (tl.load(row_mask + row, mask=row < rows, other=0) != 0).to(tl.int32)
        count = tl.sum(found, 0)
    return count


@triton.jit(do_not_specialize=["count"])
def add_parts(
    parts,  # [outputs, count], float64
    total,  # [outputs]
    count,
    BLOCK: tl.constexpr,
):
    """Sums of rows of parts in a fixed order, one program each; 0 of none."""
    row = tl.program_id(0)
    found = tl.zeros([BLOCK], tl.float64)
    for first in range(0, count, BLOCK):
        place = first + tl.arange(0, BLOCK)
        found += tl.load(parts + row.to(tl.int64) * count + place, mask=place < count, other=0.0)
    result = tl.sum(found, 0)
    if total.dtype.element_ty != tl.float64:
        result = result.to(tl.float32).to(total.dtype.element_ty)
    tl.store(total + row, result)
