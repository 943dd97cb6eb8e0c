"""New rows of a Nystrom layer: attention to the landmarks and convolution of values, then the output projection."""

from __future__ import annotations

import triton
import triton.language as tl

from survcore.kernels._nystrom_rows import bag_of, normalised


@triton.jit
def _band(residual, head, row, neighbour, TAPS: tl.constexpr, TYPE: tl.constexpr):
    """The convolution as a matrix [R, neighbours]: a tap of the head's kernel where a neighbour is in reach."""
    tap = neighbour[None, :] - row[:, None] + TAPS // 2
    return tl.load(residual + head * TAPS + tap, mask=(tap >= 0) & (tap < TAPS), other=0.0).to(TYPE)


@triton.jit(do_not_specialize=["kept", "of_bag"])
def mix_tiles(
    rows,  # [N, D]
    values,  # [N, D]: v of all rows
    offsets,  # [bags + 1], int64
    statistics,  # [N, 2]
    norm_weight,  # [D]
    norm_bias,  # [D]
    query_weight,  # [D, D]
    residual,  # [heads, TAPS]
    landmark_key,  # [bags, heads, landmarks, d]
    landmark_value,  # [bags, heads, landmarks, d]
    mixed,  # [N, D], or [bags, of_bag, D]
    row_stride,
    kept,
    of_bag,
    scale,
    HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    LANDMARKS: tl.constexpr,
    BLOCK_LANDMARKS: tl.constexpr,
    BLOCK_NEIGHBOURS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    HELD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of a bag's rows, all heads one after the other.

    Values are read with those of half a kernel's rows on either side of the tile. HELD, the normalised tile stays on
    the chip, else it is made for each head from what the caches hold."""
    TYPE: tl.constexpr = query_weight.dtype.element_ty
    HALF: tl.constexpr = TAPS // 2
    start = tl.program_id(0) * BLOCK_ROWS
    bag = tl.program_id(1).to(tl.int64)
    first, count = bag_of(offsets, bag)
    if start < tl.minimum(count, kept):
        rows += first * row_stride
        values += first * WIDTH
        statistics += first * 2
        row = start + tl.arange(0, BLOCK_ROWS)
        inside = row < count
        feature = tl.arange(0, HEAD_WIDTH)
        wanted = (row < tl.minimum(count, kept))[:, None]
        base = first
        if of_bag > 0:
            base = bag * of_bag
        own_mixed = mixed + (base + row.to(tl.int64))[:, None] * WIDTH + feature[None, :]
        if HELD:
            column = tl.arange(0, BLOCK_WIDTH)
            tile = normalised(rows, row_stride, statistics, norm_weight, norm_bias, row, inside, column, WIDTH, TYPE)
        for head in range(HEADS):
            weight_row = head * HEAD_WIDTH + feature
            query = tl.zeros([BLOCK_ROWS, HEAD_WIDTH], tl.float32)
            if HELD:
                place = weight_row[None, :] * WIDTH + column[:, None]
                of_query = tl.load(query_weight + place, mask=(column < WIDTH)[:, None], other=0.0)
                query = tl.dot(tile, of_query, query)
            else:
                for column_start in range(0, WIDTH, BLOCK_WIDTH):
                    column = column_start + tl.arange(0, BLOCK_WIDTH)
                    tile = normalised(
                        rows, row_stride, statistics, norm_weight, norm_bias, row, inside, column, WIDTH, TYPE
                    )
                    place = weight_row[None, :] * WIDTH + column[:, None]
                    of_query = tl.load(query_weight + place, mask=(column < WIDTH)[:, None], other=0.0)
                    query = tl.dot(tile, of_query, query, input_precision=PRECISION)
            asked = (query * scale).to(TYPE)
            of_head = (bag * HEADS + head) * LANDMARKS * HEAD_WIDTH
            shift = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
            total = tl.zeros([BLOCK_ROWS], tl.float32)
            new = tl.zeros([BLOCK_ROWS, HEAD_WIDTH], tl.float32)
            for block in range(0, LANDMARKS, BLOCK_LANDMARKS):
                landmark = block + tl.arange(0, BLOCK_LANDMARKS)
                known = landmark < LANDMARKS
                of_landmark = landmark_key + of_head + landmark[None, :] * HEAD_WIDTH + feature[:, None]
                scores = tl.dot(asked, tl.load(of_landmark, mask=known[None, :], other=0.0), input_precision=PRECISION)
                scores = tl.where(known[None, :], scores, float("-inf"))
                higher = tl.maximum(shift, tl.max(scores, 1))
                scores = tl.exp(scores - higher[:, None])
                smaller = tl.exp(shift - higher)
                total = total * smaller + tl.sum(scores, 1)
                of_landmark = landmark_value + of_head + landmark[:, None] * HEAD_WIDTH + feature[None, :]
                found = tl.load(of_landmark, mask=known[:, None], other=0.0)
                new = tl.dot(scores.to(TYPE), found, new * smaller[:, None], input_precision=PRECISION)
                shift = higher
            new = new / total[:, None]
            for block in range(0, BLOCK_ROWS + TAPS - 1, BLOCK_NEIGHBOURS):
                near = start - HALF + block + tl.arange(0, BLOCK_NEIGHBOURS)
                exists = ((near >= 0) & (near < count))[:, None]
                of_near = values + near.to(tl.int64)[:, None] * WIDTH + weight_row[None, :]
                value = tl.load(of_near, mask=exists, other=0.0)
                band = _band(residual, head, row, near, TAPS, TYPE)
                new = tl.dot(band, value, new, input_precision=PRECISION)
            tl.store(own_mixed + head * HEAD_WIDTH, new.to(TYPE), mask=wanted)


@triton.jit(do_not_specialize=["kept", "of_bag"])
def project_tiles(
    rows,  # [N, D]
    mixed,  # [N, D], or [bags, of_bag, D]
    offsets,  # [bags + 1], int64
    weight,  # [D, D]
    bias,  # [D]
    results,  # [N, D], or [bags, of_bag, D]
    row_stride,
    kept,
    of_bag,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUT: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """rows + mixed weight^T + bias, one tile of a bag's rows and columns. In a kernel of its own: the sums of all
    columns would leave the heads of a tile no registers."""
    blocks = tl.cdiv(WIDTH, BLOCK_OUTPUT)
    output = tl.program_id(0) % blocks * BLOCK_OUTPUT + tl.arange(0, BLOCK_OUTPUT)
    start = tl.program_id(0) // blocks * BLOCK_ROWS
    bag = tl.program_id(1).to(tl.int64)
    first, count = bag_of(offsets, bag)
    stop = tl.minimum(count, kept)
    if start < stop:
        row = (start + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        inside = (row < stop)[:, None]
        written = (output < WIDTH)[None, :]
        base = first
        if of_bag > 0:
            base = bag * of_bag
        place = (base + row)[:, None] * WIDTH
        total = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUT], tl.float32)
        for column_start in range(0, WIDTH, BLOCK_WIDTH):
            column = column_start + tl.arange(0, BLOCK_WIDTH)
            within = column < WIDTH
            left = tl.load(mixed + place + column[None, :], mask=inside & within[None, :], other=0.0)
            right = weight + output[None, :] * WIDTH + column[:, None]
            right = tl.load(right, mask=written & within[:, None], other=0.0)
            total = tl.dot(left, right, total, input_precision=PRECISION)
        total += tl.load(bias + output, mask=output < WIDTH, other=0.0)[None, :].to(tl.float32)
        both = inside & written
        row = rows + (first + row)[:, None] * row_stride + output[None, :]
        total += tl.load(row, mask=both, other=0.0).to(tl.float32)
        tl.store(results + place + output[None, :], total.to(results.dtype.element_ty), mask=both)
