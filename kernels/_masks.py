"""What the kernels of masked losses share: marks as bytes or bits, counts of them, sums in a fixed order.

Values are read in wide rows. A matrix [rows, columns] whose rows follow each other is one of fewer, wider rows, each a
whole number (``fold``) of its rows: a wide row starts on a boundary of 16 entries however many columns there are, so
that loads are as wide as the hardware's, and matrices of few columns fill a tile. An entry of a wide row belongs to
the same column in each of them: what depends on the column is found once per program, which then goes down the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from survcore.kernels._launch import launch


class Marks(NamedTuple):
    """Marks of [views, rows, columns] in memory.

    Attributes:
        values: uint8, or the floating values of a target; None without marks.
        view_stride: from one view's marks to the next one's, 0 where they are the same.
        row_stride: from one row's to the next one's.
        kind: "flat", a byte per entry, rows following each other; "strided", rows with gaps; "rows", one byte for a
            whole row; "bits", eight columns to a byte, the lowest first; "floating", values as flat as bytes; "none".
    """

    values: Tensor | None
    view_stride: int
    row_stride: int
    kind: str


NO_MARKS = Marks(None, 0, 0, "none")


def read_marks(values: Tensor, columns: int) -> Marks:
    """How marks of rows of so many columns lie in memory; a vector stands for no marks."""
    if values.dim() == 1:
        return NO_MARKS
    if values.dtype == torch.bool:
        values = values.view(torch.uint8)
    elif values.dtype != torch.uint8:
        values = (values != 0).view(torch.uint8)
    width = values.shape[-1]
    column_stride = values.stride(-1) if width > 1 else 1
    if column_stride not in (0, 1) or (column_stride == 0 and width != columns):
        values, column_stride = values.contiguous(), 1
    if values.stride(-2) * fold_of(columns) >= 1 << 31:  # places in a wide row are counted in 32 bits
        values, column_stride = values.contiguous(), 1
    row_stride = values.stride(-2)
    if width != columns:
        kind = "bits"
    elif column_stride == 0:
        kind = "rows"
    else:
        kind = "flat" if row_stride == columns or values.shape[-2] == 1 else "strided"
    return Marks(values, values.stride(0) if values.dim() == 3 else 0, row_stride, kind)


def read_target(target: Tensor, columns: int) -> Marks:
    """The same of targets, whose floating values are left as they are."""
    if not target.is_floating_point():
        return read_marks(target, columns)
    rows = target.shape[-2]
    if (target.stride(-1) != 1 and columns > 1) or (target.stride(-2) != columns and rows > 1):
        target = target.contiguous()
    return Marks(target, target.stride(0) if target.dim() == 3 else 0, columns, "floating")


class Plan(NamedTuple):
    """How wide rows are shared out: programs (tile of a wide row's entries, block of rows), for each view.

    Attributes:
        entries: of one view.
        fold: rows of a wide one.
        wide: entries of a wide row.
        wide_rows: how many there are.
        tiles: programs side by side.
        blocks: programs below each other.
        rows: wide rows of a program.
    """

    entries: int
    fold: int
    wide: int
    wide_rows: int
    tiles: int
    blocks: int
    rows: int

    def aligned(self, *marks: Marks) -> bool:
        """Whether all that lies flat is a multiple of 16 entries long."""
        flat = [one.view_stride for one in marks if one.kind in ("flat", "floating")]
        return not any(number % 16 for number in (self.entries, self.wide, *flat))


def fold_of(columns: int) -> int:
    """How many rows of so many columns a wide row has, whose entries are counted in 32 bits."""
    return 16 * triton.cdiv(128, columns) if columns < 1 << 26 else 1


def plan(views: int, rows: int, columns: int, tile: int, programs: int, most_rows: int) -> Plan:
    """Share out the wide rows of [views, rows, columns], none of them empty.

    Args:
        views, rows, columns: of the values.
        tile: entries of a program's tile.
        programs: about how many there should be, for large values.
        most_rows: of a program, unless that makes more programs.
    """
    fold = fold_of(columns)
    entries, wide, wide_rows = rows * columns, fold * columns, triton.cdiv(rows, fold)
    tiles = triton.cdiv(min(wide, entries), tile)
    tile_rows = views * tiles * wide_rows
    # One row each until the device is filled, then as many as a program's preparations are worth.
    each = max(1, min(most_rows, tile_rows // 1024), triton.cdiv(tile_rows, programs))
    blocks = triton.cdiv(wide_rows, min(each, wide_rows))
    while blocks > 65535:
        each *= 2
        blocks = triton.cdiv(wide_rows, each)
    return Plan(entries, fold, wide, wide_rows, tiles, blocks, triton.cdiv(wide_rows, blocks))


@triton.jit
def row_width(row, last_row, wide_rows, wide, entries, ALIGNED: tl.constexpr):
    """Entries of wide row ``row`` of a view: the last row may be short, and from last_row on they are none."""
    short = (entries - (wide_rows - 1) * wide.to(tl.int64)).to(tl.int32)
    width = tl.where(row < last_row, tl.where(row + 1 < wide_rows, wide, short), 0)
    if ALIGNED:
        width = tl.multiple_of(width, 16)
    return width


@triton.jit
def column_of(entry, columns):
    """The column of each entry of a wide row."""
    return (entry.to(tl.uint32) % columns.to(tl.uint32)).to(tl.int32)


@triton.jit
def mark_offsets(entry, columns, row_stride, KIND: tl.constexpr):
    """Where the marks of entries of a wide row are, counted from that of its first entry."""
    row = (entry.to(tl.uint32) // columns.to(tl.uint32)).to(tl.int32)
    if KIND == "rows":
        offsets = row * row_stride.to(tl.int32)
    elif KIND == "bits":
        offsets = row * row_stride.to(tl.int32) + column_of(entry, columns) // 8
    elif KIND == "strided":
        offsets = row * row_stride.to(tl.int32) + column_of(entry, columns)
    else:
        offsets = entry
    return offsets


@triton.jit
def row_start(view, view_stride, row, row_stride, fold, wide, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """Where the marks of wide row ``row`` of a view begin."""
    start = view * view_stride.to(tl.int64)
    if (KIND == "flat") or (KIND == "floating"):
        start += row * wide.to(tl.int64)
        if ALIGNED:
            start = tl.multiple_of(start, 16)
    else:
        start += row * (row_stride.to(tl.int64) * fold)
    return start


@triton.jit
def load_marks(
    marks,
    view,
    view_stride,
    row,
    row_stride,
    fold,
    wide,
    offsets,
    inside,
    outside,
    KIND: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Bytes with the marks of the entries of a wide row that lie inside, at the offsets of :func:`mark_offsets`, and
    the byte ``outside`` for others."""
    if KIND == "none":
        found = inside.to(tl.uint8)
    else:
        start = row_start(view, view_stride, row, row_stride, fold, wide, KIND, ALIGNED)
        found = tl.load(marks + start + offsets, mask=inside, other=outside)
    return found


@triton.jit
def is_set(found, shift, KIND: tl.constexpr):
    """Marks as booleans; ``shift`` is the column modulo 8."""
    if KIND == "bits":
        result = ((found.to(tl.int32) >> shift) & 1) != 0
    else:
        result = found != 0
    return result


@triton.jit
def is_counted(hidden, seen, inside, shift, unset, MASK: tl.constexpr, OBSERVED: tl.constexpr):
    """Whether entries are scored.

    ``unset`` is the byte of the mask that means that they are not: 0, or 255 where those are scored that the mask
    leaves. The marks of entries that do not lie inside are such bytes, 0 for those of observed entries.
    """
    counted = inside
    if MASK != "none":
        counted = is_set(hidden, shift, MASK) != (unset != 0)
        if OBSERVED != "none":
            counted = counted & is_set(seen, shift, OBSERVED)
    elif OBSERVED != "none":
        counted = is_set(seen, shift, OBSERVED)
    return counted


@triton.jit
def summed_counts(counts, first, groups, partials, GROUPS: tl.constexpr):
    """Sums of counts [groups, partials] from group ``first`` on, [GROUPS] in int64; 0 beyond the last group."""
    group = first + tl.arange(0, GROUPS)[:, None]
    total = tl.zeros([GROUPS, 256], tl.int64)
    for start in range(0, partials, 256):
        partial = start + tl.arange(0, 256)[None, :]
        inside = (group < groups) & (partial < partials)
        total += tl.load(counts + group * partials + partial, mask=inside, other=0).to(tl.int64)
    return tl.sum(total, 1)


@triton.jit(do_not_specialize=["groups", "partials"])
def _finish_kernel(
    workspace,  # [all groups], then [all groups, partials], float64: shares, sums
    loss,  # [programs]
    groups,
    partials,
    BLOCK: tl.constexpr,
):
    """Each program adds up the losses of ``groups`` groups: their partial sums times their shares, in a fixed order."""
    program = tl.program_id(0)
    sums = workspace + tl.num_programs(0) * groups
    first = program * groups * partials
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(first, first + groups * partials, BLOCK):
        position = start + tl.arange(0, BLOCK)
        inside = position < first + groups * partials
        share = tl.load(workspace + position // partials, mask=inside, other=0.0)
        total += share * tl.load(sums + position, mask=inside, other=0.0)
    tl.store(loss + program, tl.sum(total, 0))


def finish(workspace: Tensor, loss: Tensor, groups: int, partials: int) -> None:
    """Write the losses: the sum over each group's partial sums times its share; a scalar loss is that of all groups.

    Args:
        workspace: float64, first the shares [groups], then the sums [groups, partials].
        loss: [...] with one entry per group, or a scalar.
        groups, partials: how many there are.
    """
    programs = loss.numel()
    launch(_finish_kernel, (programs,), workspace, loss, groups // programs, partials, BLOCK=2048, num_warps=8)
