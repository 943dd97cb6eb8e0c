"""The time of a prediction over the patches of its slide, from stored results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from survcore.benchmarks.case import is_own
from survcore.benchmarks.results import Record
from survcore.files import replacing

NAME = "predict_latency"


def shown(records: list[Record]) -> list[Record]:
    """The records that the figure shows."""
    return [record for record in records if (record["op"], record["measured"]) == (NAME, "patches")]


def data_hash(records: list[Record]) -> str:
    """Of what the figure shows, which says whether it shows these records."""
    points = [
        [record[name] for name in ("provider", "patches", "median", "p95", "scenario", "on")]
        for record in shown(records)
    ]
    return hashlib.sha256(json.dumps(points).encode()).hexdigest()


def draw(records: list[Record], path: Path) -> None:
    """Median of every provider, and the 95th percentile where there is one, on log axes: an SVG that names its data."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    chosen = shown(records)
    with matplotlib.rc_context({"svg.hashsalt": NAME, "font.size": 9}):
        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for provider in dict.fromkeys(record["provider"] for record in chosen):
            points = sorted(
                (record["patches"], 1e3 * record["median"], record["p95"])
                for record in chosen
                if record["provider"] == provider
            )
            style = {"marker": "o", "markersize": 3, "linewidth": 2 if is_own(provider) else 1, "label": provider}
            (line,) = axes.plot([x for x, _, _ in points], [y for _, y, _ in points], **style)
            tails = [(x, 1e3 * p95) for x, _, p95 in points if p95 is not None]
            axes.plot([x for x, _ in tails], [y for _, y in tails], ":", color=line.get_color(), linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="patches", ylabel="milliseconds (dotted: 95th percentile)")
        axes.grid(True, which="major", linewidth=0.3)
        axes.legend(fontsize=7)
        figure.suptitle(f"One patient, {chosen[0]['scenario']}")
        with replacing(path) as temporary:
            metadata = {"Date": None, "Description": f"data {data_hash(records)}"}
            figure.savefig(temporary, format="svg", metadata=metadata)
