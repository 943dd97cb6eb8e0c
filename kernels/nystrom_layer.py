"""Nystrom attention over ragged bags, without gradients: rows are read, and little else, whatever their number.

As plain operations a layer of n rows [n, D] with H heads of d features and m landmarks writes, and reads again, the
normalised rows, queries, keys, values and H m scores per row. Here what is kept of a row is its values, the heads'
results, and 8 bytes, the mean and the deviation of its LayerNorm.

- landmark_means, 2 launches: rows read once, 10 D operations each.
- attend_to_bag, 2 launches: 4 D^2 + 4 Q D operations per row for keys, values and Q queries. Rows of a bag are shared
  out over programs, so that few queries fill a device; of each share stay Q (d + 2) numbers per head.
- mix_landmarks, 2 launches: 2 D^2 + 4 m D + 192 D operations per row for queries, attention to the landmarks and the
  convolution as a product with a band matrix, then 2 D^2 for the output projection.

Products are taken in the type of ``dot_dtype``: float16 and bfloat16 as they are, with float32 sums, float32 in three
products of tf32 each; statistics, softmax and sums are float32. Everything is added in a fixed order.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from survcore.kernels._launch import launch
from survcore.kernels._nystrom_attend import attend_to_parts, join_attended
from survcore.kernels._nystrom_mix import mix_tiles, project_tiles
from survcore.kernels._nystrom_rows import landmark_means_of_parts, landmark_parts

PROGRAMS = 528  # to share the rows of bags: four for each processor of the largest devices
MOST_SPLITS = 128
MOST_PARTS = 16  # of the rows of a landmark
MOST_QUERIES = 128  # of a program
MOST_BAGS = 65_535
MOST_HELD = 256  # columns of a tile that is kept on the chip
ROWS = 64  # of a tile


def supports(
    dtype: torch.dtype, dot_dtype: torch.dtype, width: int, heads: int, landmarks: int = 1, bags: int = 1
) -> bool:
    """Whether the kernels take rows of ``dtype`` and these sizes; everything else is left to plain operations."""
    head_width = width // max(heads, 1)
    narrow = (torch.float16, torch.bfloat16)
    return (
        (dtype == torch.float32 or dtype == dot_dtype)
        and (dot_dtype == torch.float32 or dot_dtype in narrow)
        # Three products of wide heads take more registers, and more tensor memory, than there are.
        and head_width in ((16, 32) if dot_dtype == torch.float32 else (16, 32, 64))
        and head_width * heads == width <= 512
        and 1 <= landmarks <= 256
        and bags <= MOST_BAGS
    )


def landmark_means(
    rows: Tensor, offsets: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, landmarks: int
) -> tuple[Tensor, Tensor]:
    """Means of LayerNorm(rows) [B, m, D] and the norm's statistics [N, 2] (mean, 1 / deviation), float32.

    Args:
        rows: [N, D], those of all bags one after the other.
        offsets: [B + 1], int64: the first row of each bag, and N.
        norm_weight, norm_bias: [D].
        eps: of the norm.
        landmarks: m; zero rows in front of a bag make its count a multiple of m.
    """
    rows = _rows(rows)
    (count, width), bags = rows.shape, len(offsets) - 1
    block = triton.next_power_of_2(width)
    splits = max(1, min(triton.cdiv(count, 64 * landmarks), MOST_PARTS))
    statistics = rows.new_empty(count, 2, dtype=torch.float32)
    parts = rows.new_empty(bags, landmarks, splits, width, dtype=torch.float32)
    means = rows.new_empty(bags, landmarks, width, dtype=torch.float32)
    launch(
        landmark_parts,
        (landmarks, splits, bags),
        rows,
        offsets,
        statistics,
        parts,
        rows.stride(0),
        splits,
        eps,
        WIDTH=width,
        LANDMARKS=landmarks,
        BLOCK_ROWS=4096 // max(block, 128),
        BLOCK_WIDTH=block,
    )
    launch(
        landmark_means_of_parts,
        (landmarks, bags),
        parts,
        offsets,
        norm_weight,
        norm_bias,
        means,
        splits,
        WIDTH=width,
        LANDMARKS=landmarks,
        BLOCK_SPLITS=MOST_PARTS,
        BLOCK_WIDTH=block,
    )
    return means, statistics


def attend_to_bag(
    query: Tensor,
    rows: Tensor,
    offsets: Tensor,
    longest: int,
    statistics: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    key_value_weight: Tensor,
    key_value_bias: Tensor | None,
    dot_dtype: torch.dtype,
    landmarks: int = 0,
    made_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attended values [B, H, Q, d] and the log of the summed weights [B, H, Q], float32; 0 and -inf of an empty bag.

    Args:
        query: [B, H, Q, d], scaled.
        rows: [N, D], those of all bags one after the other.
        offsets: [B + 1], int64.
        longest: no bag has more rows.
        statistics: [N, 2] of the norm of rows, or None, with norm_weight and norm_bias, for rows as they are.
        norm_weight, norm_bias: [D], or None.
        key_value_weight: [2 D, D].
        key_value_bias: [2 D], or None.
        dot_dtype: of the products.
        landmarks: above 0, the zero rows that make a bag's count a multiple of it are keys of score 0, values of 0.
        made_values: [N, D] in ``dot_dtype``, which the values of all rows are written to, or None.
    """
    rows = _rows(rows)
    bags, heads, queries, head_width = query.shape
    width = rows.shape[1]
    block = min(max(triton.next_power_of_2(queries), 16), MOST_QUERIES)
    blocks = triton.cdiv(queries, block)
    wanted = triton.cdiv(PROGRAMS, max(heads * blocks * bags, 1))
    splits = max(1, min(triton.cdiv(longest, ROWS), wanted, MOST_SPLITS))
    sums = rows.new_empty(bags, splits, heads, queries, head_width, dtype=torch.float32)
    shifts = rows.new_empty(bags, splits, 2, heads, queries, dtype=torch.float32)
    values = rows.new_empty(query.shape, dtype=torch.float32)
    log_weight = rows.new_empty(query.shape[:3], dtype=torch.float32)
    launch(
        attend_to_parts,
        (heads * blocks, splits, bags),
        _dense(query, dot_dtype),
        rows,
        offsets,
        statistics,
        norm_weight,
        norm_bias,
        _dense(key_value_weight, dot_dtype),
        key_value_bias,
        made_values,
        sums,
        shifts,
        rows.stride(0),
        queries,
        splits,
        HEADS=heads,
        HEAD_WIDTH=head_width,
        WIDTH=width,
        BLOCK_QUERIES=block,
        BLOCK_ROWS=ROWS,
        BLOCK_WIDTH=_depth(width, 32 if dot_dtype == torch.float32 else 64),
        PRECISION=_precision(dot_dtype),
        num_warps=8 if block > 32 else 4,
    )
    launch(
        join_attended,
        (bags * heads * queries,),
        sums,
        shifts,
        offsets,
        values,
        log_weight,
        queries,
        splits,
        HEADS=heads,
        HEAD_WIDTH=head_width,
        LANDMARKS=landmarks,
        BLOCK_SPLITS=MOST_SPLITS if splits > 16 else 16,
    )
    return values, log_weight


