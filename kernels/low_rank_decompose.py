"""low_rank_decompose: modality-specific and shared low-rank parts of representations (MUST), and three losses of them.

A part is u_m, called part (m, m), or c_{m<-n}, part (m, n): M^2 parts of a row. With P = B B^T (never formed) the
projected parts are hat_mm = u_m - P u_m and hat_mn = P c_mn. ``survcore/reference/low_rank_decompose.py`` has the
mathematics. What depends on one part alone, the products with the basis, runs over tiles of rows times parts, so that
a small batch fills the device; what couples the parts of a row runs over rows times modalities, a warp for a row of
usual width.

Forward, three launches:

1. ``_project_parts`` projects the parts; its first M^2 programs count the rows of every pair meanwhile.
2. ``_row_losses`` takes the losses of each row from its projected parts.
3. ``_sum_partials`` adds the programs' sums in a fixed order.

Backward, four launches:

1. ``_weigh_pairs`` counts the rows of every pair; in half precision ``_project_parts`` does, and makes the projected
   parts again, which forward returned rounded.
2. ``_part_gradients`` forms G, the gradients of the projected parts, and that of ``whole``.
3. ``_project_gradients``: P G, or G - P G, for the parts, and partial sums of the basis's X^T (G B) + G^T (X B).
4. ``_sum_partials``.

With N = M^2 B parts of D float32 values, forward moves at least 4 (2 N + 2 M B) D bytes and makes 4 N D r FLOP,
backward 4 (4 N + 2 M B) D bytes and 10 N D r FLOP (14 in half precision); the projected parts and G pass between
launches in float32, through L2 at the sizes of a training batch. Products of float32 values are three tf32 products
each (tf32x3), which keep float32's accuracy; values in half precision are exact in tf32. Sums over rows are made in
float64 and in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from survcore.kernels._launch import launch

_EPSILON = tl.constexpr(1e-8)  # smallest norm that a cosine divides by
_MOST_WIDTH = 4096  # a row is held in registers
_MOST_RANK = 128  # as are the coordinates of a tile of rows
_MOST_MODALITIES = 31  # what a row owns are the bits of a number
# The width decides how loads are aligned, these do not: what is compiled for one value serves every other.
_COUNTS = ("modalities", "rows", "specific_step", "tiles", "terms")
_TILE = 32  # rows, and columns at a time, of a product of usual rank
_COUNTED_ROWS = 1024  # rows counted at a time
_MOST_ROW_PROGRAMS = 4096  # each has a partial sum of the losses
_MOST_BASIS_PROGRAMS = 256  # each has a partial gradient of the basis, unless there are more parts


@triton.jit
def _owned(availability, row, modality, modalities, rows):
    """Which rows own a modality."""
    return tl.load(availability + row * modalities + modality, mask=row < rows, other=0) != 0


@triton.jit
def _ownership(availability, row, modalities, rows, MODALITIES: tl.constexpr):
    """What each row owns, as the bits of a number, and how many modalities that are: one load for all that follows."""
    modality = tl.arange(0, MODALITIES)
    read = (row < rows)[:, None] & (modality < modalities)[None, :]
    place = row[:, None] * modalities + modality[None, :]
    owned = (tl.load(availability + place, mask=read, other=0) != 0).to(tl.int32)
    return tl.sum(owned << modality[None, :], 1), tl.sum(owned, 1)


@triton.jit
def _has(ownership, modality):
    return ((ownership >> modality) & 1) != 0


@triton.jit
def _places(block, row, column, rows, width):
    """Offsets of rows and columns in a block of [.., rows, width]."""
    return (tl.cast(block, tl.int64) * rows + row)[:, None] * width + column[None, :]


@triton.jit
def _load_rows(values, block, row, column, mask, rows, width):
    """Rows in float32, 0 where the mask of rows is False."""
    read = mask[:, None] & (column < width)[None, :]
    return tl.load(values + _places(block, row, column, rows, width), mask=read, other=0.0).to(tl.float32)


@triton.jit
def _store_rows(target, block, row, column, values, mask, rows, width):
    """Rows where the mask of rows is True."""
    written = mask[:, None] & (column < width)[None, :]
    tl.store(target + _places(block, row, column, rows, width), values, mask=written)


@triton.jit
def _store_part(specific, cross, m, n, row, column, values, modalities, rows, width):
    """Rows of part (m, n); u_m takes the unused diagonal of the cross parts along, which is 0."""
    inside = row < rows
    if m == n:
        _store_rows(specific, m, row, column, values, inside, rows, width)
        _store_rows(cross, m * modalities + n, row, column, tl.zeros_like(values), inside, rows, width)
    else:
        _store_rows(cross, m * modalities + n, row, column, values, inside, rows, width)


@triton.jit
def _load_basis(basis, column, axis, width, rank):
    """Rows ``column`` of the basis in float32, 0 beyond its end."""
    inside = (column < width)[:, None] & (axis < rank)[None, :]
    return tl.load(basis + column[:, None] * rank + axis[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _weigh_pair(availability, weights, pair, modalities, rows, COUNTED: tl.constexpr):
    """1 / rows that own m and n, or m and any other modality where n is m; 0 where there is none."""
    m = pair // modalities
    n = pair % modalities
    count = tl.zeros((COUNTED,), tl.int32)
    for first in range(0, rows, COUNTED):
        row = tl.cast(first, tl.int64) + tl.arange(0, COUNTED)
        accompanied = tl.zeros((COUNTED,), tl.int1)
        for other in range(modalities):
            counts = (other != m) & ((m == n) | (other == n))
            accompanied = accompanied | (_owned(availability, row, other, modalities, rows) & counts)
        count += (accompanied & _owned(availability, row, m, modalities, rows)).to(tl.int32)
    total = tl.sum(count, 0)
    weight = tl.where(total > 0, 1.0 / tl.maximum(total, 1).to(tl.float64), 0.0)
    tl.store(weights + pair, weight.to(tl.float32))


@triton.jit(do_not_specialize=_COUNTS)
def _weigh_pairs(
    availability,  # [B, M]
    weights,  # [M, M] float32, written
    modalities,
    rows,
    COUNTED: tl.constexpr,
):
    """A program for each pair. Reads the availability at most M^3 times, which is small beside the parts."""
    _weigh_pair(availability, weights, tl.program_id(0), modalities, rows, COUNTED)


@triton.jit(do_not_specialize=_COUNTS)
def _project_parts(
    specific,  # [M, B, D]
    cross,  # [M, M, B, D]
    basis,  # [D, r]
    availability,  # [B, M]
    specific_hat,  # [M, B, D], written, or None
    cross_hat,  # [M, M, B, D], written, or None
    wide,  # all projected parts [M, M, B, D] float32, written, or None
    weights,  # [M, M] float32, written
    modalities,
    rows,
    width,
    rank,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    PRECISION: tl.constexpr,
    COUNTED: tl.constexpr,
):
    """A program projects a tile of rows of one part: its coordinates X B stay in registers, [ROWS, RANK].

    4 D r FLOP per part, in two passes over chunks of columns: the basis is read twice, a cross part once, a specific
    part again (from cache) for what is left of it.
    """
    parts = modalities * modalities
    program = tl.program_id(0)
    if program < parts:
        _weigh_pair(availability, weights, program, modalities, rows, COUNTED)
    else:
        part = program % parts
        m = part // modalities
        n = part % modalities
        if m == n:
            source = specific + tl.cast(m, tl.int64) * rows * width
        else:
            source = cross + tl.cast(part, tl.int64) * rows * width
        row = tl.cast(program // parts - 1, tl.int64) * ROWS + tl.arange(0, ROWS)
        owned = _owned(availability, row, m, modalities, rows) & _owned(availability, row, n, modalities, rows)
        axis = tl.arange(0, RANK)
        coordinates = tl.zeros((ROWS, RANK), tl.float32)
        for first in range(0, width, WIDTH):
            column = first + tl.arange(0, WIDTH)
            values = _load_rows(source, 0, row, column, owned, rows, width)
            axes = _load_basis(basis, column, axis, width, rank)
            coordinates = tl.dot(values, axes, coordinates, input_precision=PRECISION)
        for first in range(0, width, WIDTH):
            column = first + tl.arange(0, WIDTH)
            values = _load_rows(source, 0, row, column, owned & (m == n), rows, width)
            axes = _load_basis(basis, column, axis, width, rank)
            hat = tl.dot(coordinates, tl.trans(axes), input_precision="tf32x3")
            hat = tl.where(m == n, values - hat, hat)
            # An infinite basis makes NaN of the zeros that stand for what a row lacks.
            hat = tl.where(owned[:, None], hat, 0.0)
            if wide is not None:
                _store_rows(wide, part, row, column, hat, owned, rows, width)
            if specific_hat is not None:
                _store_part(specific_hat, cross_hat, m, n, row, column, hat, modalities, rows, width)


@triton.jit
def _hold(norm):
    """A norm held above epsilon; NaN stays."""
    return tl.where(norm < _EPSILON, _EPSILON, norm)


@triton.jit
def _norm(values):
    return tl.sqrt_rn(tl.sum(values * values, 1))


@triton.jit
def _absolute_cosine(left, right, left_norm, right_norm):
    return tl.abs(tl.sum(left * right, 1) / (_hold(left_norm) * _hold(right_norm)))


@triton.jit(do_not_specialize=_COUNTS)
def _row_losses(
    specific_hat,  # u_hat_m at [m * specific_step], blocks of [B, D] float32
    cross_hat,  # [M, M, B, D] float32
    whole,  # [M, B, D]
    availability,  # [B, M]
    weights,  # [M, M] float32
    partial,  # [programs, 3] float64, written
    modalities,
    rows,
    width,
    specific_step,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    MODALITIES: tl.constexpr,
):
    """A program takes every programs'th of the groups of ROWS rows times modalities n, and adds up what is due to n:
    its residual, and its pairs with every other m.

    Bound by its loads: every projected part and ``whole`` come from memory once, and up to M times more from cache.
    """
    program = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    decomposition = tl.zeros((ROWS,), tl.float64)
    shared = tl.zeros((ROWS,), tl.float64)
    orthogonality = tl.zeros((ROWS,), tl.float64)
    for item in range(program, tl.cdiv(rows, ROWS) * modalities, tl.num_programs(0)):
        n = item % modalities
        row = tl.cast(item // modalities, tl.int64) * ROWS + tl.arange(0, ROWS)
        ownership, size = _ownership(availability, row, modalities, rows, MODALITIES)
        owned = _has(ownership, n)
        accompanied = owned & (size > 1)
        own = _load_rows(specific_hat, n * specific_step, row, column, owned, rows, width)
        residual = _load_rows(whole, n, row, column, accompanied, rows, width) - own
        own_norm = _norm(own)
        inverse = 1.0 / tl.maximum(size - 1, 1).to(tl.float32)[:, None]
        for step in range(1, modalities):
            m = (n + step) % modalities
            pair = owned & _has(ownership, m)
            once = pair & (m < n)
            weight = tl.load(weights + m * modalities + n)
            given = _load_rows(cross_hat, m * modalities + n, row, column, pair, rows, width)
            taken = _load_rows(cross_hat, n * modalities + m, row, column, once, rows, width)
            other = _load_rows(specific_hat, m * specific_step, row, column, pair, rows, width)
            residual -= given * inverse
            difference = given - taken
            distance = tl.where(once, tl.sum(difference * difference, 1), 0.0)
            shared += (weight * distance).to(tl.float64)
            other_norm = _norm(other)
            within = tl.where(pair, _absolute_cosine(other, given, other_norm, _norm(given)), 0.0)
            between = tl.where(once, _absolute_cosine(own, other, own_norm, other_norm), 0.0)
            orthogonality += (weight * (within + between)).to(tl.float64)
        distance = tl.where(accompanied, tl.sum(residual * residual, 1), 0.0)
        weight = tl.load(weights + n * modalities + n)
        decomposition += (weight * distance).to(tl.float64)
    target = partial + tl.cast(program, tl.int64) * 3
    tl.store(target, tl.sum(decomposition, 0))
    tl.store(target + 1, tl.sum(shared, 0))
    tl.store(target + 2, tl.sum(orthogonality, 0))


@triton.jit(do_not_specialize=_COUNTS)
def _sum_partials(
    partial,  # [terms, count]
    result,  # [count], written
    terms,
    count,
    TERMS: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Sums over the terms in float64 and in their order, COUNT of them per program."""
    column = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    total = tl.zeros((COUNT,), tl.float64)
    for first in range(0, terms, TERMS):
        term = tl.cast(first, tl.int64) + tl.arange(0, TERMS)
        inside = (term < terms)[:, None] & (column < count)[None, :]
        values = tl.load(partial + term[:, None] * count + column[None, :], mask=inside, other=0.0)
        total += tl.sum(values.to(tl.float64), 0)
    tl.store(result + column, total.to(tl.float32), mask=column < count)


