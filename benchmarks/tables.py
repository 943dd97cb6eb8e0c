"""Tables of stored results, written between markers of a Markdown file.

``<!-- bench NAME -->`` and ``<!-- /bench -->`` stand on lines of their own around what is written. NAME is an op's name
(one row per size, one column per provider), "bars" (one row per size that a bar is set for, over all ops), "latency"
(calls one by one, idle and beside a busy neighbour), "predict" (whole predictions) or "shortcuts" (what shortcuts of
these cost). An op's name may be followed by a dtype other than the usual one, "latency" by the one op that is shown,
"predict" by the name of another of its tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from survcore.benchmarks import predict_tables
from survcore.benchmarks.case import BenchmarkCase, is_own
from survcore.benchmarks.report import milliseconds, percent
from survcore.benchmarks.results import Record
from survcore.benchmarks.shortcut_table import shortcut_table

_BLOCK = re.compile(r"(<!-- bench (\w+)(?: (\w+))? -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)
_MILLISECONDS = "Median milliseconds, forward and backward where there is a gradient"
# What a cell says of a provider that was not timed, by the beginning of its problem.
_PROBLEMS = {"left out": "", "wrong": "wrong", "failed": "failed", "crashed": "crashed"}


def names_in(text: str) -> list[str]:
    """The names between whose markers a text has tables."""
    return [match[2] for match in _BLOCK.finditer(text)]


def with_tables(text: str, records: list[Record], cases: dict[str, BenchmarkCase]) -> str:
    """The text with each table written anew.

    Raises:
        ValueError: a marker names no op, or one without results; there is no marker, or one without its end; results
            are of a quick run, of some rivals only, or of several numbers of threads.
    """
    partial = sorted({record["op"] for record in records if record["quick"] or record["against"]})
    if partial:
        raise ValueError(f"results of a part (--quick or --against) are not for pages: {', '.join(partial)}")
    records = [record for record in records if record["on"] == "cpu"]
    if not names_in(text) or text.count("<!-- bench") != len(names_in(text)):
        raise ValueError("expected lines <!-- bench NAME --> with <!-- /bench --> after each")

    def table(match: re.Match[str]) -> str:
        name, qualifier = match[2], match[3]
        if name == "bars":
            lines = bars_table(records, cases)
        elif name == "latency":
            lines = latency_table([record for record in records if qualifier in (None, record["op"])])
        elif name == "predict":
            lines = prediction_table(qualifier, records)
        elif name == "shortcuts":
            header, rows, shown = shortcut_table(records)
            what = (
                "C-index less that of the reference, and in brackets the median change of risk in standard deviations"
            )
            lines = [*_markdown(header, rows), "", _conditions(shown, (), what)]
        elif name in cases:
            lines = op_table(cases[name], _of(cases[name], records, qualifier))
        else:
            raise ValueError(
                f"marker 'bench {name}': expected 'bars', 'latency', 'predict', 'shortcuts' or one of "
                f"{', '.join(cases)}"
            )
        return match[1] + "\n".join(lines) + "\n" + match[5]

    return _BLOCK.sub(table, text)


def op_table(case: BenchmarkCase, records: list[Record]) -> list[str]:
    """One row per size: milliseconds of every provider, and what survcore's are beside the fastest other and a roof."""
    found = _main(records)
    if not found:
        raise ValueError(
            f"no results of {case.name} in this type: `survcore bench run {case.name} --out FOLDER` makes them"
        )
    problems = {
        (record["size"], record["provider"]): record["problem"]
        for record in records
        if record["measured"] == "problem" and record["rival"]
    }
    providers = _in_order(provider for _, provider in (*found, *problems))
    providers = [provider for provider in providers if any((size, provider) in found for size in case.sizes)]
    sizes = [
        size
        for size in (case.table or case.sizes)
        if any((size, provider) in found or (size, provider) in problems for provider in providers)
    ]
    has_roof = any("roof" in record for record in found.values())
    has_memory = any(record.get("peak_extra_bytes") is not None for record in found.values())
    header = ["size", *providers, "against the fastest other"]
    header += ["of the roof"] * has_roof + ["peak MB"] * has_memory
    rows = []
    for size in sizes:
        cells = [
            milliseconds(found[size, provider]["median"])
            if (size, provider) in found
            else _PROBLEMS.get(problems.get((size, provider), "left out").split(":")[0], "failed")
            for provider in providers
        ]
        ours = found.get((size, "survcore"), {})
        others = [record for (of, provider), record in found.items() if of == size and not is_own(provider)]
        rows.append([size, *cells, _ratio(ours), *[_share(ours)] * has_roof, *[_memory(ours, others)] * has_memory])
    runs = list(found.values())
    conditions = _conditions(
        runs,
        providers,
        f"{_MILLISECONDS}, {runs[0]['dtype']}",
        *["peak memory beside inputs and results with the least of the others in brackets"] * has_memory,
    )
    return [*_markdown(header, rows), "", conditions, *_told(problems, sizes)]


