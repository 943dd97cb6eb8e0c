"""Figures; matplotlib and lifelines are imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survcore.files import replacing


def save_kaplan_meier_by_risk(path: str | Path, time: Any, event: Any, high_risk: Any, *, title: str = "") -> float:
    """Kaplan-Meier curves of the high- and the low-risk half with a log-rank test, as PNG.

    Args:
        path: the file.
        time: months [n].
        event: bool [n].
        high_risk: bool [n].
        title: above the figure.

    Returns:
        The log-rank p value.
    """
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import logrank_test
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    time, event, high = (np.asarray(values) for values in (time, event, high_risk))
    high = high.astype(bool)
    p = float(logrank_test(time[high], time[~high], event[high], event[~high]).p_value)
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for rows, label, colour in ((high, "high risk", "tab:red"), (~high, "low risk", "tab:blue")):
        name = f"{label} (n = {rows.sum()}, {int(event[rows].sum())} events)"
        KaplanMeierFitter().fit(time[rows], event[rows], label=name).plot_survival_function(ax=axes, color=colour)
    axes.set(xlabel="months", ylabel="survival", ylim=(0, 1.02), title=title)
    axes.text(0.02, 0.04, f"log-rank p = {p:.2g}", transform=axes.transAxes)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return p


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
