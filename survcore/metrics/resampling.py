"""Resamples of patients, and a metric over them: what intervals, paired comparisons and fold bootstraps share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from survcore.arguments import to_numpy

Metric = Callable[..., Any]


class Patients:
    """Which rows belong to which patient, for drawing whole patients.

    Args:
        rows: number of rows.
        groups: patient of each row [rows], labels of any kind; None when every row is a patient.
    """

    def __init__(self, rows: int, groups: Any = None) -> None:
        codes = np.arange(rows) if groups is None else _patient_codes(groups, rows)
        self._sizes = np.bincount(codes)
        self._one_row_each = len(self._sizes) == rows
        self._rows = np.argsort(codes, kind="stable")
        self._starts = np.concatenate(([0], np.cumsum(self._sizes)))[:-1]

    def __len__(self) -> int:
        return len(self._sizes)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Rows of as many patients as there are, drawn with replacement; one drawn twice brings its rows twice."""
        chosen = generator.integers(len(self), size=len(self))
        return chosen if self._one_row_each else self.rows_of(chosen)

    def rows_of(self, patients: np.ndarray) -> np.ndarray:
        """Rows of these patients (numbers 0, 1, .. in the order of their labels), one patient after the other."""
        sizes = self._sizes[patients]
        ends = np.cumsum(sizes)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
        return self._rows[np.repeat(self._starts[patients], sizes) + within]

    def without(self, patient: int) -> np.ndarray:
        """All rows but those of this patient, in ascending order."""
        start = self._starts[patient]
        return np.sort(np.delete(self._rows, np.arange(start, start + self._sizes[patient])))


def aligned(arrays: Sequence[Any]) -> list[np.ndarray]:
    """Arrays, Series, DataFrames, lists or tensors as NumPy arrays with the same number of rows.

    Raises:
        ValueError: for no array, an array without rows, or different numbers of rows.
    """
    found = [to_numpy(array) for array in arrays]
    shapes = [array.shape for array in found]
    if not found or any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        frames = any(isinstance(array, pd.DataFrame) for array in arrays)
        raise ValueError(
            f"expected arrays with one row per patient each, got shapes {shapes}; curves are [patients, times]"
            + (", and a DataFrame with times as index goes in transposed, as frame.T" if frames else "")
        )
    return found


def metric_values(
    metric: Metric,
    arrays: Sequence[np.ndarray],
    samples: Iterable[np.ndarray],
    *,
    undefined: tuple[type[Exception], ...] = (),
) -> np.ndarray:
    """The metric on each sample of rows; NaN where it is NaN or raises one of ``undefined``."""
    values = []
    for rows in samples:
        try:
            values.append(number(metric(*[array[rows] for array in arrays])))
        except undefined:
            values.append(np.nan)
    return np.array(values, dtype=np.float64)


def number(result: Any) -> float:
    """The result of a metric as a float."""
    try:
        return float(result)
    except TypeError:
        raise TypeError(
            f"expected the metric to return one number, got {type(result).__name__}; choose one in a lambda"
        ) from None


def percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """Limits that leave (1 - level) / 2 of the values on either side; NaN are left out, all NaN gives NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def _patient_codes(groups: Any, rows: int) -> np.ndarray:
    """Numbers 0, 1, .. of the patients in the order of their labels [rows]."""
    groups = to_numpy(groups)
    if groups.shape != (rows,):
        raise ValueError(f"expected groups as a vector of {rows} patients, one per row, got shape {groups.shape}")
    codes, _ = pd.factorize(groups, sort=True)
    if (codes < 0).any():
        raise ValueError(f"groups names no patient at row {int((codes < 0).argmax())}")
    return codes
