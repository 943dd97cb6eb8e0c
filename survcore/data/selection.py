"""Which rows of a cohort are meant: by index, mask, fold, split or availability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from survcore.data.messages import listed
from survcore.errors import DataError

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort


def row_index(index: Any, count: int, what: str) -> np.ndarray:
    """Row numbers, int64 [n], of an integer index or a bool mask over ``count`` rows.

    Raises:
        DataError: no row, a row twice, a row number out of range, or a mask of another length.
    """
    index = np.asarray(index)
    if index.dtype == bool:
        if index.shape != (count,):
            raise DataError(f"{what}: a mask needs one entry per row ({count}), got shape {list(index.shape)}")
        index = np.flatnonzero(index)
    if index.size == 0:
        raise DataError(f"{what} has no rows")
    if index.dtype.kind not in "iu" or index.ndim != 1:
        raise DataError(
            f"{what}: expected an integer index or a bool mask, got {index.dtype} of shape {list(index.shape)}"
        )
    if (outside := (index < -count) | (index >= count)).any():
        raise DataError(f"{what}: row number {int(index[outside][0])} is outside the {count} rows")
    index = index % count
    if len(np.unique(index)) != len(index):
        raise DataError(f"{what} takes a row twice; row ids must stay unique")
    return index


def rows_where(
    cohort: Cohort,
    *,
    fold: int | Sequence[int] | None,
    not_fold: int | Sequence[int] | None,
    split: str | Sequence[str] | None,
    has: Iterable[str],
    lacks: Iterable[str],
) -> tuple[np.ndarray, str]:
    """The rows that meet every condition, bool [N], and the conditions in words."""
    keep = np.ones(len(cohort), dtype=bool)
    said = []
    for wanted, inside, what in ((fold, True, "fold"), (not_fold, False, "fold"), (split, True, "split")):
        if wanted is not None:
            values = _values(wanted)
            keep &= np.isin(_labels(cohort, what, values), values) == inside
            said.append(f"{'' if inside else 'not '}{what} {', '.join(map(str, values))}")
    for names, inside in ((has, True), (lacks, False)):
        for name in _values(names):
            keep &= cohort.modality(name).present == inside
            said.append(f"{'has' if inside else 'lacks'} {name}")
    return keep, "; ".join(said) or "all rows"


def _values(wanted: Any) -> list[Any]:
    return [wanted] if isinstance(wanted, str) or np.ndim(wanted) == 0 else list(wanted)


def _labels(cohort: Cohort, what: str, values: list[Any]) -> np.ndarray:
    labels = getattr(cohort, what)
    if labels is None:
        raise DataError(f"{cohort.name!r} has no {what}s: give a column {what!r}, or pass {what}= to from_frames")
    if absent := [value for value in values if not (labels == value).any()]:
        known = listed(np.unique(labels), 20)
        raise DataError(f"{what} {listed(absent)} has no rows; the {what}s of {cohort.name!r} are {known}")
    return labels
