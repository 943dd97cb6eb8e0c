"""Rows that fail, each by itself, while the others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from survcore.errors import DataError

Result = TypeVar("Result")

# What a row's own data can cause; of RuntimeErrors PyTorch's want of memory counts too, which the row's size causes.
_OF_ROWS = (DataError, OSError, MemoryError)


def in_parts(
    call: Callable[[Tensor], Result], rows: Tensor, failures: dict[int, str] | None
) -> list[tuple[Tensor, Result]]:
    """What a call gives for rows: of all at once, or in parts where some rows fail.

    A part that fails is halved until its failing rows stand alone, so k failing rows among n cost about 2 k log2(n)
    further calls.

    Args:
        call: takes an int64 index.
        rows: int64 [n], positions of the rows.
        failures: takes the failing positions and why; None raises the first error.
    """
    try:
        return [(rows, call(rows))]
    except (*_OF_ROWS, RuntimeError) as error:
        of_a_row = isinstance(error, _OF_ROWS) or "memory" in str(error)
        if failures is None or not of_a_row:
            raise
        if len(rows) == 1:
            failures[int(rows)] = str(error) or type(error).__name__
            return []
    half = len(rows) // 2
    return [*in_parts(call, rows[:half], failures), *in_parts(call, rows[half:], failures)]
