"""What is aimed at for whole predictions, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from survcore.benchmarks.case import is_own
from survcore.benchmarks.results import Record

# The bar of encoding is set for slides this large.
_PATCHES = 4096
_DRAWN, _ENCODED = 15e-3, 100e-3
_TAIL, _TOGETHER, _SHARE, _GROWTH, _THREADS = 1.5, 2.0, 0.7, 5e6, 1e-5


def bars(records: list[Record], patches: int) -> Iterator[dict[str, Any]]:
    """Per provider of survcore and per bar: ``provider``, ``what``, ``value``, ``bar``, ``unit`` and ``met``.

    ``unit`` is "ms", "MB", "x", "%" or "", in which ``value`` and ``bar`` are.
    """
    for record in records:
        provider, measured = record["provider"], record["measured"]
        if not is_own(provider):
            continue
        if measured == "warm" and record["source"] == "cohort":
            scenario = record["scenario"]
            if (bar := _most_seconds(records, scenario)) and (bar != _ENCODED or patches == _PATCHES):
                yield _at_most(provider, f"{scenario}, p50", 1e3 * record["median"], 1e3 * bar, "ms")
            if record["p99"] is not None:
                yield _at_most(provider, f"{scenario}, p99 / p50", record["p99"] / record["median"], _TAIL, "x")
        elif measured == "together":
            what = f"{record['patients']} mixed patients, {record['of']}"
            ratio = record["one_by_one"] / record["seconds"]
            yield _at_least(provider, f"{what}: one by one / together", ratio, _TOGETHER, "x")
            if "product_share" in record:
                share = 100 * record["product_share"]
                yield _at_least(provider, f"{what}: of matrix products", share, 100 * _SHARE, "%")
        elif measured == "growth":
            what = f"memory over {record['predictions']:,} predictions"
            yield _at_most(provider, what, 1e-6 * record["bytes"], 1e-6 * _GROWTH, "MB")
        elif measured == "threads":
            what = f"risks with {', '.join(map(str, record['numbers']))} threads"
            yield _at_most(provider, what, record["largest_difference"], _THREADS, "")


def share(operations: int, seconds: float, rate: float) -> dict[str, float]:
    """Operations of products, and their rate as a share of the machine's rate of products per second."""
    return {"operations": operations, "product_share": operations / seconds / rate}


def _most_seconds(records: list[Record], scenario: str) -> float | None:
    """What a scenario may take: where a slide comes alone, and where the slide, or what else is first, is drawn."""
    for measured, bar in (("patches", _ENCODED), ("steps", _DRAWN)):
        if any(record["measured"] == measured and record.get("scenario") == scenario for record in records):
            return bar
    return None


def _at_most(provider: str, what: str, value: float, bar: float, unit: str) -> dict[str, Any]:
    return {"provider": provider, "what": what, "value": value, "bar": bar, "unit": unit, "met": value <= bar}


def _at_least(provider: str, what: str, value: float, bar: float, unit: str) -> dict[str, Any]:
    return _at_most(provider, what, value, bar, unit) | {"met": value >= bar, "least": True}
