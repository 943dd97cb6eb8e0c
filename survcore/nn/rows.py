"""Computing on the rows of a batch that own something, and putting the results back in place."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

Rows = Tensor | slice
Values = TypeVar("Values")


def owner_rows(mask: Tensor) -> Rows:
    """The rows where ``mask`` [B] is True; a slice where that is every row, so that indexing copies nothing."""
    return slice(None) if bool(mask.all()) else mask.nonzero().squeeze(1)


def take_rows(values: Values, rows: Rows) -> Values:
    """Rows of something that may not be there; a slice means every row."""
    return values if values is None or isinstance(rows, slice) else values[rows]


def take_keys(row_key: Tensor, rows: Rows) -> Tensor:
    """Rows of the row keys, which stay on the CPU while the batch may be elsewhere."""
    return row_key[rows if isinstance(rows, slice) else rows.to(row_key.device)]


def put_rows(values: Values, rows: Rows, size: int) -> Values:
    """[n, ...] to [size, ...]: the given rows in their places, zeros elsewhere; a slice means every row."""
    if values is None or isinstance(rows, slice):
        return values
    return values.new_zeros((size, *values.shape[1:])).index_copy(0, rows, values)
