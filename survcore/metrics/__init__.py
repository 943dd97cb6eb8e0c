"""Evaluation metrics of survival predictions.

Argument order is (time, event, ...) as in R and lifelines' fitters; a risk is higher for patients expected to fail
earlier. Inputs are NumPy arrays, pandas Series, lists or torch tensors; scikit-survival's structured outcomes go where
the time does, with event left None. Survival curves are [patients, times] with their times, or a DataFrame as lifelines
gives it, times as index and patients as columns.
"""

from __future__ import annotations

from survcore.metrics.concordance import Concordance, concordance_index
from survcore.metrics.kaplan_meier import KaplanMeier, kaplan_meier

__all__ = ["Concordance", "KaplanMeier", "concordance_index", "kaplan_meier"]
