"""Fold means with bootstrap intervals, and paired differences on the same patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

from survcore.draws import stream_seed
from survcore.evaluation.outcomes import COLUMNS, concordance
from survcore.metrics import Interval
from survcore.metrics.intervals import percentile_interval
from survcore.metrics.resampling import Patients, metric_values


def signed(difference: float, lower: float, upper: float) -> str:
    """A difference and its limits, all with their signs."""
    return f"{difference:+.3f} ({lower:+.3f} to {upper:+.3f})"


def own_rows(predictions: pd.DataFrame, system: str) -> pd.DataFrame:
    """The lines of an evaluation's table that are the system's own: complete, or with its own fill-in."""
    return predictions[(predictions["model"] == system) & predictions["fill"].isin(["", "own"])]


class FoldBootstrap:
    """Resamples of patients within each fold, the same for every set of risks.

    The C-index compares risks of one trained model only, so patients are drawn within folds and the fold values
    averaged; the interval shows the sampling of test patients, not the retraining of the model.

    Args:
        outcomes: DataFrame indexed by row id with columns fold, patient, time, event (bool) and any of entry, stratum
            and weight, which the C-index then takes into account.
        draws: number of resamples.
        seed: of the resamples.
    """

    def __init__(self, outcomes: pd.DataFrame, *, draws: int = 1000, seed: int = 0) -> None:
        self.outcomes = outcomes
        self._columns = {name: outcomes[name].to_numpy() for name in COLUMNS if name in outcomes}
        if "stratum" in outcomes:
            # Numbers, as labels would be compared anew in every resample.
            self._columns["stratum"] = pd.factorize(outcomes["stratum"])[0]
        self._means: dict[bytes, np.ndarray] = {}
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
        return cls(rows[["fold", "patient", *(name for name in COLUMNS if name in rows)]], seed=seed)

    def fold_means(self, risk: pd.Series) -> np.ndarray:
        """Mean C-index over folds of the data themselves (first) and of every resample; risk is indexed by row id."""
        values = risk.reindex(self.outcomes.index).to_numpy()
        # The risks of a model are compared with those of many others.
        if (key := values.tobytes()) in self._means:
            return self._means[key]
        known = ~np.isnan(values)

        def index(risk: np.ndarray, *columns: np.ndarray) -> float:
            return float(concordance(dict(zip(self._columns, columns, strict=True)), risk))

        arrays = (values, *self._columns.values())
        indices = [metric_values(index, arrays, (rows[known[rows]] for rows in samples)) for samples in self.samples]
        self._means[key] = np.nanmean(indices, axis=0)
        return self._means[key]

    def difference(self, first: pd.Series, second: pd.Series) -> Interval:
        """Fold mean of ``first`` minus that of ``second``, paired on the rows that both have (risks by row id)."""
        shared = first.index.intersection(second.index)
        ours, theirs = (self.fold_means(risk.loc[shared]) for risk in (first, second))
        return self.interval(ours - theirs)

    @staticmethod
    def interval(means: np.ndarray) -> Interval:
        """The value and its 95 % percentile interval from :meth:`fold_means` (or a difference of two)."""
        return percentile_interval(float(means[0]), means[1:], 0.95)
