"""How one table of a modality becomes model input: transform, scale, clip, and values for missing entries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from survcore.data.messages import listed, nearest_listed
from survcore.data.modality import Modality, ModalitySpec
from survcore.data.sparse_values import PanelValues
from survcore.errors import DataError

SCALES = ("standard", "minmax", "none")
IMPUTATIONS = ("median", "mean")
# Standard deviations from the training mean beyond which a value is told as absurd.
EXTREME = 20.0


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
        ignored: columns that the training rows had and the model does not read.
    """

    columns: tuple[str, ...]
    transform: str
    centre: np.ndarray
    scale: np.ndarray
    clip: float | None
    fill: np.ndarray
    ignored: tuple[str, ...] = ()

    @classmethod
    def fit(cls, modality: Modality, *, transform: str, scale: str, clip: float | None, impute: str) -> TableScaler:
        """Statistics of the rows that have the modality.

        Args:
            scale: "standard" (mean and population standard deviation), "minmax" (to [0, 1]) or "none".
            clip: bound in standard deviations; it acts under "standard" alone.
            impute: "median" or "mean".
        """
        if modality.panel is not None and transform == scale == "none":
            return cls._of_panel(modality.spec.columns, modality.panel, impute)
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

    @classmethod
    def _of_panel(cls, columns: tuple[str, ...], panel: PanelValues, impute: str) -> TableScaler:
        """Of zeros and ones that stay as they are, without writing them out."""
        width = len(columns)
        known, ones = panel.coverage.column_counts(), panel.column_ones()
        if impute == "mean":
            fill = ones / np.maximum(known, 1)
        else:
            zeros = known - ones
            fill = (((known - 1) // 2 >= zeros).astype(np.float64) + (known // 2 >= zeros)) / 2 * (known > 0)
        return cls(columns, "none", np.zeros(width), np.ones(width), None, fill)

    @property
    def is_identity(self) -> bool:
        """Whether values stay as they are, so that zeros and ones stay zeros and ones."""
        unmoved = self.transform == "none" and self.clip is None
        return unmoved and not self.centre.any() and bool((self.scale == 1.0).all())

    @cached_property
    def position(self) -> dict[str, int]:
        """Place of every column in the model's input."""
        return {column: index for index, column in enumerate(self.columns)}

    @cached_property
    def ignored_names(self) -> frozenset[str]:
        """:attr:`ignored`, to look names up in."""
        return frozenset(self.ignored)

    def apply(self, table: np.ndarray) -> np.ndarray:
        """Transformed, scaled and clipped values: float32 [N, width]; missing entries stay NaN."""
        values = table.astype(np.float64)
        return self._scaled(signed_log(values) if self.transform == "signed_log" else values).astype(np.float32)

    def extreme(self, table: np.ndarray, applied: np.ndarray) -> dict[int, str]:
        """Rows with an entry more than 20 standard deviations of the training rows from their mean, and what is told.

        It means something under the scale "standard" alone. Columns that were constant in training have no such
        measure and are left out.

        Args:
            table: [N, width], the values before :meth:`apply`.
            applied: [N, width], what :meth:`apply` made of them. Only rows that reached the clip, or 20 standard
                deviations where there is no clip below, are looked at again.
        """
        bound = np.float32(EXTREME if self.clip is None else min(EXTREME, self.clip))
        rows = np.flatnonzero((np.abs(applied) >= bound).any(axis=1))
        if not len(rows):
            return {}
        values = table[rows].astype(np.float64)
        distance = np.abs((signed_log(values) if self.transform == "signed_log" else values) - self.centre) / self.scale
        # A constant column has a scale of exactly 1.
        distance = np.where(np.isnan(distance) | (self.scale == 1.0), 0.0, distance)
        counts, worst = (distance > EXTREME).sum(axis=1), distance.argmax(axis=1)
        return {
            int(row): _far(self.columns[place], distances[place], count)
            for row, distances, place, count in zip(rows, distance, worst, counts, strict=True)
            if count
        }

    def aligned(self, modality: Modality, *, gaps: bool = False) -> np.ndarray | PanelValues:
        """The modality's values as they are held, with its columns in the order of the model's input.

        Args:
            gaps: columns that are absent become missing entries (NaN), for models that take such.

        Raises:
            DataError: columns that the model needs are absent, or there are columns it never saw.
        """
        spec = modality.spec
        if modality.held is None:
            raise DataError(
                f"modality {spec.name!r}: the model takes a table, the cohort holds one {spec.kind} array per row"
            )
        if spec.columns == self.columns:
            return modality.held
        found = {column: index for index, column in enumerate(spec.columns)}
        missing = [column for column in self.columns if column not in found]
        known = self.position.keys() | self.ignored_names
        unexpected = [column for column in spec.columns if column not in known]
        if unexpected or (missing and not gaps):
            raise DataError(_other_columns(spec, self.columns, missing, unexpected))
        places = np.array([found.get(column, -1) for column in self.columns], dtype=np.int64)
        if modality.panel is not None:
            return modality.panel.columns(places)
        table = np.full((len(modality), len(self.columns)), np.nan, dtype=np.float32)
        table[:, places >= 0] = modality.held[:, places[places >= 0]]
        return table

    def state(self) -> dict[str, Any]:
        """A JSON-able description, exact to the last bit; :meth:`from_state` reads it."""
        arrays = {name: getattr(self, name).tolist() for name in ("centre", "scale", "fill")}
        return {
            "columns": list(self.columns),
            "transform": self.transform,
            "clip": self.clip,
            **arrays,
            "ignored": list(self.ignored),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TableScaler:
        arrays = {name: np.array(state[name], dtype=np.float64) for name in ("centre", "scale", "fill")}
        # States written before columns could be left out name none.
        ignored = tuple(state.get("ignored", ()))
        return cls(tuple(state["columns"]), state["transform"], clip=state["clip"], **arrays, ignored=ignored)

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


def _far(column: str, distance: float, count: int) -> str:
    number = f"{distance:.0f}" if distance < 1e6 else f"{distance:.1e}"
    others = "" if count == 1 else f" ({count} such entries)"
    return f"{column!r} lies {number} standard deviations from the training mean{others}"


def _other_columns(spec: ModalitySpec, expected: tuple[str, ...], missing: list[str], unexpected: list[str]) -> str:
    parts = [f"modality {spec.name!r}: the model takes {len(expected)} columns, the cohort has {len(spec.columns)}"]
    if missing:
        parts.append(f"{len(missing)} missing: {listed(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: {nearest_listed(unexpected, expected)}")
    return "; ".join(parts)
