"""Figures; matplotlib and lifelines are imported when one is drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.files import replacing


def save_kaplan_meier_by_risk(
    path: str | Path,
    time: Any,
    event: Any,
    high_risk: Any,
    *,
    entry: Any = None,
    strata: Any = None,
    title: str = "",
) -> float:
    """Kaplan-Meier curves of the high- and the low-risk half with a log-rank test, as PNG.

    Args:
        path: the file.
        time: months [n].
        event: bool [n].
        high_risk: bool [n].
        entry: months [n] from which on a row is under observation (left truncation), in the curves and in the test.
        strata: labels [n]; the test compares the halves within each, the curves do not know them.
        title: above the figure.

    Returns:
        The log-rank p value; NaN where no event had both halves at risk.
    """
    from lifelines import KaplanMeierFitter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    time, event, high = (np.asarray(values) for values in (time, event, high_risk))
    event, high = event.astype(bool), high.astype(bool)
    entered = np.full(len(time), -np.inf) if entry is None else np.asarray(entry)
    labels = np.zeros(len(time)) if strata is None else np.asarray(strata)
    p = _log_rank_p(time, event, high, entered, labels)
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for rows, label, colour in ((high, "high risk", "tab:red"), (~high, "low risk", "tab:blue")):
        name = f"{label} (n = {rows.sum()}, {int(event[rows].sum())} events)"
        curve = KaplanMeierFitter().fit(
            time[rows], event[rows], entry=None if entry is None else entered[rows], label=name
        )
        curve.plot_survival_function(ax=axes, color=colour)
    axes.set(xlabel="months", ylabel="survival", ylim=(0, 1.02), title=title)
    test = "log-rank" if strata is None else "stratified log-rank"
    axes.text(0.02, 0.04, f"{test} p = {p:.2g}", transform=axes.transAxes)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return p


def _log_rank_p(time: np.ndarray, event: np.ndarray, high: np.ndarray, entry: np.ndarray, strata: np.ndarray) -> float:
    """p value of the log-rank test of two groups, summed over strata, with rows at risk from their entry times on.

    lifelines' own takes neither entry times nor strata.
    """
    difference = variance = 0.0
    for stratum in np.unique(strata):
        rows = strata == stratum
        times, events = np.unique(time[rows & event], return_counts=True)
        total, of_high = (_at_risk(times, time[group], entry[group]) for group in (rows, rows & high))
        share = of_high / total
        difference += (rows & event & high).sum() - (events * share).sum()
        variance += (events * share * (1 - share) * (total - events) / np.maximum(total - 1, 1)).sum()
    return math.erfc(abs(difference) / math.sqrt(2 * variance)) if variance else math.nan


def _at_risk(times: np.ndarray, time: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """How many of the rows are under observation just before each of ``times`` and still at it."""
    entered, left = (np.searchsorted(np.sort(values), times, side="left") for values in (entry, time))
    return entered - left


def save_cosine_map(path: str | Path, cosines: pd.DataFrame, *, title: str = "") -> None:
    """Heat map of a square table of cosines (index = columns = labels), NaN left grey, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(cosines)
    side = 2.5 + 0.45 * count
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    image = axes.imshow(cosines.to_numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(count), cosines.columns, rotation=90, fontsize=8)
    axes.set_yticks(range(count), cosines.index, fontsize=8)
    for (row, column), value in np.ndenumerate(cosines.to_numpy()):
        if not np.isnan(value):
            colour = "white" if abs(value) > 0.65 else "black"
            axes.text(column, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.8).ax.tick_params(labelsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
