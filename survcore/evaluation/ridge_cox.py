"""Ridge Cox, the honest rival: same preprocessing, principal components, penalizer from the validation rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

from survcore.batch import dense
from survcore.data.cohort import Cohort
from survcore.data.preprocessor import Preprocessor
from survcore.evaluation.cox_fitter import cox_fitter
from survcore.evaluation.outcomes import outcome_columns

PENALIZERS = (0.01, 0.1, 1.0, 10.0)
COMPONENTS = 20


class RidgeCox:
    """lifelines' Cox regression with an L2 penalty on the leading principal components of each modality.

    Entry times, strata and case weights of the cohort enter the partial likelihood.

    Attributes:
        penalizer: chosen by the partial log-likelihood of the validation rows.
    """

    def __init__(self, preprocessor: Preprocessor, projections: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self._preprocessor = preprocessor
        self._projections = projections
        self._fitter: Any = None
        self.penalizer = float("nan")

    @classmethod
    def fit(cls, training: Cohort, validation: Cohort | None, endpoint: str, settings: dict[str, Any]) -> RidgeCox:
        """Fit on the training rows; modalities must be tables.

        Raises:
            ValueError: no penalizer gives a fit that converges.
        """
        from lifelines.exceptions import ConvergenceError

        preprocessor = Preprocessor.fit(training, settings, endpoint=endpoint)
        model = cls(preprocessor, [])
        for values, present in model._tables(training):
            centre = values[present].mean(axis=0)
            _, _, axes = np.linalg.svd(values[present] - centre, full_matrices=False)
            model._projections.append((centre, axes[:COMPONENTS]))
        table = model._features(training, endpoint)
        check = model._features(validation, endpoint) if validation is not None else None
        names = {"entry_col": "entry", "strata": "stratum", "weights_col": "weight"}
        options = {option: name for option, name in names.items() if name in table}
        best = -np.inf
        for penalizer in PENALIZERS if check is not None and check["event"].any() else (1.0,):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    fitter = cox_fitter(penalizer).fit(table, "time", "event", **options)
                    score = fitter.score(check, "log_likelihood") if check is not None else 0.0
                except ConvergenceError:
                    continue
            if score > best:
                best, model._fitter, model.penalizer = score, fitter, penalizer
        if model._fitter is None:
            raise ValueError(f"ridge Cox converged for none of the penalizers {PENALIZERS}")
        return model

    def predict(self, cohort: Cohort) -> np.ndarray:
        """Log partial hazard of each row, float64 [n]; a missing modality stands at the training mean."""
        return self._fitter.predict_log_partial_hazard(self._features(cohort)).to_numpy()

    def _tables(self, cohort: Cohort) -> list[tuple[np.ndarray, np.ndarray]]:
        prepared = self._preprocessor.transform(cohort)
        batch = prepared.batch(torch.arange(len(prepared)))
        available = batch.availability.numpy()
        inputs = self._preprocessor.inputs
        return [(dense(batch.values[part.name]).double().numpy(), available[:, m]) for m, part in enumerate(inputs)]

    def _features(self, cohort: Cohort, endpoint: str | None = None) -> pd.DataFrame:
        blocks = []
        for (values, present), (centre, axes) in zip(self._tables(cohort), self._projections, strict=True):
            blocks.append(np.where(present[:, None], (values - centre) @ axes.T, 0.0))
        features = np.concatenate(blocks, axis=1)
        table = pd.DataFrame(features, columns=[f"component_{i}" for i in range(features.shape[1])])
        if endpoint is None:
            return table
        table = table.assign(**outcome_columns(cohort, endpoint))
        # A row of no weight says nothing, and lifelines refuses it.
        return table[table["weight"] > 0].reset_index(drop=True) if "weight" in table else table
