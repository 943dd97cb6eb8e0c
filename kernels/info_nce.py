"""info_nce and its gradient in tiles of logits that are made, used and forgotten.

Forward, 2 B^2 D floating-point operations for B pairs of width D ("nt_xent": 8 B^2 D, of all 2 B entries with all):
one product per tile serves the sums of its rows and of its columns, each under its own shift within the tile, so that
nothing is lost at any temperature. A pass of their own for the columns' sums would cost another 2 B^2 D; these cost 8
bytes per entry and tile, which stay below 2 KB per row: more rows than STRIPE tiles have are compared in several
launches.

Backward, 6 B^2 D ("nt_xent": 16 B^2 D): logits are made again, and with the softmaxes become weights of pairs, in a
workspace of at most MOST_WEIGHTS numbers, block by block; the products of a block with the rows of its columns, and of
its transpose with those of its rows, are sums of both sides. To make the logits for either side, as a kernel that keeps
its sums in registers has to, would be 8 B^2 D, and registers hold no sums of 128 rows that are wider than 128.

bfloat16 rows and weights are multiplied as they are, with float32 sums; float32 ones in three products of tf32 each.
float16 rows are multiplied as they are for logits, and as float32 with weights, whose range float16 does not have.
Everything is added in a fixed order.

Launches: forward 3 for up to 256 rows, else 4; backward 5 for up to 4,096 rows ("nt_xent": 2,048), else 3 + 2 for each
block of 4,096 x 4,096.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from survcore.kernels._info_nce_backward import gradients_of_rows, products_of_block, weights_of_block
from survcore.kernels._info_nce_entries import add_parts
from survcore.kernels._info_nce_forward import join_parts, sums_of_tiles
from survcore.kernels._info_nce_prepare import prepare
from survcore.kernels._launch import launch

STRIPE = 128  # tiles of rows that a launch of the forward pass compares with all
MOST_WEIGHTS = 1 << 24  # of pairs, at a time
ROWS = 16  # of a program that works on rows alone
BLOCK_WIDTH = 128  # of their columns at a time


@dataclass(frozen=True)
class _Tile:
    """Size of a tile, how much of the summed dimension is loaded at a time, and the program that makes it."""

    block: int
    depth: int
    num_warps: int
    num_stages: int


# The loads in flight of all stages: 96, 48 and 48 KB of shared memory. A processor holds two, or four, at a time.
LARGE = _Tile(128, 64, 8, 3)
SMALL = _Tile(64, 64, 4, 3)
WIDE_TYPE = _Tile(64, 32, 4, 3)


class _Problem:
    """The inputs, their tiles, and buffers of numbers of rows."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        row_mask: Tensor,
        temperature: Tensor,
        form: str,
        normalize: bool,
        rank: int,
        ranks: int,
    ) -> None:
        self.query, self.key = (value if value.stride(-1) == 1 else value.contiguous() for value in (query, key))
        self.temperature, self.normalize, self.rank = temperature, normalize, rank
        self.row_mask = row_mask.view(torch.uint8) if row_mask.numel() else None
        if self.row_mask is not None and self.row_mask.stride(-1) != 1:
            self.row_mask = self.row_mask.contiguous()
        self.mask_group = self.row_mask.stride(0) if row_mask.dim() == 2 and self.row_mask is not None else 0
        self.among = form == "nt_xent"
        self.shape = query.shape[:-2]
        self.groups = query.shape[0] if query.dim() == 3 else 1
        self.rows, self.width = query.shape[-2:]
        self.half = query.dtype != torch.float32
        if not self.half:
            self.tile = WIDE_TYPE
        else:
            self.tile = LARGE if self.rows > 1024 and query.dtype == torch.bfloat16 else SMALL
        self.precision = "tf32" if self.half else "tf32x3"
        self.tiles = -(-self.rows // self.tile.block)
        self.padded = self.tiles * self.tile.block
        self.plane = self.groups * 2 * self.padded
        self.column_tiles = 2 * self.tiles if self.among else self.tiles
        # Rows of tiles that this rank compares, of those of query or, among all, of both sides.
        share = -(-self.column_tiles // ranks)
        self.row_tiles = range(min(rank * share, self.column_tiles), min((rank + 1) * share, self.column_tiles))
        query_group, key_group = (value.stride(0) if value.dim() == 3 else 0 for value in (self.query, self.key))
        self.strides = (query_group, self.query.stride(-2), key_group, self.key.stride(-2))

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.query.new_empty(shape, dtype=dtype)

    def prepare(
        self,
        statistics: Tensor,
        unit_rows: Tensor | None = None,
        grad_loss: Tensor | None = None,
        factors: Tensor | None = None,
    ) -> Tensor:
        numbers = self.new(1 if unit_rows is None else 4, self.groups, 2, self.padded)
        blocks = self.padded // ROWS
        launch(
            prepare,
            (self.groups * blocks,),
            self.query,
            self.key,
            self.row_mask,
            self.temperature,
            statistics,
            numbers,
            unit_rows,
            grad_loss,
            factors,
            *self.strides,
            self.mask_group,
            grad_loss.stride(0) if grad_loss is not None and grad_loss.dim() else 0,
            self.plane,
            self.rows,
            self.padded,
            self.width,
            0 if unit_rows is None else unit_rows.shape[-1],
            self.rank,
            NORMALIZE=self.normalize,
            ROWS=ROWS,
            BLOCK_WIDTH=BLOCK_WIDTH,
        )
        return numbers


def info_nce(
    query: Tensor,
    key: Tensor,
    row_mask: Tensor,
    temperature: Tensor,
    form: str,
    normalize: bool,
    rank: int,
    ranks: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if query.dtype == torch.float64:
        return NotImplemented
    problem = _Problem(query, key, row_mask, temperature, form, normalize, rank, ranks)
    statistics = problem.new(*problem.shape, 3, problem.rows, dtype=torch.float64)
    numbers = problem.prepare(statistics)
    loss = _forward(problem, numbers, statistics)
    if with_gradient:
        to_query, to_key, parts = _gradients(problem, None, statistics, torch.float32)
        return loss, statistics, to_query, to_key, _added(parts, problem.groups, torch.float64)
    no_rows = (problem.new(*problem.shape, 0, problem.width) for _ in range(2))
    return loss, statistics, *no_rows, problem.new(0, dtype=torch.float64)


def info_nce_backward(
    grad_loss: Tensor,
    query: Tensor,
    key: Tensor,
    row_mask: Tensor,
    temperature: Tensor,
    statistics: Tensor,
    form: str,
    normalize: bool,
    rank: int,
    ranks: int,
) -> tuple[Tensor, Tensor, Tensor]:
    if query.dtype == torch.float64:
        return NotImplemented
    problem = _Problem(query, key, row_mask, temperature, form, normalize, rank, ranks)
    to_query, to_key, parts = _gradients(problem, grad_loss, statistics.contiguous(), query.dtype)
    return to_query, to_key, _added(parts, 1, temperature.dtype)


def _added(parts: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    total = parts.new_empty(outputs, dtype=dtype)
    launch(add_parts, (outputs,), parts, total, parts.numel() // max(outputs, 1), BLOCK=1024)
    return total


def _forward(problem: _Problem, numbers: Tensor, statistics: Tensor) -> Tensor:
    tile, groups, tiles = problem.tile, problem.groups, problem.tiles
    loss = problem.new(*problem.shape)
    tiles_of_program = max(2 * tiles, 1) if tiles <= 4 else 1
    programs = 1 if tiles <= 4 else 2 * tiles
    losses = loss if programs == 1 else problem.new(groups, programs, dtype=torch.float64)
    kept_shifts = kept_sums = None
    stripes = [problem.row_tiles[first : first + STRIPE] for first in range(0, len(problem.row_tiles), STRIPE)]
    stripes = stripes or [problem.row_tiles]
    if len(stripes) > 1:
        kept_shifts = problem.new(groups, 2, problem.padded)
        kept_sums = problem.new(groups, 2, problem.padded, dtype=torch.float64)
    for number, stripe in enumerate(stripes):
        row_parts = problem.new(groups, problem.column_tiles, 2, len(stripe) * tile.block)
        column_parts = None if problem.among else problem.new(groups, len(stripe), 2, problem.padded)
        launch(
            sums_of_tiles,
            (groups * len(stripe) * problem.column_tiles,),
            problem.query,
            problem.key,
            numbers,
            problem.temperature,
            row_parts,
            column_parts,
            *problem.strides,
            tiles,
            stripe.start,
            len(stripe),
            problem.width,
            AMONG=problem.among,
            BLOCK=tile.block,
            BLOCK_WIDTH=tile.depth,
            PRECISION=problem.precision,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        launch(
            join_parts,
            (groups * programs,),
            row_parts,
            column_parts,
            kept_shifts,
            kept_sums,
            numbers,
            problem.row_mask,
            statistics,
            losses,
            problem.mask_group,
            problem.rows,
            tiles,
            stripe.start,
            len(stripe),
            tiles_of_program,
            programs,
            AMONG=problem.among,
            FIRST=number == 0,
            LAST=number == len(stripes) - 1,
            BLOCK=tile.block,
            PARTS=16,
        )
    if programs > 1:
        launch(add_parts, (groups,), losses, loss, programs, BLOCK=1024)
    return loss


def _gradients(
    problem: _Problem, grad_loss: Tensor | None, statistics: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of query and key, in ``dtype``, and parts of the temperature's."""
    groups, padded = problem.groups, problem.padded
    unit_width = -(-problem.width // 16) * 16
    # Weights in float16 would vanish where pairs are told apart.
    of_products = torch.bfloat16 if problem.query.dtype == torch.bfloat16 else torch.float32
    unit_rows = problem.new(groups, 2, padded, unit_width, dtype=of_products)
    factors = problem.new(groups, dtype=torch.float64)
    numbers = problem.prepare(statistics, unit_rows, grad_loss, factors)
    sums = _sums_of_sides(problem, numbers, unit_rows)
    to_query, to_key = (problem.new(*problem.shape, problem.rows, problem.width, dtype=dtype) for _ in range(2))
    parts = problem.new(groups, padded // ROWS, dtype=torch.float64)
    launch(
        gradients_of_rows,
        (groups * (padded // ROWS),),
        problem.query,
        problem.key,
        sums,
        numbers,
        factors,
        problem.temperature,
        to_query,
        to_key,
        parts,
        *problem.strides,
        problem.rows,
        padded,
        problem.width,
        unit_width,
        NORMALIZE=problem.normalize,
        ROWS=ROWS,
        BLOCK_WIDTH=BLOCK_WIDTH,
    )
    return to_query, to_key, parts


def _sums_of_sides(problem: _Problem, numbers: Tensor, unit_rows: Tensor) -> Tensor:
    """Rows of length 1, summed with their weights for each entry, [groups, 2, padded, unit_width]."""
    groups, tile, among = problem.groups, problem.tile, problem.among
    of_products = tile if unit_rows.dtype == torch.bfloat16 else WIDE_TYPE
    size = tile.block
    row_tiles, column_tiles = len(problem.row_tiles), problem.column_tiles
    groups_at_once, rows_at_once, columns_at_once = groups, row_tiles, column_tiles
    weights_of_group = row_tiles * column_tiles * size * size
    if groups * weights_of_group > MOST_WEIGHTS:
        groups_at_once = max(1, MOST_WEIGHTS // weights_of_group)
        if weights_of_group > MOST_WEIGHTS:
            rows_at_once = columns_at_once = int(MOST_WEIGHTS**0.5) // size
    add = rows_at_once < row_tiles or columns_at_once < column_tiles or row_tiles < column_tiles
    shape = (groups, 2, problem.padded, unit_rows.shape[-1])
    sums = problem.query.new_zeros(shape, dtype=torch.float32) if add else problem.new(*shape)
    count = groups_at_once * min(rows_at_once, row_tiles) * min(columns_at_once, column_tiles) * size * size
    weights = problem.new(count, dtype=unit_rows.dtype)
    blocks = [
        (group, row_tile, column_tile)
        for group in range(0, groups, max(groups_at_once, 1))
        for row_tile in range(0, row_tiles, max(rows_at_once, 1))
        for column_tile in range(0, column_tiles, max(columns_at_once, 1))
    ]
    for group, row_tile, column_tile in blocks:
        here = min(groups_at_once, groups - group)
        height = min(rows_at_once, row_tiles - row_tile)
        length = min(columns_at_once, column_tiles - column_tile)
        first_row_tile = problem.row_tiles.start + row_tile
        launch(
            weights_of_block,
            (here * height * length,),
            problem.query,
            problem.key,
            numbers,
            problem.temperature,
            weights,
            *problem.strides,
            problem.plane,
            problem.tiles,
            group,
            first_row_tile,
            column_tile,
            height,
            length,
            problem.width,
            AMONG=among,
            # Where weights are rounded to 8 bits, a logarithm of a sum needs no more than float32 has.
            TWO_PARTS=unit_rows.dtype == torch.float32,
            BLOCK=size,
            BLOCK_WIDTH=tile.depth,
            PRECISION=problem.precision,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        lines = (height if among else height + length) * (size // of_products.block)
        launch(
            products_of_block,
            (here * lines * -(-unit_rows.shape[-1] // of_products.block),),
            weights,
            unit_rows,
            sums,
            group,
            first_row_tile * size,
            column_tile * size + (0 if among else problem.padded),
            height * size,
            length * size,
            2 * problem.padded,
            unit_rows.shape[-1],
            BOTH=not among,
            ADD=add,
            BLOCK=of_products.block,
            BLOCK_PLACES=of_products.block,
            BLOCK_COUNT=of_products.depth,
            PRECISION="tf32x3",
            num_warps=of_products.num_warps,
            num_stages=of_products.num_stages,
        )
    return sums
