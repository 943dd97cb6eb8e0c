"""Triton kernels of deephit_loss: likelihood of event times by cause and ranking of the patients, with their gradient.

The ranking term of a column (a cause and a bin) is a sum over pairs of exp(-(F_i - F_j) / sigma), i an event of that
column and j a row compared with it. It is the product of two sums over rows, each less its own largest term:

    sum of exp((F_j - largest) / sigma) * sum of w_i exp((smallest - F_i) / sigma) * exp((largest - smallest) / sigma)

with the largest F of the rows compared and the smallest F of the events, so that what overflows is one pair's
exponential and nothing before it. Rows come in tiles [rows, causes, bins], padded to powers of two, whose softmax and F
stay in registers. The gradient needs the sums of all rows first: softmax and F are computed a second time for it.

Launches forward: one where all rows are one tile; two, sums and gradient, for some thousand rows; three above that, the
sums of up to 1,024 programs merged in between. Backward multiplies the gradient by a scalar, in PyTorch. With entries
of 4 bytes the logits are read twice and the gradient written once, 12 bytes an entry (4 without gradient); an entry of
the padded tile takes six exponentials and about 60 FLOP, half of them for each kernel.

Entries are float32, or float64 where the logits are or where 1 / sigma magnifies float32's rounding too much. What is
summed over tiles is summed in float64, in an order that the shapes alone decide.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from survcore.kernels._launch import launch

# The largest 1 / sigma for which F in float32 is exact enough.
STEEPEST_SLOPE = 40.0
# Entries of a tile with four warps; a tile has at most four times as many of both.
TILE = 1024
MOST_COLUMNS = 4 * TILE
# As many parts are merged by each program that needs the sums, where they are no more than these entries.
DIRECT_PARTS = 16
DIRECT_ENTRIES = 2048
MOST_PARTS = 1024
MOST_PART_ENTRIES = 2**19


@triton.jit
def _read_rows(
    time_bin,  # int64 [rows]
    event,  # [rows], bool, integer or floating
    weights,  # [rows], or of nothing
    has_weights,
    first,  # int64
    count,  # rows from the first one on, not more than fit
    causes,
    bins,
    ROWS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Of the tile's rows, [ROWS, 1, 1] each: cause (from 1; 0 of censored and of invalid rows), bin, the bins whose
    events they are compared with, weight, and factor: the weight, or NaN for an invalid row that has one."""
    row = tl.arange(0, ROWS)
    inside = row < count
    bin_of = tl.load(time_bin + first + row, mask=inside, other=-1)
    code = tl.load(event + first + row, mask=inside, other=0)
    weight = tl.load(weights + first + row, mask=inside & (has_weights != 0), other=1.0).to(COMPUTE)
    weight = tl.where(inside, weight, 0.0)

    # Negative ones are large as unsigned numbers: one comparison.
    if tl.constexpr(code.dtype.is_floating()):
        if tl.constexpr(code.dtype.primitive_bitwidth) < tl.constexpr(32):
            code = code.to(tl.float32)
        defined = (code >= 0) & (code <= causes)
        cause = tl.where(defined, code, 0).to(tl.int32)
        defined = defined & (cause.to(code.dtype) == code)
    else:
        code = code.to(tl.int64)
        defined = code.to(tl.uint64) <= causes.to(tl.uint64)
        cause = code.to(tl.int32)
    valid = defined & (bin_of.to(tl.uint64) < bins.to(tl.uint64))
    cause = tl.where(valid, cause, 0)
    bin_of = tl.where(valid, bin_of.to(tl.int32), 0)
    compared_bins = tl.where(valid, tl.where(cause == 0, bin_of + 1, bin_of), 0)
    factor = tl.where(weight == 0.0, 0.0, tl.where(valid, weight, float("nan")))
    return (
        cause[:, None, None],
        bin_of[:, None, None],
        compared_bins[:, None, None],
        weight[:, None, None],
        factor[:, None, None],
    )


