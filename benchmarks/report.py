"""A report as lines to read and as records to keep."""

from __future__ import annotations

from typing import Any

from survcore.benchmarks.agreement import Agreement
from survcore.benchmarks.case import is_own
from survcore.benchmarks.latency import Latency
from survcore.benchmarks.roofs import Roofs
from survcore.benchmarks.runner import Report, Result
from survcore.benchmarks.timing import Spread

PASSES = {"both": "forward and backward", "forward": "forward", "backward": "backward"}


def roof_lines(roofs: Roofs) -> list[str]:
    """What ``survcore bench run`` prints of the machine's rates."""
    copies = ", ".join(f"{_size(size)} {1e-9 * rate:.1f}" for size, rate in roofs.copies)
    rates = {"matrix product": roofs.products, "fused multiply-add": roofs.operations, "exp": roofs.exponentials}
    given = [f"{name} {1e-9 * rate:.4g}" for name, rate in rates.items() if rate]
    return [f"roofs: copy of {copies} GB/s; {', '.join(given)} billion per second"]


def lines(report: Report) -> list[str]:
    """What ``survcore bench run`` prints for one size."""
    printed = []
    for passes in report.passes:
        printed.append(f"{report.op}, {report.size}, {PASSES[passes]}")
        for result in report.results:
            if passes in result.spreads:
                printed.append(_line(result.provider, _text(report, result, passes)))
    printed.extend(
        _line(result.provider, result.agreement.problem) for result in report.results if result.agreement.problem
    )
    if not report.passes:
        printed.insert(0, f"{report.op}, {report.size}")
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


def roof_record(op: str, roofs: Roofs, context: dict[str, Any]) -> dict[str, Any]:
    """The machine's rates, per second, as a record beside an op's."""
    rates = {
        "copies": [list(copy) for copy in roofs.copies],
        "operations": roofs.operations,
        "products": roofs.products,
        "exponentials": roofs.exponentials,
    }
    return {"op": op, "measured": "roofs"} | rates | context


def records(report: Report, context: dict[str, Any]) -> list[dict[str, Any]]:
    """One flat record per provider and pass, one per problem, two per latency; "measured" tells them apart.

    Seconds, and bytes.
    """
    found = []

    def add(provider: str, measured: str, *parts: dict[str, Any]) -> None:
        record = {"op": report.op, "size": report.size, "provider": provider, "measured": measured}
        for part in parts:
            record |= part
        found.append(record | context)

    for result in report.results:
        if result.agreement.problem:
            add(result.provider, "problem", {"problem": result.agreement.problem, "rival": result.rival})
        for passes in report.passes:
            if passes in result.spreads:
                facts = {"passes": PASSES[passes], "rival": result.rival}
                add(
                    result.provider, "in turns", facts, _seconds(result.spreads[passes]), _found(report, result, passes)
                )
    for latency in report.latencies:
        add(latency.provider, "alone", _seconds(latency.idle))
        add(latency.provider, "alone beside a busy neighbour", _seconds(latency.busy), _ratios(latency))
    return found


def milliseconds(seconds: float) -> str:
    """A time to three digits, in milliseconds."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"


def percent(share: float) -> str:
    """A share to two digits."""
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def _text(report: Report, result: Result, passes: str) -> str:
    text = f"{_times(result.spreads[passes])}   {_agreement(result.agreement)}"
    facts = _found(report, result, passes)
    if facts.get("peak_extra_bytes") is not None:
        text += f"   peak {_size(facts['peak_extra_bytes'])}"
    if "roof" in facts:
        text += f"   {percent(facts['roof_share'])} of {facts['roof']}"
    if "to_fastest_rival" in facts:
        text += f"   {facts['to_fastest_rival']:.1f} x {facts['fastest_rival']}"
    return text


def _found(report: Report, result: Result, passes: str) -> dict[str, Any]:
    """Error, memory, share of a roof and, for survcore, the ratio to the fastest rival: above 1, survcore is faster."""
    facts: dict[str, Any] = {"error": result.agreement.error, "lowest_cosine": result.agreement.cosine}
    median = result.spreads[passes].median
    if passes in result.memory:
        facts["peak_extra_bytes"] = result.memory[passes]
    if passes in report.work:
        floor, roof = report.roofs.floor(report.work[passes])
        facts |= {"floor": floor, "roof": roof, "roof_share": floor / median}
    rivals = [
        other for other in report.results if other.rival and not is_own(other.provider) and passes in other.spreads
    ]
    if result.provider == "survcore" and rivals:
        fastest = min(rivals, key=lambda other: other.spreads[passes].median)
        facts["fastest_rival"] = fastest.provider
        facts["to_fastest_rival"] = fastest.spreads[passes].median / median
    return facts


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


def _size(size: float) -> str:
    return f"{1e-6 * size:.3g} MB"


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