def bars_table(records: list[Record], cases: dict[str, BenchmarkCase]) -> list[str]:
    """One row per size that a bar is set for."""
    rows = []
    runs: list[Record] = []
    fastest_others: set[str] = set()
    for case in cases.values():
        for key, bar in case.bars.items():
            size, dtype = key if isinstance(key, tuple) else (key, case.usual_dtype)
            timed = _main(_of(case, records, dtype))
            found = {provider: record for (of, provider), record in timed.items() if of == size}
            shown = size if dtype == case.usual_dtype else f"{size}, {dtype}"
            if "survcore" not in found:
                rows.append([case.name, shown, f"{bar:g}", _problem(records, case.name, size, dtype), "", "", ""])
                continue
            ours = found["survcore"]
            runs.append(ours)
            fastest = ours.get("fastest_rival", "")
            fastest_others.add(fastest)
            other = f"{milliseconds(found[fastest]['median'])} ({fastest})" if fastest else ""
            rows.append([case.name, shown, f"{bar:g}", milliseconds(ours["median"]), other, _ratio(ours), _share(ours)])
    if not runs:
        raise ValueError("no results of any size that a bar is set for")
    header = ["op", "size", "bar, ms", "survcore, ms", "fastest other, ms", "against it", "of the roof"]
    return [
        *_markdown(header, rows),
        "",
        _conditions(runs, fastest_others, _MILLISECONDS),
    ]


def _problem(records: list[Record], op: str, size: str, dtype: str) -> str:
    """Why survcore has no time there."""
    for record in records:
        where = (record["op"], record.get("size"), record["dtype"], record.get("provider"))
        if record["measured"] == "problem" and where == (op, size, dtype, "survcore"):
            return record["problem"].split(":")[0]
    return "not run"


def latency_table(records: list[Record]) -> list[str]:
    """One row per provider whose calls were timed one by one."""
    alone = [record for record in records if record["measured"] == "alone"]
    if not alone:
        raise ValueError("no results of calls one by one")
    rows = []
    for idle in alone:
        same = ("op", "dtype", "size", "provider")
        busy = next(
            record
            for record in records
            if record["measured"] == "alone beside a busy neighbour" and all(record[key] == idle[key] for key in same)
        )
        times = [
            milliseconds(record[which]) if record[which] is not None else ""
            for record in (idle, busy)
            for which in ("median", "p95")
        ]
        rows.append([idle["op"], idle["dtype"], idle["provider"], *times])
    header = ["op", "type", "provider", "idle", "95th percentile", "busy neighbour", "95th percentile"]
    return [*_markdown(header, rows), "", _conditions(alone, (), "Milliseconds, one call after the other")]


def prediction_table(name: str | None, records: list[Record]) -> list[str]:
    """A table of whole predictions, see :mod:`survcore.benchmarks.predict_tables`."""
    found = predict_tables.table(name, records)
    notes = ["", *found.notes] if found.notes else []
    return [*_markdown(found.header, found.rows), "", _conditions(found.records, (), found.what), *notes]


def _of(case: BenchmarkCase, records: list[Record], dtype: str | None = None) -> list[Record]:
    """The records of a case in a type, the usual one if none is named."""
    dtype = dtype or case.usual_dtype
    return [record for record in records if record["op"] == case.name and record["dtype"] == dtype]


def _main(records: list[Record]) -> dict[tuple[str, str], Record]:
    """(size, provider) -> its record of forward and backward, of forward where a size has no more, of the rivals."""
    timed = [record for record in records if record["measured"] == "in turns" and record["rival"]]
    found = {(r["size"], r["provider"]): r for r in timed if r["passes"] == "forward"}
    return found | {(r["size"], r["provider"]): r for r in timed if r["passes"] == "forward and backward"}


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _ratio(ours: Record) -> str:
    return f"{ours['to_fastest_rival']:.1f} x" if "to_fastest_rival" in ours else ""


def _share(ours: Record) -> str:
    return f"{percent(ours['roof_share'])} ({ours['roof']})" if "roof_share" in ours else ""


def _memory(ours: Record, others: list[Record]) -> str:
    """Ours, and in brackets the least of the others'."""
    if ours.get("peak_extra_bytes") is None:
        return ""
    text = f"{1e-6 * ours['peak_extra_bytes']:.1f}"
    sizes = [record["peak_extra_bytes"] for record in others if record.get("peak_extra_bytes") is not None]
    return f"{text} ({1e-6 * min(sizes):.1f})" if sizes else text


def _conditions(runs: list[Record], providers: Iterable[str], *facts: str) -> str:
    """The sentence below a table: what was measured where, when and with which versions."""
    threads = {run["threads"] for run in runs}
    if len(threads) > 1:
        raise ValueError(f"results of {' and '.join(map(str, sorted(threads)))} threads do not belong into one table")

    def all_of(name: str) -> str:
        return " and ".join(sorted({str(run[name]) for run in runs if run.get(name)}))

    commits = sorted({run["commit"] or "commit not recorded" for run in runs})
    survcore = f"survcore {all_of('survcore')} ({' and '.join(commits)})"
    versions = {f"{name} {version}": name for run in runs for name, version in run["peers"].items()}
    took_part = [text for text, name in versions.items() if name in providers]
    where = f"{all_of('device')}, {all_of('threads')} thread{'s' if threads != {1} else ''}"
    dates = " and ".join(sorted({run["run"][:10] for run in runs}))
    return ", ".join([*facts, where, survcore, f"torch {all_of('torch')}", *took_part, dates]) + "."


def _told(problems: dict[tuple[str, str], str], sizes: list[str]) -> list[str]:
    """What went wrong, once per problem."""
    found: dict[str, list[str]] = {}
    for (size, provider), problem in problems.items():
        if size in sizes and not problem.startswith("left out"):
            found.setdefault(f"{provider}: {problem}", []).append(size)
    return ["", *(f"- {problem} ({', '.join(where)})" for problem, where in found.items())] if found else []


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