def mix_landmarks(
    rows: Tensor,
    values: Tensor,
    offsets: Tensor,
    longest: int,
    statistics: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    residual: Tensor,
    key: Tensor,
    value: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    kept: int | None,
    dot_dtype: torch.dtype,
) -> Tensor:
    """rows + Linear(softmax(q key^T) value + the convolution of v over rows), in the type of rows.

    Args:
        rows: [N, D], those of all bags one after the other.
        offsets: [B + 1], int64.
        longest: no bag has more rows.
        statistics: [N, 2] of the norm of rows.
        norm_weight, norm_bias: [D].
        query_weight: [D, D].
        residual: [H, taps], an odd number of at most 33 taps per head.
        key, value: [B, H, m, d], of the landmarks.
        output_weight, output_bias: [D, D], [D].
        kept: how many rows of each bag are wanted, from its start: [B, kept, D], zero where a bag has fewer; None:
            all, [N, D].
        dot_dtype: of the products.
    """
    rows = _rows(rows)
    (count, width), (bags, heads, landmarks, head_width) = rows.shape, key.shape
    if kept is None:
        results = rows.new_empty(count, width)
    else:
        results = (rows.new_empty if bags == 1 and kept <= count else rows.new_zeros)(bags, kept, width)
    mixed = torch.empty_like(results, dtype=dot_dtype)
    kept, of_bag = (longest, 0) if kept is None else (min(kept, longest), kept)
    tiles = triton.cdiv(kept, ROWS)
    half = dot_dtype != torch.float32
    held = half and width <= MOST_HELD
    launch(
        mix_tiles,
        (tiles, bags),
        rows,
        values,
        offsets,
        statistics,
        norm_weight,
        norm_bias,
        _dense(query_weight, dot_dtype),
        residual.contiguous(),
        _dense(key, dot_dtype),
        _dense(value, dot_dtype),
        mixed,
        rows.stride(0),
        kept,
        of_bag,
        head_width**-0.5,
        HEADS=heads,
        HEAD_WIDTH=head_width,
        WIDTH=width,
        TAPS=residual.shape[1],
        BLOCK_ROWS=ROWS,
        LANDMARKS=landmarks,
        BLOCK_LANDMARKS=min(max(triton.next_power_of_2(landmarks), 16), 64 if half else 32),
        BLOCK_NEIGHBOURS=32 if half else 16,
        BLOCK_WIDTH=triton.next_power_of_2(width) if held else _depth(width, 64 if half else 32),
        HELD=held,
        PRECISION=_precision(dot_dtype),
        num_warps=4,
    )
    block = min(triton.next_power_of_2(width), 128)
    launch(
        project_tiles,
        (triton.cdiv(width, block) * tiles, bags),
        rows,
        mixed,
        offsets,
        _dense(output_weight, dot_dtype),
        output_bias,
        results,
        rows.stride(0),
        kept,
        of_bag,
        WIDTH=width,
        BLOCK_ROWS=ROWS,
        BLOCK_OUTPUT=block,
        BLOCK_WIDTH=_depth(width, 64 if half else 32),
        PRECISION=_precision(dot_dtype),
        num_warps=4 if half else 8,
    )
    return results


def _rows(rows: Tensor) -> Tensor:
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _dense(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).contiguous()


def _depth(width: int, most: int) -> int:
    """How much of the summed dimension is loaded at a time."""
    return min(triton.next_power_of_2(width), most)


def _precision(dtype: torch.dtype) -> str:
    return "tf32x3" if dtype == torch.float32 else "tf32"
