"""Two sets of results side by side."""

from __future__ import annotations

from survcore.benchmarks.report import milliseconds
from survcore.benchmarks.results import Record


def comparison(before: list[Record], after: list[Record]) -> list[str]:
    """A line per provider, size and pass that both have: times, their ratio, and whether the spreads lie apart.

    Raises:
        ValueError: they have nothing in common.
    """
    earlier, later = _by_key(before), _by_key(after)
    common = [key for key in earlier if key in later]
    if not common:
        raise ValueError("the two have no op, size, pass and provider in common")
    lines = []
    for key in common:
        a, b = earlier[key], later[key]
        ratio = b["median"] / a["median"]
        apart = b["p20"] > a["p80"] or b["p80"] < a["p20"]
        verdict = ("slower" if ratio > 1 else "faster") if apart else "within the spread"
        op, size, passes, provider = key
        times = f"{milliseconds(a['median']):>8} -> {milliseconds(b['median']):>8} ms"
        lines.append(f"{op}, {size}, {passes}, {provider:<20} {times}  x {ratio:.2f}  {verdict}")
    for name in ("device", "threads", "dtype", "torch"):
        values = [sorted({str(record.get(name)) for record in records.values()}) for records in (earlier, later)]
        if values[0] != values[1]:
            lines.append(f"not the same {name}: {', '.join(values[0])} and {', '.join(values[1])}")
    return lines


def _by_key(records: list[Record]) -> dict[tuple[str, str, str, str], Record]:
    return {
        (record["op"], record["size"], record["passes"], record["provider"]): record
        for record in records
        if record["measured"] == "in turns"
    }
