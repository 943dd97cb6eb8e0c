"""Evaluation metrics of survival predictions.

Argument order is (time, event, ...) as in R and lifelines' fitters; a risk is higher for patients expected to fail
earlier. Inputs are NumPy arrays, pandas Series, lists or torch tensors; scikit-survival's structured outcomes go where
the time does, with event left None. Survival curves are [patients, times] with their times, or a DataFrame as lifelines
gives it, times as index and patients as columns.
"""

from __future__ import annotations

from survcore.metrics.auc import DynamicAUC, auroc_at_horizon, cumulative_dynamic_auc
from survcore.metrics.brier import brier_score, cs_score, integrated_brier_score
from survcore.metrics.calibration import Calibration, calibration_at
from survcore.metrics.censoring import CensoringDistribution, censoring_survival
from survcore.metrics.concordance import Concordance, concordance_index
from survcore.metrics.concordance_ipcw import concordance_index_ipcw
from survcore.metrics.concordance_td import TimeDependentConcordance, concordance_index_td
from survcore.metrics.d_calibration import DCalibration, d_calibration
from survcore.metrics.intervals import Interval, bootstrap_interval, jackknife_interval
from survcore.metrics.kaplan_meier import KaplanMeier, kaplan_meier
from survcore.metrics.paired import PairedComparison, compare_paired

__all__ = [
    "Calibration",
    "CensoringDistribution",
    "Concordance",
    "DCalibration",
    "DynamicAUC",
    "Interval",
    "KaplanMeier",
    "PairedComparison",
    "TimeDependentConcordance",
    "auroc_at_horizon",
    "bootstrap_interval",
    "brier_score",
    "calibration_at",
    "censoring_survival",
    "compare_paired",
    "concordance_index",
    "concordance_index_ipcw",
    "concordance_index_td",
    "cs_score",
    "cumulative_dynamic_auc",
    "d_calibration",
    "integrated_brier_score",
    "jackknife_interval",
    "kaplan_meier",
]
