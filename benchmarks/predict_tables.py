"""Tables of whole predictions: what is written into pages, and what is printed after a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from survcore.benchmarks.report import milliseconds, percent
from survcore.benchmarks.results import Record


@dataclass(frozen=True)
class Table:
    """Header and rows of cells, what the cells hold, the records they come from, and what is told below."""

    header: list[str]
    rows: list[list[str]]
    what: str
    records: list[Record]
    notes: list[str] = field(default_factory=list)


def table(name: str | None, records: list[Record]) -> Table:
    """The table of a name, None for that of the latency of single patients.

    Args:
        name: one of :data:`TABLES`.
        records: of one run of ``survcore bench latency``; others are passed over.

    Raises:
        ValueError: there is no such table, or there are no results for it.
    """
    if name not in TABLES:
        known = ", ".join(f"'predict {known}'" if known else "'predict'" for known in TABLES)
        raise ValueError(f"marker 'bench predict {name}': expected one of {known}")
    found = TABLES[name]([record for record in records if record["op"] == "predict_latency"])
    if not found.rows:
        raise ValueError("no results of predictions: `survcore bench latency --out FOLDER` makes them")
    return found


def printed(records: list[Record]) -> str:
    """All tables that the records have rows for, aligned."""
    parts = []
    for make in TABLES.values():
        made = make(records)
        if made.rows:
            parts.append("\n".join([f"{made.what}:", *_aligned([made.header, *made.rows]), *made.notes]))
    return "\n\n".join(parts)


def _latency(records: list[Record]) -> Table:
    """One row per scenario and provider."""
    rows, shown = [], [record for record in records if record["measured"] == "warm"]
    for record in shown:
        cold, after = (_same(records, record, measured) for measured in ("cold", "after warm-up"))
        scenario = record["scenario"] if record["source"] == "cohort" else f"{record['scenario']}, from a record"
        if record["source"] == "record":
            cold, after = {}, {}
        rows.append(
            [
                scenario,
                record["provider"],
                f"{cold['load_seconds']:.1f}" if cold else "",
                _time(cold.get("first")),
                _time(after.get("first")),
                *(_time(record[name]) for name in ("median", "p95", "p99")),
                "" if record["p99"] is None else f"{record['p99'] / record['median']:.2f}",
                _megabytes(record.get("peak_extra_bytes")),
            ]
        )
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    header = ["patient", "provider", "load, s", "first call", "first after warm-up", "p50", "p95", "p99", "p99 / p50"]
    patches = f", {shown[0]['patches']:,} patches a slide" if shown else ""
    what = f"Milliseconds from a patient to the table of predictions, {_model(shown)}{patches}"
    compiled = [record for record in records if record["measured"] == "compilation"]
    notes = [f"- compiled: {record['scenario']} took {record['seconds']:.0f} s to compile" for record in compiled]
    problems = [record for record in records if record["measured"] == "problem" and not record["patches"]]
    for record in problems:
        where = f", {record['scenario']}" if record["scenario"] else ""
        notes.append(f"- {record['provider']}{where}: {record['problem']}")
    return Table([*header, "peak MB"], rows, what, shown, notes)


def _together(records: list[Record]) -> Table:
    """One row per model and provider."""
    shown = [record for record in records if record["measured"] == "together"]
    rows = [
        [
            record["of"],
            record["provider"],
            str(record["patients"]),
            *(f"{record['patients'] / record[way]:,.1f}" for way in ("seconds", "one_by_one")),
            f"{record['one_by_one'] / record['seconds']:.1f} x",
            percent(record["product_share"]) if "product_share" in record else "",
        ]
        for record in shown
    ]
    header = ["patients have", "provider", "patients", "in one call, per second", "one by one, per second"]
    header += ["together against one by one", "of matrix products"]
    what = "Patients per second, complete and without each modality in turns"
    return Table(header, rows, f"{what}, {_model(shown)}" if shown else what, shown)


def _patches(records: list[Record]) -> Table:
    """One row per size of a slide, one column per provider."""
    shown = [record for record in records if record["measured"] == "patches"]
    problems = [record for record in records if record["measured"] == "problem" and record["patches"]]
    providers = list(dict.fromkeys(record["provider"] for record in shown))
    found = {(record["patches"], record["provider"]): _time(record["median"]) for record in shown}
    for record in problems:
        found[record["patches"], record["provider"]] = record["problem"].split(":")[0]
    sizes = sorted({patches for patches, _ in found})
    rows = [[f"{size:,}", *(found.get((size, provider), "") for provider in providers)] for size in sizes]
    scenario = shown[0]["scenario"] if shown else ""
    what = f"Median milliseconds from a patient to the table of predictions, {scenario}, {_model(shown)}"
    return Table(["patches", *providers], rows, what, shown)


def _steps(records: list[Record]) -> Table:
    """One row per solver and steps, and what a kept encoding saves."""
    shown = [record for record in records if record["measured"] == "steps"]
    found = {(record["solver"], record["steps"], record["precision"]): record for record in shown}
    rows = [
        [f"{solver}, {steps} steps", *(_time(found[solver, steps, precision]["median"]) for precision in _PRECISIONS)]
        for solver, steps in dict.fromkeys((record["solver"], record["steps"]) for record in shown)
    ]
    scenario = shown[0]["scenario"] if shown else ""
    what = f"Median milliseconds from a patient to the table of predictions, {scenario}, {_model(shown)}"
    notes = [
        f"- a slide whose encoding is kept from the call before, {record['scenario']}: {_time(record['median'])} ms"
        for record in records
        if record["measured"] == "kept"
    ]
    return Table(["drawn by", "sampler in float32", "sampler in bfloat16"], rows, what, shown, notes)


def _bars(records: list[Record]) -> Table:
    """One row per bar and provider."""
    shown = [record for record in records if record["measured"] == "bar"]
    rows = [
        [
            record["what"],
            record["provider"],
            f"{_number(record['value'])} {record['unit']}".strip(),
            f"{'at least' if record.get('least') else 'at most'} {record['bar']:g} {record['unit']}".strip(),
            "met" if record["met"] else "missed",
        ]
        for record in shown
    ]
    return Table(["of", "provider", "measured", "bar", ""], rows, f"What is aimed at, {_model(shown)}", shown)


_PRECISIONS = ("full", "bfloat16")
# By what stands behind "predict" in a marker.
TABLES: dict[str | None, Callable[[list[Record]], Table]] = {
    None: _latency,
    "throughput": _together,
    "patches": _patches,
    "steps": _steps,
    "bars": _bars,
}


def _same(records: list[Record], record: Record, measured: str) -> Record:
    """What else was measured of the same provider in the same scenario; empty where nothing was."""
    same = ("provider", "scenario")
    return next(
        (
            other
            for other in records
            if other["measured"] == measured and all(other[key] == record[key] for key in same)
        ),
        {},
    )


def _model(records: list[Record]) -> str:
    return f"{records[0]['model']}, made-up patients" if records else ""


def _time(seconds: float | None) -> str:
    return "" if seconds is None else milliseconds(seconds)


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{1e-6 * size:.1f}"


def _number(value: float) -> str:
    return f"{value:.0e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
