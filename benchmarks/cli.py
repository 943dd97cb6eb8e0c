"""``survcore bench``: list the cases and run one."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import click

DTYPES = ["float32", "float64", "bfloat16", "float16"]


@click.group()
def bench() -> None:
    """Time the compiled ops against plain and compiled PyTorch."""


@bench.command("list")
def list_cases() -> None:
    """Name the ops that can be run, with their sizes."""
    from survcore.benchmarks.cases import CASES

    for case in CASES.values():
        click.echo(f"{case.name}: {', '.join(case.sizes)}")


@bench.command("run")
@click.argument("op")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where the op runs."
)
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Type of the floating inputs."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; torch's own number if not given.")
@click.option("--quick", is_flag=True, help="Small sizes and short timing.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Append one JSON line per result to this file."
)
def run(op: str, device: str, dtype: str, threads: int | None, quick: bool, out: Path | None) -> None:
    """Time forward and backward of OP.

    Every provider is first checked against the float64 oracle; times are the median of calls made in turns, with the
    20th and 80th percentile, and the ratio to the fastest other provider (above 1: survcore is faster).
    """
    import torch

    from survcore.benchmarks.cases import CASES
    from survcore.benchmarks.runner import run_case

    if op not in CASES:
        raise click.BadParameter(f"{op!r} is none of {', '.join(CASES)}", param_hint="OP")
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device is available to torch")
    if threads:
        torch.set_num_threads(threads)
    context = _context(device, dtype, torch.get_num_threads())
    click.echo(" · ".join(f"{name} {value}" for name, value in context.items()))
    for results in run_case(CASES[op], device=device, dtype=getattr(torch, dtype), quick=quick):
        click.echo(f"\n{op}, {results[0].size}, forward and backward")
        for line in _lines(results):
            click.echo(line)
        if out:
            with out.open("a") as file:
                file.writelines(json.dumps(_record(result, context)) + "\n" for result in results)


def _context(device: str, dtype: str, threads: int) -> dict[str, Any]:
    import torch

    import survcore
    from survcore._information import device_name

    return {
        "device": device_name(device),
        "threads": threads,
        "dtype": dtype,
        "survcore": survcore.__version__,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _lines(results: list[Any]) -> list[str]:
    others = [result.spread.median for result in results if result.spread and result.provider != "survcore"]
    lines = []
    for result in results:
        if result.spread is None:
            lines.append(f"  {result.provider:<22} {result.problem}")
            continue
        median, low, high = (1e3 * value for value in (result.spread.median, result.spread.low, result.spread.high))
        line = f"  {result.provider:<22} {median:10.3f} ms   ({low:.3f} to {high:.3f})"
        if result.provider == "survcore" and others:
            line += f"   {min(others) / result.spread.median:.1f} x the fastest other"
        lines.append(line)
    return lines


def _record(result: Any, context: dict[str, Any]) -> dict[str, Any]:
    spread = result.spread
    seconds = (
        {"median": spread.median, "p20": spread.low, "p80": spread.high} if spread else {"problem": result.problem}
    )
    return {"op": result.op, "size": result.size, "provider": result.provider, **seconds, **context}
