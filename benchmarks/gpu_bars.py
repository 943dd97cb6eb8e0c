"""The GPU's bars beside what was measured: ``python -m survcore.benchmarks.gpu_bars OUT``.

Reads what ``survcore bench run --device cuda --out OUT`` wrote; writes ``bars.json`` and, to be read, ``bars.txt``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from survcore.benchmarks.case import BenchmarkCase, is_own
from survcore.benchmarks.gpu_step import CUT_SHORT, WRONG
from survcore.benchmarks.op_cases import CASES
from survcore.benchmarks.report import milliseconds, percent
from survcore.benchmarks.results import Record, read

_HEADER = ("op", "size", "type", "ms", "of the roof", "bar", "", "against eager", "against compiled")


def main(out: Path) -> int:
    """0 if survcore agreed with its oracle wherever it was run, met the bars or not; 78 if nothing was measured yet."""
    records = [record for record in read(out, "*_cuda_*.jsonl") if record["on"] == "cuda"]
    rows = [row for case in CASES.values() for row in case_rows(case, records)]
    wrong = [
        f"{record['op']}, {record['size']}, {record['dtype']}, {record['provider']}: {record['problem']}"
        for record in records
        if record["measured"] == "problem" and is_own(record["provider"])
    ]
    (out / "bars.json").write_text(json.dumps(rows, indent=2) + "\n")
    lines = [*_table([_HEADER, *map(_cells, rows)]), *wrong]
    (out / "bars.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if wrong:
        return WRONG
    return 0 if records else CUT_SHORT


def case_rows(case: BenchmarkCase, records: list[Record]) -> list[dict[str, Any]]:
    """One row per size and type that was timed or that a bar is set for."""
    passes = {(r["size"], r["dtype"], r["provider"], r["passes"]): r for r in _timed(case, records)}
    bars = case.cuda_bars()
    rows = []
    for size, dtype in dict.fromkeys([*(key[:2] for key in passes), *bars]):
        kind = "forward and backward" if (size, dtype, "survcore", "forward and backward") in passes else "forward"
        ours = passes.get((size, dtype, "survcore", kind))
        row: dict[str, Any] = {"op": case.name, "size": size, "dtype": dtype, "bar": None, "verdict": ""}
        if bar := bars.get((size, dtype)):
            row |= {"bar": str(bar), "verdict": "not measured"}
        if ours:
            row |= {"seconds": ours["median"], "roof": ours.get("roof"), "roof_share": ours.get("roof_share")}
            if bar:
                row["verdict"] = "met" if bar.met(ours["median"], ours.get("roof_share")) else "missed"
            for rival in ("eager", "compiled"):
                if other := passes.get((size, dtype, rival, kind)):
                    row[rival] = other["median"] / ours["median"]
        rows.append(row)
    return rows


def _timed(case: BenchmarkCase, records: list[Record]) -> list[Record]:
    return [record for record in records if record["op"] == case.name and record["measured"] == "in turns"]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    share = row.get("roof_share")
    return (
        row["op"],
        row["size"],
        row["dtype"],
        milliseconds(row["seconds"]) if "seconds" in row else "",
        f"{percent(share)} ({row['roof']})" if share is not None else "",
        row["bar"] or "",
        row["verdict"],
        *(f"{row[rival]:.1f} x" if rival in row else "" for rival in ("eager", "compiled")),
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