@triton.jit
def _largest_of_row(values):
    return tl.max(tl.max(values, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def _sum_of_row(values):
    return tl.sum(tl.sum(values, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def _probabilities(x, possible, censored):
    """p of each column, p of each column given that the outcome is a possible one, and -log of the probability of all
    possible ones. Each sum is less its own largest term; infinite logits take all probability, several share it."""
    shift = tl.maximum(_largest_of_row(x), 0.0)
    terms = tl.where(x == shift, 1.0, tl.exp(x - shift))
    total = _sum_of_row(terms) + tl.exp(-shift)
    # What lies beyond the last bin, of logit 0, is possible for censored rows.
    possible_shift = _largest_of_row(tl.where(possible, x, -float("inf")))
    possible_shift = tl.where(censored, tl.maximum(possible_shift, 0.0), possible_shift)
    possible_terms = tl.where(x == possible_shift, 1.0, tl.exp(x - possible_shift))
    possible_terms = tl.where(possible, possible_terms, 0.0)
    possible_total = _sum_of_row(possible_terms) + tl.where(censored, tl.exp(-possible_shift), 0.0)
    distance = tl.where(shift == possible_shift, 0.0, shift - possible_shift)
    return terms * (1.0 / total), possible_terms * (1.0 / possible_total), distance + tl.log(total / possible_total)


@triton.jit
def _read_tile(
    logits,  # [rows, causes, bins]
    time_bin,  # int64 [rows]
    event,  # [rows]
    weights,  # [rows], or of nothing
    has_weights,
    first,  # int64
    rows,
    causes,
    bins,
    ROWS: tl.constexpr,
    CAUSES: tl.constexpr,
    BINS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Of each row [ROWS, 1, 1]: compared_bins, weight, factor, loss. Of each entry [ROWS, CAUSES, BINS]: whether it is
    compared there, whether it has its event there, p, p if possible, F, its offset from the first row and whether it
    exists."""
    count = tl.maximum(tl.minimum(rows - first, ROWS), 0).to(tl.int32)
    cause, bin_of, compared_bins, weight, factor = _read_rows(
        time_bin, event, weights, has_weights, first, count, causes, bins, ROWS, COMPUTE
    )
    row = tl.arange(0, ROWS)[:, None, None]
    of_cause = tl.arange(0, CAUSES)[None, :, None]
    of_bin = tl.arange(0, BINS)[None, None, :]
    exists = (row < count) & (of_bin < bins)
    if CAUSES > 1:
        exists = exists & (of_cause < causes)
    offset = (row * causes + of_cause) * bins + of_bin
    x = tl.load(logits + first * causes * bins + offset, mask=exists, other=-float("inf")).to(COMPUTE)
    censored = cause == 0
    own = of_cause * BINS + of_bin == tl.where(censored, -1, (cause - 1) * BINS + bin_of)
    possible = own | (of_bin > tl.where(censored, bin_of, BINS))
    p, if_possible, loss = _probabilities(x, possible, censored)
    compared = of_bin < compared_bins
    return compared_bins, weight, factor, loss, compared, own, p, if_possible, tl.cumsum(p, 2), offset, exists


@triton.jit
def _is_ranked(weight, likelihood_weight):
    """Whether the event of a row of that weight counts, were it to have one."""
    return tl.where(likelihood_weight == 1.0, 0.0, weight) != 0.0


@triton.jit
def _sums_of_columns(cumulative, compared, ranked, weight, slope):
    """Largest F of the rows compared, their sum, smallest F of the events, their sum: [1, CAUSES, BINS] each."""
    largest = tl.max(tl.where(compared, cumulative, -float("inf")), 0, keep_dims=True)
    smallest = tl.min(tl.where(ranked, cumulative, float("inf")), 0, keep_dims=True)
    # No row is compared where it has its event: one exponential serves both.
    terms = tl.exp(tl.where(compared, cumulative - largest, smallest - cumulative) * slope)
    compared_sum = tl.sum(tl.where(compared, terms, 0.0), 0, keep_dims=True).to(tl.float64)
    event_sum = tl.sum(tl.where(ranked, weight * terms, 0.0), 0, keep_dims=True).to(tl.float64)
    return largest, compared_sum, smallest, event_sum


@triton.jit
def _moved(sums, extreme, to, slope):
    """Sums less the term at one extreme F, as they are less that at another, which lies further out."""
    return sums * tl.where(extreme == to, 1.0, tl.exp(-tl.abs(extreme - to) * slope)).to(tl.float64)


@triton.jit
def _totals(loss, factor, weight):
    """The likelihood's weighted sum over the tile, and that of the weights."""
    losses = tl.where(factor == 0.0, 0.0, factor * loss)
    return tl.sum(losses).to(tl.float64), tl.sum(weight).to(tl.float64)


@triton.jit
def _merged(
    partials,  # float64 [parts, 4 * columns + 2]
    part,  # [PARTS, 1, ..]
    parts,
    column,  # [1, .., columns]
    columns,
    slope,
    COMPUTE: tl.constexpr,
):
    """The sums of columns of several parts."""
    entry = partials + part * (4 * columns + 2) + column
    inside = (part < parts) & (column < columns)
    largest = tl.load(entry, mask=inside, other=-float("inf")).to(COMPUTE)
    compared_sum = tl.load(entry + columns, mask=inside, other=0.0)
    smallest = tl.load(entry + 2 * columns, mask=inside, other=float("inf")).to(COMPUTE)
    event_sum = tl.load(entry + 3 * columns, mask=inside, other=0.0)
    of_all_largest = tl.max(largest, 0, keep_dims=True)
    of_all_smallest = tl.min(smallest, 0, keep_dims=True)
    compared_sum = tl.sum(_moved(compared_sum, largest, of_all_largest, slope), 0, keep_dims=True)
    event_sum = tl.sum(_moved(event_sum, smallest, of_all_smallest, slope), 0, keep_dims=True)
    return of_all_largest, compared_sum, of_all_smallest, event_sum


@triton.jit
def _merged_totals(
    partials,  # float64 [parts, 4 * columns + 2]
    part,  # [PARTS]
    parts,
    columns,
):
    entry = partials + part * (4 * columns + 2) + 4 * columns
    inside = part < parts
    losses = tl.load(entry, mask=inside, other=0.0)
    weights = tl.load(entry + 1, mask=inside, other=0.0)
    return tl.sum(losses), tl.sum(weights)


@triton.jit
def _store_sums(
    partials,  # float64 [parts, 4 * columns + 2]
    part,
    column,  # [1, .., columns]
    columns,
    largest,
    compared_sum,
    smallest,
    event_sum,
):
    entry = partials + part * (4 * columns + 2) + column
    inside = column < columns
    tl.store(entry, largest.to(tl.float64), mask=inside)
    tl.store(entry + columns, compared_sum, mask=inside)
    tl.store(entry + 2 * columns, smallest.to(tl.float64), mask=inside)
    tl.store(entry + 3 * columns, event_sum, mask=inside)


@triton.jit
def _store_totals(
    partials,  # float64 [parts, 4 * columns + 2]
    part,
    columns,
    loss_sum,
    weight_sum,
):
    entry = partials + part * (4 * columns + 2) + 4 * columns
    tl.store(entry, loss_sum)
    tl.store(entry + 1, weight_sum)


@triton.jit(do_not_specialize=["has_weights", "rows", "causes", "aligned_bins", "steps"])
def _sums_kernel(
    logits,  # [rows, causes, bins]
    time_bin,  # int64 [rows]
    event,  # [rows], bool, integer or floating
    weights,  # [rows], or of nothing
    has_weights,
    rows,
    causes,
    aligned_bins,  # bins / ALIGNMENT
    steps,
    alpha: tl.float64,
    inverse_sigma: tl.float64,
    partials,  # float64 [programs, 4 * CAUSES * BINS + 2]
    ROWS: tl.constexpr,
    CAUSES: tl.constexpr,
    BINS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Sums over the rows of every ``programs``-th tile: per column the two of the ranking term, and likelihood and
    weights. Reads the logits once, 4 bytes an entry; three exponentials and about 30 FLOP an entry, a rescaling of the
    running sums per column and tile. Writes 32 bytes per column and program."""
    bins = aligned_bins * ALIGNMENT  # so that the compiler sees how rows are aligned
    slope = tl.full((), inverse_sigma, COMPUTE)
    likelihood_weight = tl.full((), alpha, tl.float64)
    largest = tl.full((1, CAUSES, BINS), -float("inf"), COMPUTE)
    smallest = tl.full((1, CAUSES, BINS), float("inf"), COMPUTE)
    compared_sum = tl.zeros((1, CAUSES, BINS), tl.float64)
    event_sum = tl.zeros((1, CAUSES, BINS), tl.float64)
    loss_sum = tl.full((), 0.0, tl.float64)
    weight_sum = tl.full((), 0.0, tl.float64)
    for step in range(steps):
        tile = tl.program_id(0) + step * tl.num_programs(0)
        compared_bins, weight, factor, loss, compared, own, p, if_possible, cumulative, offset, exists = _read_tile(
            logits,
            time_bin,
            event,
            weights,
            has_weights,
            tile.to(tl.int64) * ROWS,
            rows,
            causes,
            bins,
            ROWS,
            CAUSES,
            BINS,
            COMPUTE,
        )
        tile_largest, tile_compared_sum, tile_smallest, tile_event_sum = _sums_of_columns(
            cumulative, compared, own & _is_ranked(weight, likelihood_weight), weight, slope
        )
        new_largest = tl.maximum(largest, tile_largest)
        new_smallest = tl.minimum(smallest, tile_smallest)
        compared_sum = _moved(compared_sum, largest, new_largest, slope)
        compared_sum += _moved(tile_compared_sum, tile_largest, new_largest, slope)
        event_sum = _moved(event_sum, smallest, new_smallest, slope)
        event_sum += _moved(tile_event_sum, tile_smallest, new_smallest, slope)
        largest = new_largest
        smallest = new_smallest
        tile_loss_sum, tile_weight_sum = _totals(loss, factor, weight)
        loss_sum += tile_loss_sum
        weight_sum += tile_weight_sum

    column = tl.arange(0, CAUSES)[None, :, None] * BINS + tl.arange(0, BINS)[None, None, :]
    part = tl.program_id(0)
    _store_sums(partials, part, column, CAUSES * BINS, largest, compared_sum, smallest, event_sum)
    _store_totals(partials, part, CAUSES * BINS, loss_sum, weight_sum)


@triton.jit(do_not_specialize=["parts", "columns"])
def _merge_kernel(
    partials,  # float64 [parts + 1, 4 * columns + 2]
    parts,
    columns,
    inverse_sigma: tl.float64,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Sums of all parts, for a few columns a program, into the row after the last part. Reads 32 bytes per part and
    column."""
    slope = tl.full((), inverse_sigma, COMPUTE)
    part = tl.arange(0, PARTS)
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    largest, compared_sum, smallest, event_sum = _merged(
        partials, part[:, None], parts, column, columns, slope, COMPUTE
    )
    _store_sums(partials, parts, column, columns, largest, compared_sum, smallest, event_sum)
    if tl.program_id(0) == 0:
        loss_sum, weight_sum = _merged_totals(partials, part, parts, columns)
        _store_totals(partials, parts, columns, loss_sum, weight_sum)


@triton.jit(do_not_specialize=["has_weights", "rows", "causes", "aligned_bins", "first_part", "parts"])
def _gradient_kernel(
    logits,  # [rows, causes, bins]
    time_bin,  # int64 [rows]
    event,  # [rows], bool, integer or floating
    weights,  # [rows], or of nothing
    has_weights,
    rows,
    causes,
    aligned_bins,  # bins / ALIGNMENT
    alpha: tl.float64,
    inverse_sigma: tl.float64,
    partials,  # float64 [.., 4 * CAUSES * BINS + 2], or of nothing
    first_part,
    parts,
    loss,  # scalar
    gradient,  # [rows, causes, bins], or of nothing
    PARTS: tl.constexpr,
    GRADIENT: tl.constexpr,
    ROWS: tl.constexpr,
    CAUSES: tl.constexpr,
    BINS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The loss, by the first program, and the gradient of a tile of rows: with g = the ranking term's gradient of F,

        p * (sum of g from this bin on - its mean under p) + alpha / sum(w) * w * (p - p if possible).

    The sums over all rows come from ``partials``, or, without parts, from the tile, which then is all there is. Reads
    the logits and writes the gradient, 8 bytes an entry; three exponentials and about 30 FLOP an entry."""
    bins = aligned_bins * ALIGNMENT  # so that the compiler sees how rows are aligned
    slope = tl.full((), inverse_sigma, COMPUTE)
    likelihood_weight = tl.full((), alpha, tl.float64)
    columns: tl.constexpr = CAUSES * BINS
    of_bin = tl.arange(0, BINS)[None, None, :]
    first = tl.program_id(0).to(tl.int64) * ROWS
    if GRADIENT or PARTS == 0:
        compared_bins, weight, factor, row_loss, compared, own, p, if_possible, cumulative, offset, exists = _read_tile(
            logits, time_bin, event, weights, has_weights, first, rows, causes, bins, ROWS, CAUSES, BINS, COMPUTE
        )
        ranked = own & _is_ranked(weight, likelihood_weight)
    if PARTS == 0:
        largest, compared_sum, smallest, event_sum = _sums_of_columns(cumulative, compared, ranked, weight, slope)
        loss_sum, weight_sum = _totals(row_loss, factor, weight)
    else:
        part = first_part + tl.arange(0, PARTS)
        column = tl.arange(0, CAUSES)[None, :, None] * BINS + of_bin
        largest, compared_sum, smallest, event_sum = _merged(
            partials, part[:, None, None], first_part + parts, column, columns, slope, COMPUTE
        )
        loss_sum, weight_sum = _merged_totals(partials, part, first_part + parts, columns)

    divisor = tl.where(weight_sum == 0.0, 1.0, weight_sum)
    of_ranking = (1.0 - likelihood_weight) / (rows.to(tl.float64) * divisor)
    has_events = event_sum != 0.0  # NaN, too
    scaled_event_sum = of_ranking * event_sum
    if tl.program_id(0) == 0:
        exponent = (largest.to(tl.float64) - smallest.to(tl.float64)) * tl.full((), inverse_sigma, tl.float64)
        ranking = tl.where(has_events, compared_sum * scaled_event_sum * tl.exp(exponent), 0.0)
        # Without weight, an infinite likelihood is nothing, but NaN stays.
        unweighted = tl.where(loss_sum != loss_sum, loss_sum, 0.0)
        likelihood = tl.where(likelihood_weight == 0.0, unweighted, likelihood_weight * (loss_sum / divisor))
        tl.store(loss, likelihood + tl.sum(ranking))

    if GRADIENT:
        steepness = tl.full((), inverse_sigma, tl.float64)
        of_compared = (steepness * scaled_event_sum).to(COMPUTE)
        of_event = (steepness * of_ranking * compared_sum).to(COMPUTE)
        terms = tl.exp(tl.where(compared, cumulative - smallest, largest - cumulative) * slope)
        by_cumulative = tl.where(ranked, -(weight * of_event) * terms, 0.0)
        # A row that is compared with no event is not to bring its F in.
        by_cumulative = tl.where(compared & has_events, of_compared * terms, by_cumulative)
        after = tl.cumsum(by_cumulative, 2, reverse=True)
        mean = _sum_of_row(p * after)
        of_likelihood = (likelihood_weight / divisor).to(COMPUTE) * factor
        result = p * (after - mean) + of_likelihood * (p - if_possible)
        # Rows without weight that are compared with no event take part in nothing, whatever they hold.
        first_ranked = tl.min(tl.where(has_events, of_bin, BINS))
        result = tl.where((factor != 0.0) | (compared_bins > first_ranked), result, 0.0)
        tl.store(gradient + first * causes * bins + offset, result, mask=exists)


def deephit_loss(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    alpha: float,
    sigma: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The op of this name. Leaves more than 4,096 columns, padded, to the reference, in double precision 2,048."""
    rows, bins = logits.shape[0], logits.shape[-1]
    causes = logits.shape[1] if logits.dim() == 3 else 1
    padded_causes = triton.next_power_of_2(causes)
    padded_bins = max(triton.next_power_of_2(bins), 4)
    columns = padded_causes * padded_bins
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    # Of a denormal sigma the inverse is infinite: 0 times that is not to be NaN.
    inverse_sigma = min(1.0 / sigma, 1e300)
    wide = dtype == torch.float64 or inverse_sigma > STEEPEST_SLOPE
    tile = TILE // 2 if wide else TILE
    if columns > MOST_COLUMNS // (2 if wide else 1):
        return NotImplemented
    gradient = logits.new_empty((rows if with_gradient else 0, *logits.shape[1:]), dtype=dtype)
    if rows == 0:
        return logits.new_zeros((), dtype=dtype), gradient
    loss = logits.new_empty((), dtype=dtype)

    alone = rows * columns <= 4 * tile
    shape = {
        "ROWS": max((4 * tile if alone else tile) // columns, 1),
        "CAUSES": padded_causes,
        "BINS": padded_bins,
        "ALIGNMENT": 1 if alone or bins % 2 else 4 if bins % 4 == 0 else 2,
        "COMPUTE": tl.float64 if wide else tl.float32,
    }
    warps = min(max(4 * shape["ROWS"] * columns // tile, 4), 16)
    inputs = (logits.contiguous(), time_bin.contiguous(), event.contiguous(), weights.contiguous())
    sizes = (int(weights.numel() > 0), rows, causes, bins // shape["ALIGNMENT"])
    options = {"num_warps": warps, "num_stages": 1}
    if alone:
        launch(
            _gradient_kernel,
            (1,),
            *inputs,
            *sizes,
            alpha,
            inverse_sigma,
            None,
            0,
            0,
            loss,
            gradient,
            PARTS=0,
            GRADIENT=with_gradient,
            **shape,
            **options,
        )
        return loss, gradient

    tiles = triton.cdiv(rows, shape["ROWS"])
    direct = tiles <= 4 * DIRECT_PARTS and DIRECT_PARTS * columns <= DIRECT_ENTRIES
    steps = triton.cdiv(tiles, DIRECT_PARTS if direct else min(MOST_PARTS, MOST_PART_ENTRIES // columns))
    programs = triton.cdiv(tiles, steps)
    partials = logits.new_empty((programs + 1, 4 * columns + 2), dtype=torch.float64)
    launch(_sums_kernel, (programs,), *inputs, *sizes, steps, alpha, inverse_sigma, partials, **shape, **options)
    parts = (0, programs) if direct else (programs, 1)
    if not direct:
        launch(
            _merge_kernel,
            (triton.cdiv(columns, 4),),
            partials,
            programs,
            columns,
            inverse_sigma,
            PARTS=MOST_PARTS,
            COLUMNS=4,
            COMPUTE=shape["COMPUTE"],
            num_warps=8,
            num_stages=1,
        )
    launch(
        _gradient_kernel,
        (tiles if with_gradient else 1,),
        *inputs,
        *sizes,
        alpha,
        inverse_sigma,
        partials,
        *parts,
        loss,
        gradient,
        PARTS=DIRECT_PARTS if direct else 1,
        GRADIENT=with_gradient,
        **shape,
        **options,
    )
    return loss, gradient