@triton.jit
def _cosine_gradient(own, other, own_norm, other_norm, factor, exists):
    """Gradient of factor |cos| on one's own side, in the rows where it exists.

    A norm held at epsilon is constant, and the subgradient at 0 is 0.
    """
    held = _hold(own_norm) * _hold(other_norm)
    cosine = tl.sum(own * other, 1) / held
    signed = tl.where(cosine > 0, factor, tl.where(cosine < 0, -factor, factor * cosine))
    across = signed / held
    along = tl.where(own_norm < _EPSILON, 0.0, signed * cosine / (own_norm * own_norm))
    return tl.where(exists[:, None], across[:, None] * other - along[:, None] * own, 0.0)


@triton.jit(do_not_specialize=_COUNTS)
def _part_gradients(
    grad_specific,  # [M, B, D], or None
    grad_cross,  # [M, M, B, D], or None
    grad_losses,  # [3], or None
    specific_hat,  # u_hat_m at [m * specific_step], blocks of [B, D] float32
    cross_hat,  # [M, M, B, D] float32
    whole,  # [M, B, D]
    availability,  # [B, M]
    weights,  # [M, M] float32
    gradients,  # G of all parts [M, M, B, D] float32, written where the row owns the part
    grad_whole,  # [M, B, D], written
    modalities,
    rows,
    width,
    specific_step,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    MODALITIES: tl.constexpr,
):
    """A program takes ROWS rows, whose vectors are held in registers, of one modality n: its residual, then G of
    c_{m<-n} for every other m, and of u_n.

    Bound by its loads: parts, gradients of the results and ``whole`` come from memory once, and up to M times more from
    cache; G and the gradient of ``whole`` are written once.
    """
    n = tl.program_id(0) % modalities
    row = tl.cast(tl.program_id(0) // modalities, tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    if grad_losses is not None:
        by_decomposition = tl.load(grad_losses).to(tl.float32)
        by_shared = tl.load(grad_losses + 1).to(tl.float32)
        by_orthogonality = tl.load(grad_losses + 2).to(tl.float32)
    else:
        by_decomposition = 0.0
        by_shared = 0.0
        by_orthogonality = 0.0
    ownership, size = _ownership(availability, row, modalities, rows, MODALITIES)
    owned = _has(ownership, n)
    accompanied = owned & (size > 1)
    own = _load_rows(specific_hat, n * specific_step, row, column, owned, rows, width)
    own_norm = _norm(own)

    residual = _load_rows(whole, n, row, column, accompanied, rows, width) - own
    inverse = 1.0 / tl.maximum(size - 1, 1).to(tl.float32)[:, None]
    for step in range(1, modalities):
        m = (n + step) % modalities
        pair = owned & _has(ownership, m)
        residual -= _load_rows(cross_hat, m * modalities + n, row, column, pair, rows, width) * inverse
    factor = 2 * by_decomposition * tl.load(weights + n * modalities + n)
    to_whole = tl.where(accompanied[:, None], factor * residual, 0.0)
    _store_rows(grad_whole, n, row, column, to_whole, row < rows, rows, width)

    to_own = -to_whole
    if grad_specific is not None:
        to_own += _load_rows(grad_specific, n, row, column, owned, rows, width)
    for step in range(1, modalities):
        m = (n + step) % modalities
        pair = owned & _has(ownership, m)
        weight = tl.load(weights + m * modalities + n)
        given = _load_rows(cross_hat, m * modalities + n, row, column, pair, rows, width)
        taken = _load_rows(cross_hat, n * modalities + m, row, column, pair, rows, width)
        other = _load_rows(specific_hat, m * specific_step, row, column, pair, rows, width)
        other_norm = _norm(other)
        by_cosine = by_orthogonality * weight

        to_given = 2 * by_shared * weight * (given - taken) - to_whole * inverse
        if grad_cross is not None:
            to_given += _load_rows(grad_cross, m * modalities + n, row, column, pair, rows, width)
        to_given += _cosine_gradient(given, other, _norm(given), other_norm, by_cosine, pair)
        _store_rows(gradients, m * modalities + n, row, column, to_given, pair, rows, width)
        to_own += _cosine_gradient(own, taken, own_norm, _norm(taken), by_cosine, pair)
        to_own += _cosine_gradient(own, other, own_norm, other_norm, by_cosine, pair)
    _store_rows(gradients, n * modalities + n, row, column, to_own, owned, rows, width)


@triton.jit(do_not_specialize=_COUNTS)
def _project_gradients(
    gradients,  # G of all parts [M, M, B, D] float32
    specific,  # [M, B, D]
    cross,  # [M, M, B, D]
    basis,  # [D, r]
    availability,  # [B, M]
    grad_specific,  # [M, B, D], written
    grad_cross,  # [M, M, B, D], written
    partial,  # of the gradient of the basis, [programs, D, r] float32, written
    modalities,
    rows,
    width,
    rank,
    tiles,  # of rows, per program
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    PRECISION: tl.constexpr,
    SEVERAL: tl.constexpr,  # tiles > 1
):
    """A program takes a run of tiles of rows of one part X: G B and X B stay in registers, [ROWS, RANK] each; from
    them, chunk after chunk of columns, the gradient of X, (G B) B^T, and of the basis, X^T (G B) + G^T (X B).

    10 D r FLOP per part; X and G are read twice, the second time from cache. Its partial sum [D, r] is its own and
    passes through L2 from tile to tile.
    """
    parts = modalities * modalities
    program = tl.program_id(0)
    part = program % parts
    m = part // modalities
    n = part % modalities
    if m == n:
        source = specific + tl.cast(m, tl.int64) * rows * width
    else:
        source = cross + tl.cast(part, tl.int64) * rows * width
    sign = tl.where(m == n, -1.0, 1.0)  # a specific part is u - P u
    own_partial = partial + tl.cast(program, tl.int64) * width * rank
    axis = tl.arange(0, RANK)
    for tile in range(tiles):
        row = (tl.cast(program // parts, tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        owned = _owned(availability, row, m, modalities, rows) & _owned(availability, row, n, modalities, rows)
        coordinates = tl.zeros((ROWS, RANK), tl.float32)
        gradient_coordinates = tl.zeros((ROWS, RANK), tl.float32)
        for first in range(0, width, WIDTH):
            column = first + tl.arange(0, WIDTH)
            values = _load_rows(source, 0, row, column, owned, rows, width)
            gradient = _load_rows(gradients, part, row, column, owned, rows, width)
            axes = _load_basis(basis, column, axis, width, rank)
            coordinates = tl.dot(values, axes, coordinates, input_precision=PRECISION)
            gradient_coordinates = tl.dot(gradient, axes, gradient_coordinates, input_precision="tf32x3")
        for first in range(0, width, WIDTH):
            column = first + tl.arange(0, WIDTH)
            gradient = _load_rows(gradients, part, row, column, owned & (m == n), rows, width)
            axes = _load_basis(basis, column, axis, width, rank)
            projected = tl.dot(gradient_coordinates, tl.trans(axes), input_precision="tf32x3")
            projected = tl.where(m == n, gradient - projected, projected)
            projected = tl.where(owned[:, None], projected, 0.0)
            _store_part(grad_specific, grad_cross, m, n, row, column, projected, modalities, rows, width)
        for first in tl.range(0, width, WIDTH, num_stages=1):
            column = first + tl.arange(0, WIDTH)
            values = _load_rows(source, 0, row, column, owned, rows, width)
            gradient = _load_rows(gradients, part, row, column, owned, rows, width)
            to_basis = tl.dot(tl.trans(values), gradient_coordinates, input_precision="tf32x3")
            to_basis = sign * tl.dot(tl.trans(gradient), coordinates, to_basis, input_precision="tf32x3")
            place = own_partial + column[:, None] * rank + axis[None, :]
            inside = (column < width)[:, None] & (axis < rank)[None, :]
            if SEVERAL:
                to_basis += tl.load(place, mask=inside & (tile > 0), other=0.0)
            tl.store(place, to_basis, mask=inside)
        if SEVERAL:
            tl.debug_barrier()  # the next tile reads what other threads of this program may have written


def low_rank_decompose(
    basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor, availability: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Projected parts and losses; NotImplemented in float64, and for sizes that do not fit into registers."""
    if not _serves(basis, whole, specific, cross):
        return NotImplemented
    modalities, rows, width = whole.shape
    specific_hat = torch.empty_like(specific, memory_format=torch.contiguous_format)
    cross_hat = torch.empty_like(cross, memory_format=torch.contiguous_format)
    if rows == 0:
        return specific_hat, cross_hat, whole.new_zeros(3, dtype=torch.float32)
    whole, availability = whole.contiguous(), availability.contiguous()
    weights = whole.new_empty((modalities, modalities), dtype=torch.float32)
    if specific.dtype == torch.float32:
        _project(basis, specific, cross, availability, specific_hat, cross_hat, None, weights)
        hats = (specific_hat, cross_hat, 1)
    else:
        wide = torch.empty_like(cross_hat, dtype=torch.float32)
        _project(basis, specific, cross, availability, specific_hat, cross_hat, wide, weights)
        hats = (wide, wide, modalities + 1)

    shape = _row_shape(width, modalities)
    programs = min(triton.cdiv(rows, shape["ROWS"]) * modalities, _MOST_ROW_PROGRAMS)
    partial = whole.new_empty((programs, 3), dtype=torch.float64)
    losses = whole.new_empty(3, dtype=torch.float32)
    launch(
        _row_losses,
        (programs,),
        *hats[:2],
        whole,
        availability,
        weights,
        partial,
        modalities,
        rows,
        width,
        hats[2],
        **shape,
    )
    launch(_sum_partials, (1,), partial, losses, programs, 3, TERMS=1024, COUNT=4)
    return specific_hat, cross_hat, losses


def low_rank_decompose_backward(
    grad_specific: Tensor,
    grad_cross: Tensor,
    grad_losses: Tensor,
    basis: Tensor,
    whole: Tensor,
    specific: Tensor,
    cross: Tensor,
    availability: Tensor,
    specific_hat: Tensor,
    cross_hat: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of basis, whole, specific and cross; NotImplemented where the forward pass is."""
    if not _serves(basis, whole, specific, cross):
        return NotImplemented
    modalities, rows, width = whole.shape
    rank = basis.shape[1]
    to_basis, to_whole, to_specific, to_cross = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (basis, whole, specific, cross)
    )
    if rows == 0:
        return to_basis.zero_(), to_whole, to_specific, to_cross
    basis, whole, specific, cross, availability = (
        tensor.contiguous() for tensor in (basis, whole, specific, cross, availability)
    )
    upstream = (
        gradient.contiguous() if gradient.numel() else None for gradient in (grad_specific, grad_cross, grad_losses)
    )
    weights = whole.new_empty((modalities, modalities), dtype=torch.float32)
    if specific_hat.dtype == cross_hat.dtype == torch.float32:
        launch(
            _weigh_pairs, (modalities**2,), availability, weights, modalities, rows, COUNTED=_COUNTED_ROWS, num_warps=4
        )
        hats = (specific_hat.contiguous(), cross_hat.contiguous(), 1)
    else:
        wide = torch.empty_like(to_cross, dtype=torch.float32)
        _project(basis, specific, cross, availability, None, None, wide, weights)
        hats = (wide, wide, modalities + 1)

    gradients = torch.empty_like(to_cross, dtype=torch.float32)
    shape = _row_shape(width, modalities)
    launch(
        _part_gradients,
        (triton.cdiv(rows, shape["ROWS"]) * modalities,),
        *upstream,
        *hats[:2],
        whole,
        availability,
        weights,
        gradients,
        to_whole,
        modalities,
        rows,
        width,
        hats[2],
        **shape,
    )

    parts, tiles = modalities**2, triton.cdiv(rows, _TILE)
    tiles_per_program = triton.cdiv(tiles, max(1, min(tiles, _MOST_BASIS_PROGRAMS // parts)))
    programs = parts * triton.cdiv(tiles, tiles_per_program)
    partial = whole.new_empty((programs, width, rank), dtype=torch.float32)
    launch(
        _project_gradients,
        (programs,),
        gradients,
        specific,
        cross,
        basis,
        availability,
        to_specific,
        to_cross,
        partial,
        modalities,
        rows,
        width,
        rank,
        tiles_per_program,
        SEVERAL=tiles_per_program > 1,
        **_product_shape(basis),
    )
    count = width * rank
    launch(_sum_partials, (triton.cdiv(count, 64),), partial, to_basis, programs, count, TERMS=16, COUNT=64)
    return to_basis, to_whole, to_specific, to_cross


def _serves(basis: Tensor, whole: Tensor, specific: Tensor, cross: Tensor) -> bool:
    one_type = basis.dtype == whole.dtype == specific.dtype == cross.dtype
    fits = whole.shape[0] <= _MOST_MODALITIES and basis.shape[0] <= _MOST_WIDTH and basis.shape[1] <= _MOST_RANK
    return one_type and fits and whole.dtype in (torch.float32, torch.float16, torch.bfloat16)


def _project(
    basis: Tensor,
    specific: Tensor,
    cross: Tensor,
    availability: Tensor,
    specific_hat: Tensor | None,
    cross_hat: Tensor | None,
    wide: Tensor | None,
    weights: Tensor,
) -> None:
    modalities, rows, width = specific.shape
    basis, specific, cross = basis.contiguous(), specific.contiguous(), cross.contiguous()
    launch(
        _project_parts,
        (modalities**2 * (1 + triton.cdiv(rows, _TILE)),),
        specific,
        cross,
        basis,
        availability,
        specific_hat,
        cross_hat,
        wide,
        weights,
        modalities,
        rows,
        width,
        basis.shape[1],
        COUNTED=_COUNTED_ROWS,
        **_product_shape(basis),
    )


def _product_shape(basis: Tensor) -> dict[str, int | str]:
    """Of products with the basis. Tiles this small keep the operands, each split into two numbers, in registers, and
    use the same instructions on every architecture."""
    padded = max(16, triton.next_power_of_2(basis.shape[1]))
    return {
        "ROWS": _TILE,
        "WIDTH": _TILE if padded < 128 else _TILE // 2,
        "RANK": padded,
        "PRECISION": "tf32x3" if basis.dtype == torch.float32 else "tf32",
        "num_warps": 4 if padded < 64 else 8,
    }


def _row_shape(width: int, modalities: int) -> dict[str, int]:
    """Of work on whole rows: up to 512 values of a vector in one warp, so that its sums need no shared memory."""
    padded = triton.next_power_of_2(width)
    return {
        "ROWS": max(1, 256 // padded),
        "WIDTH": padded,
        "MODALITIES": triton.next_power_of_2(modalities),
        "num_warps": max(1, padded // 512),
    }
