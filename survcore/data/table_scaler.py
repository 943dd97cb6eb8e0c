"""How one table of a modality becomes model input: transform, scale, clip, and values for missing entries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from survcore.data.messages import listed
from survcore.data.modality import Modality, ModalitySpec
from survcore.errors import DataError

SCALES = ("standard", "minmax", "none")
IMPUTATIONS = ("median", "mean")


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + |x|): a logarithm that keeps zero and the sign; NaN stays NaN."""
    return np.copysign(np.log1p(np.abs(values)), values)


@dataclass(frozen=True)
class TableScaler:
    """Column statistics of one table, taken from the training rows that have the modality, NaN ignored.

    Attributes:
        columns: column names in the order of the model's input.
        transform: "none" or "signed_log", applied first.
        centre, scale: float64 [width]; a value becomes (value - centre) / scale. A constant column has scale 1, a
            column without any training value centre 0 and scale 1.
        clip: bound of the scaled value on both sides, or None.
        fill: float64 [width], what a missing entry becomes: median or mean of the scaled and clipped training values.
    """

    columns: tuple[str, ...]
    transform: str
    centre: np.ndarray
    scale: np.ndarray
    clip: float | None
    fill: np.ndarray

    @classmethod
    def fit(cls, modality: Modality, *, transform: str, scale: str, clip: float | None, impute: str) -> TableScaler:
        """Statistics of the rows that have the modality.

        Args:
            scale: "standard" (mean and population standard deviation), "minmax" (to [0, 1]) or "none".
            clip: bound in standard deviations; it acts under "standard" alone.
            impute: "median" or "mean".
        """
        values = modality.table[modality.present].astype(np.float64)
        if transform == "signed_log":
            values = signed_log(values)
        observed = ~np.isnan(values)
        known = observed.any(axis=0)
        least = np.where(known, np.min(values, axis=0, where=observed, initial=np.inf), 0.0)
        most = np.where(known, np.max(values, axis=0, where=observed, initial=-np.inf), 0.0)
        width = values.shape[1]
        centre, spread = np.zeros(width), np.ones(width)
        if scale == "standard":
            count = np.maximum(observed.sum(axis=0), 1)
            centre = np.sum(values, axis=0, where=observed) / count
            spread = np.sqrt(np.sum((values - centre) ** 2, axis=0, where=observed) / count)
        elif scale == "minmax":
            centre, spread = least, most - least
        # Equality of the extremes, not a computed spread of 0: rounding leaves constant columns a spread around 1e-17.
        constant = least == most
        centre = np.where(constant & (scale != "none"), least, centre)
        spread = np.where(constant, 1.0, spread)
        clip = clip if scale == "standard" else None
        scaler = cls(modality.spec.columns, transform, centre, spread, clip, fill=np.zeros(width))
        return replace(scaler, fill=_column_centres(scaler._scaled(values), observed, impute))

    def apply(self, table: np.ndarray) -> np.ndarray:
        """Transformed, scaled and clipped values: float32 [N, width]; missing entries stay NaN."""
        values = table.astype(np.float64)
        return self._scaled(signed_log(values) if self.transform == "signed_log" else values).astype(np.float32)

    def aligned(self, modality: Modality) -> np.ndarray:
        """The modality's table with its columns in the order of the model's input.

        Raises:
            DataError: columns that the model needs are absent, or there are columns it never saw.
        """
        spec = modality.spec
        if modality.table is None:
            raise DataError(
                f"modality {spec.name!r}: the model takes a table, the cohort holds one {spec.kind} array per row"
            )
        if spec.columns == self.columns:
            return modality.table
        missing = [column for column in self.columns if column not in set(spec.columns)]
        unexpected = [column for column in spec.columns if column not in set(self.columns)]
        if missing or unexpected:
            raise DataError(_other_columns(spec, len(self.columns), missing, unexpected))
        position = {column: index for index, column in enumerate(spec.columns)}
        return modality.table[:, [position[column] for column in self.columns]]

    def state(self) -> dict[str, Any]:
        """A JSON-able description, exact to the last bit; :meth:`from_state` reads it."""
        arrays = {name: getattr(self, name).tolist() for name in ("centre", "scale", "fill")}
        return {"columns": list(self.columns), "transform": self.transform, "clip": self.clip, **arrays}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TableScaler:
        arrays = {name: np.array(state[name], dtype=np.float64) for name in ("centre", "scale", "fill")}
        return cls(tuple(state["columns"]), state["transform"], clip=state["clip"], **arrays)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        scaled = (values - self.centre) / self.scale
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)


def _column_centres(values: np.ndarray, observed: np.ndarray, impute: str) -> np.ndarray:
    """Mean or median of each column's observed values; 0 for a column without any."""
    if impute == "mean":
        return np.sum(values, axis=0, where=observed) / np.maximum(observed.sum(axis=0), 1)
    centres = np.zeros(values.shape[1])
    whole = observed.all(axis=0)
    centres[whole] = np.median(values[:, whole], axis=0)
    # NumPy's nanmedian loops over columns, so it is left to the few that need it.
    partial = observed.any(axis=0) & ~whole
    if partial.any():
        centres[partial] = np.nanmedian(values[:, partial], axis=0)
    return centres


def _other_columns(spec: ModalitySpec, expected: int, missing: list[str], unexpected: list[str]) -> str:
    parts = [f"modality {spec.name!r}: the model takes {expected} columns, the cohort has {len(spec.columns)}"]
    if missing:
        parts.append(f"{len(missing)} missing: {listed(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: {listed(unexpected)}")
    return "; ".join(parts)
