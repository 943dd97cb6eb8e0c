"""Two sets of results side by side."""

from __future__ import annotations

from survcore.benchmarks.report import milliseconds
from survcore.benchmarks.results import Record


def comparison(before: list[Record], after: list[Record]) -> list[str]:
    """A line per provider, size, pass, type and device: times, their ratio, and whether the spreads lie apart.

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
        times = f"{milliseconds(a['median']):>8} -> {milliseconds(b['median']):>8} ms"
        lines.append(f"{_name(key):<70} {times}  x {ratio:.2f}  {verdict}")
    lines.extend(f"{_name(key):<70} only before" for key in earlier if key not in later)
    lines.extend(f"{_name(key):<70} only after" for key in later if key not in earlier)
    for name in ("threads", "torch", "quick"):
        values = [sorted({str(record.get(name)) for record in records.values()}) for records in (earlier, later)]
        if values[0] != values[1]:
            lines.append(f"not the same {name}: {', '.join(values[0])} and {', '.join(values[1])}")
    return lines


def _name(key: tuple[str, ...]) -> str:
    return ", ".join(key)


def _by_key(records: list[Record]) -> dict[tuple[str, ...], Record]:
    fields = ("op", "size", "passes", "provider", "dtype", "device")
    return {tuple(record[field] for field in fields): record for record in records if record["measured"] == "in turns"}
