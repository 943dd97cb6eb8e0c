"""Curves of time and memory over the size, from stored results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from survcore.benchmarks.case import BenchmarkCase
from survcore.benchmarks.results import Record
from survcore.files import replacing


def curve_records(case: BenchmarkCase, records: list[Record]) -> list[Record]:
    """The records that a case's figure shows, by provider and size."""
    records = [
        record
        for record in records
        if record["op"] == case.name and record["dtype"] == case.usual_dtype and record["on"] == "cpu"
    ]
    passes = {record["passes"] for record in records if "passes" in record}
    shown = "forward and backward" if "forward and backward" in passes else "forward"
    return [
        record
        for record in records
        if record["measured"] == "in turns"
        and record["rival"]
        and record["passes"] == shown
        and record["size"] in case.curve
    ]


def data_hash(case: BenchmarkCase, records: list[Record]) -> str:
    """Of what a figure shows, which says whether it shows these records."""
    shown = [
        (record["provider"], record["size"], record["median"], record.get("peak_extra_bytes"))
        for record in curve_records(case, records)
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def draw(case: BenchmarkCase, records: list[Record], path: Path) -> None:
    """Time and peak memory of every provider over the case's axis, on log axes: an SVG that names its data's hash."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = curve_records(case, records)
    with matplotlib.rc_context({"svg.hashsalt": case.name, "font.size": 9}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        times, memory = figure.subplots(1, 2)
        for provider in dict.fromkeys(record["provider"] for record in shown):
            points = sorted(
                (case.sizes[record["size"]][case.axis], 1e3 * record["median"], record.get("peak_extra_bytes"))
                for record in shown
                if record["provider"] == provider
            )
            style = {"marker": "o", "markersize": 3, "linewidth": 2 if provider == "survcore" else 1, "label": provider}
            times.plot([x for x, _, _ in points], [y for _, y, _ in points], **style)
            held = [(x, 1e-6 * size) for x, _, size in points if size]
            memory.plot([x for x, _ in held], [y for _, y in held], **style)
        for axes, label in ((times, "milliseconds"), (memory, "peak MB beside inputs and results")):
            measured = any(len(line.get_xdata()) for line in axes.get_lines())
            axes.set(xlabel=case.axis, ylabel=label, **({"xscale": "log", "yscale": "log"} if measured else {}))
            axes.grid(True, which="major", linewidth=0.3)
        times.legend(fontsize=7)
        figure.suptitle(f"{case.name}, {shown[0]['passes']}")
        with replacing(path) as temporary:
            metadata = {"Date": None, "Description": f"data {data_hash(case, records)}"}
            figure.savefig(temporary, format="svg", metadata=metadata)
