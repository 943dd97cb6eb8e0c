"""A report as lines to read and as records to keep."""

from __future__ import annotations

from typing import Any

from survcore.benchmarks.agreement import Agreement
from survcore.benchmarks.latency import Latency
from survcore.benchmarks.runner import Report, Result
from survcore.benchmarks.timing import Spread


def lines(report: Report) -> list[str]:
    """What ``survcore bench run`` prints for one size."""
    rivals = [result for result in report.results if result.rival and result.provider != "survcore" and result.spread]
    printed = [f"{report.op}, {report.size}, {report.passes}"]
    for result in report.results:
        if result.spread is None:
            printed.append(_line(result.provider, result.agreement.problem))
            continue
        text = f"{_times(result.spread)}   {_agreement(result.agreement)}"
        if result.provider == "survcore" and rivals:
            fastest = min(rival.spread.median for rival in rivals if rival.spread)
            text += f"   {fastest / result.spread.median:.1f} x the fastest other"
        printed.append(_line(result.provider, text))
    printed.extend(_roof_lines(report))
    if report.latencies:
        printed.append("  one call after the other, of one provider alone:")
    for latency in report.latencies:
        printed.append(_line(f"{latency.provider}, idle", _times(latency.idle)))
        text = _times(latency.busy)
        if ratios := _ratios(latency):
            text += f"   p95 {ratios['p95_to_idle_p95']:.1f} x the idle p95, "
            text += f"{ratios['p95_to_idle_median']:.1f} x the idle median"
        printed.append(_line(f"{latency.provider}, busy neighbour", text))
    return printed


def records(report: Report, context: dict[str, Any]) -> list[dict[str, Any]]:
    """One flat record per provider, and two per latency; "measured" tells them apart. Seconds, FLOP/s and bytes/s."""
    found = []

    def add(provider: str, measured: str, *parts: dict[str, Any]) -> None:
        record = {"op": report.op, "size": report.size, "passes": report.passes, "provider": provider}
        record["measured"] = measured
        for part in parts:
            record |= part
        found.append(record | context)

    for result in report.results:
        if result.spread is None:
            add(result.provider, "in turns", {"problem": result.agreement.problem})
        else:
            agreement = {"error": result.agreement.error, "lowest_cosine": result.agreement.cosine}
            add(result.provider, "in turns", _seconds(result.spread), agreement, _roofs(report, result))
    for latency in report.latencies:
        add(latency.provider, "alone", _seconds(latency.idle))
        add(latency.provider, "alone beside a busy neighbour", _seconds(latency.busy), _ratios(latency))
    return found


def _line(name: str, text: str) -> str:
    return f"  {name:<26} {text}"


def _times(spread: Spread) -> str:
    median, low, high = (f"{1e3 * value:.3f}" for value in (spread.median, spread.low, spread.high))
    tails = "".join(
        f", {name} {1e3 * value:.3f}" for name, value in (("p95", spread.p95), ("p99", spread.p99)) if value is not None
    )
    return f"{median:>10} ms   ({low} to {high}{tails}, {spread.calls} calls)"


def _agreement(agreement: Agreement) -> str:
    cosine = "" if agreement.cosine is None else f", cosine {agreement.cosine:.6f}"
    return f"error {agreement.error:.0e}{cosine}"


def _roof_lines(report: Report) -> list[str]:
    if not report.roofs or not report.work:
        return []
    operations, bandwidth = 1e-9 * report.roofs.operations, 1e-9 * report.roofs.bandwidth
    size = 1e-6 * report.work.weight_bytes
    text = f"matrix product {operations:.0f} GFLOP/s, {report.roofs.reader} of {size:.1f} MB {bandwidth:.1f} GB/s"
    for result in report.results:
        if result.provider == "survcore" and result.spread:
            shares = report.roofs.shares(report.work, result.spread.median)
            text += "; survcore reaches {:.0%} and {:.0%}".format(*shares)
    return [_line("roofs", text)]


def _roofs(report: Report, result: Result) -> dict[str, Any]:
    """The roofs of the run, and what survcore achieves of them."""
    if not report.roofs or not report.work:
        return {}
    roofs = report.roofs
    found = {"product_roof": roofs.operations, "read_roof": roofs.bandwidth, "read_by": roofs.reader}
    if result.provider == "survcore" and result.spread:
        found["product_share"], found["read_share"] = roofs.shares(report.work, result.spread.median)
    return found


def _seconds(spread: Spread) -> dict[str, Any]:
    return {
        "median": spread.median,
        "p20": spread.low,
        "p80": spread.high,
        "p95": spread.p95,
        "p99": spread.p99,
        "calls": spread.calls,
    }


def _ratios(latency: Latency) -> dict[str, float]:
    """The 95th percentile beside the neighbour against the idle ones; empty where there were too few calls."""
    if latency.busy.p95 is None or latency.idle.p95 is None:
        return {}
    return {
        "p95_to_idle_p95": latency.busy.p95 / latency.idle.p95,
        "p95_to_idle_median": latency.busy.p95 / latency.idle.median,
    }
