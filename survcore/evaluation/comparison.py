"""Fold means with bootstrap intervals, and paired differences on the same patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from survcore.draws import stream_seed
from survcore.metrics import concordance_index
from survcore.metrics.resampling import Patients, metric_values, percentiles


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def signed(self) -> str:
        """The same, with signs, for differences."""
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def own_rows(predictions: pd.DataFrame, system: str) -> pd.DataFrame:
    """The lines of an evaluation's table that are the system's own: complete, or with its own fill-in."""
    return predictions[(predictions["model"] == system) & predictions["fill"].isin(["", "own"])]


class FoldBootstrap:
    """Resamples of patients within each fold, the same for every set of risks.

    The C-index compares risks of one trained model only, so patients are drawn within folds and the fold values
    averaged; the interval shows the sampling of test patients, not the retraining of the model.

    Args:
        outcomes: DataFrame indexed by row id with columns fold, patient, time, event (bool).
        draws: number of resamples.
        seed: of the resamples.
    """

    def __init__(self, outcomes: pd.DataFrame, *, draws: int = 1000, seed: int = 0) -> None:
        self.outcomes = outcomes
        self.samples: list[list[np.ndarray]] = []
        for fold, rows in outcomes.groupby("fold", sort=True):
            generator = np.random.default_rng(stream_seed(seed, "bootstrap", int(fold)))
            positions = outcomes.index.get_indexer(rows.index)
            patients = Patients(len(rows), rows["patient"])
            samples = [positions, *(positions[patients.draw(generator)] for _ in range(draws))]
            self.samples.append(samples)

    @classmethod
    def of_predictions(cls, predictions: pd.DataFrame, *, seed: int = 0) -> FoldBootstrap:
        """Resamples of all test patients of an evaluation."""
        rows = predictions.drop_duplicates("row_id").set_index("row_id")
        return cls(rows[["fold", "patient", "time", "event"]], seed=seed)

    def fold_means(self, risk: pd.Series) -> np.ndarray:
        """Mean C-index over folds of the data themselves (first) and of every resample; risk is indexed by row id."""
        values = risk.reindex(self.outcomes.index).to_numpy()
        time, event = self.outcomes["time"].to_numpy(), self.outcomes["event"].to_numpy()
        known = ~np.isnan(values)
        arrays = (time, event, values)
        indices = [
            metric_values(concordance_index, arrays, (rows[known[rows]] for rows in samples))
            for samples in self.samples
        ]
        return np.nanmean(indices, axis=0)

    def difference(self, first: pd.Series, second: pd.Series) -> Interval:
        """Fold mean of ``first`` minus that of ``second``, paired on the rows that both have (risks by row id)."""
        shared = first.index.intersection(second.index)
        ours, theirs = (self.fold_means(risk.loc[shared]) for risk in (first, second))
        return self.interval(ours - theirs)

    @staticmethod
    def interval(means: np.ndarray) -> Interval:
        """The value and its interval from :meth:`fold_means` (or a difference of two)."""
        return Interval(float(means[0]), *percentiles(means[1:], 0.95))
