"""What a predictor finds for rows, and the table it makes of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from survcore.data.prepared import PreparedCohort
from survcore.inference.survival_curve import SurvivalCurves
from survcore.models.base import Encoded

# Columns of quantiles of the risk over draws; the last two say little of fewer draws.
_LEVELS = {"risk_min": 0.0, "risk_max": 1.0, "risk_q025": 0.025, "risk_q975": 0.975}
_DRAWS_FOR_QUANTILES = 40
_TEXTS = ("available", "completed", "fill", "subsampled", "warning", "error")


@dataclass(frozen=True)
class Outputs:
    """Raw outputs for n rows; a row that failed has NaN.

    Attributes:
        row_ids: str [n].
        available: bool [n, M], modalities that the rows have.
        heads: float64 arrays by name, ``risk`` [n] and e.g. ``hazard_logits`` [n, K].
        draw_risks: float64 [n, draws], the risk that each single draw gives; NaN where nothing was drawn.
        completed: bool [n, M], modalities that were filled in.
        imputed: int64 [n], single entries that took training values.
        subsampled: bool [n, M], bags of which ``max_patches`` let only a part be seen.
        dropped_patches: int64 [n], patches that were left out of the bags for a missing entry.
        warnings: what to be warned of in a row, by position.
        errors: why a row failed, by position; empty where none did.
    """

    row_ids: np.ndarray
    available: np.ndarray
    heads: dict[str, np.ndarray]
    draw_risks: np.ndarray
    completed: np.ndarray
    imputed: np.ndarray
    subsampled: np.ndarray
    dropped_patches: np.ndarray
    warnings: dict[int, str]
    errors: dict[int, str]

    @property
    def drawn(self) -> np.ndarray:
        """Rows of which something was drawn, bool [n]."""
        return ~np.isnan(self.draw_risks).all(axis=1)

    @property
    def risk_spread(self) -> np.ndarray:
        """Standard deviation of the risk over single draws, float64 [n]: 0 where nothing was drawn, NaN where there is
        but one draw."""
        spread = np.where(np.isnan(self.heads["risk"]), np.nan, 0.0)
        risks = self.draw_risks[self.drawn]
        spread[self.drawn] = risks.std(axis=1, ddof=1) if risks.shape[1] > 1 else np.nan
        return spread

    def risk_quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles of the risk over single draws, float64 [n, levels], 0 the least and 1 the largest; the risk itself
        where nothing was drawn."""
        found = np.repeat(self.heads["risk"][:, None], len(levels), axis=1)
        if self.drawn.any():
            found[self.drawn] = np.quantile(self.draw_risks[self.drawn], levels, axis=1).T
        return found


@dataclass(frozen=True)
class EncodedCohort:
    """Rows of a cohort behind the encoders, to be completed and predicted in several ways.

    Attributes:
        prepared: the rows before the encoders.
        max_patches: largest number of patches of a bag that was let be seen; 0 for all.
        parts: positions int64 and encodings of the rows, on the device of the model; rows that failed are in none.
        errors: why a row failed, by position; complete when the parts were gone through.
    """

    prepared: PreparedCohort
    max_patches: int
    parts: Iterable[tuple[Tensor, Encoded]]
    errors: dict[int, str]

    @property
    def row_ids(self) -> np.ndarray:
        """str [n]."""
        return self.prepared.row_ids

    @property
    def batches(self) -> Iterable[Encoded]:
        """The encodings alone."""
        return (encoded for _, encoded in self.parts)

    @property
    def imputed(self) -> np.ndarray:
        """Single entries that took training values, int64 [n]."""
        return sum(self.prepared.imputed.values(), np.zeros(len(self.prepared), dtype=np.int64))

    @property
    def subsampled(self) -> np.ndarray:
        """Bags of which ``max_patches`` let only a part be seen, bool [n, M]."""
        return self.prepared.subsampled(self.max_patches)


def prediction_table(
    outputs: Outputs,
    curves: SurvivalCurves,
    modalities: Sequence[str],
    *,
    months: Sequence[float],
    restricted_mean_to: float | None,
    fill: str,
) -> pd.DataFrame:
    """The table of :meth:`survcore.Predictor.predict`."""
    table: dict[str, np.ndarray | list[str]] = {"risk": outputs.heads["risk"], "risk_spread": outputs.risk_spread}
    levels = _LEVELS if outputs.draw_risks.shape[1] >= _DRAWS_FOR_QUANTILES else dict(list(_LEVELS.items())[:2])
    table |= dict(zip(levels, outputs.risk_quantiles(list(levels.values())).T, strict=True))
    table["median_survival"] = curves.median()
    for month, column in zip(months, curves.survival(list(months)).T, strict=True):
        table[f"survival_{month:g}"] = column
    if restricted_mean_to is not None:
        table["restricted_mean"] = curves.restricted_mean(restricted_mean_to)
    names = np.array(modalities)
    there, filled, cut = (
        ["+".join(names[row]) for row in mask] for mask in (outputs.available, outputs.completed, outputs.subsampled)
    )
    table["available"], table["completed"] = there, filled
    table["fill"] = [fill if row else "" for row in filled]
    table["imputed_entries"] = outputs.imputed
    table["subsampled"] = cut
    table["dropped_patches"] = outputs.dropped_patches
    rows = range(len(outputs.row_ids))
    table["warning"] = [outputs.warnings.get(row, "") for row in rows]
    table["error"] = [outputs.errors.get(row, "") for row in rows]
    # Without rows nothing else tells pandas that a column holds text.
    table |= {name: np.array(table[name], dtype=object) for name in _TEXTS}
    return pd.DataFrame(table, index=pd.Index(outputs.row_ids, name="row_id"))


def with_unread(table: pd.DataFrame, row_ids: np.ndarray, errors: dict[int, str]) -> pd.DataFrame:
    """A table of the patients who could be read, with a line for each who could not, in the order of all.

    Args:
        table: of the others, in order.
        row_ids: str [n], of all.
        errors: by position, why a patient could not be read.
    """
    if not errors:
        return table
    positions = [position for position in range(len(row_ids)) if position not in errors]
    whole = table.set_axis(positions).reindex(range(len(row_ids)))
    for name, dtype in table.dtypes.items():
        if dtype.kind != "f":
            there = whole[name].astype(object)
            whole[name] = there.where(there.notna(), "" if name in _TEXTS else 0).astype(dtype)
    whole.loc[list(errors), "error"] = list(errors.values())
    return whole.set_axis(pd.Index(row_ids, name="row_id"))
