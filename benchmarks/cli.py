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
    """Time the compiled ops against plain and compiled PyTorch, and check the coverage of intervals."""


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
    """Time OP: forward and backward, or forward alone if it has no gradient.

    Every provider is first checked against the float64 oracle; times are the median of calls made in turns, with the
    20th, 80th, 95th and 99th percentile, the largest relative error, and the ratio to the fastest other provider (above
    1: survcore is faster). For some ops also: shares of the rates of a matrix product and of a plain read measured in
    the same run, and the latency with and without a busy neighbour on the machine.
    """
    import torch

    from survcore.benchmarks.cases import CASES
    from survcore.benchmarks.report import lines, records
    from survcore.benchmarks.runner import run_case

    if op not in CASES:
        raise click.BadParameter(f"{op!r} is none of {', '.join(CASES)}", param_hint="OP")
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device is available to torch")
    if threads:
        torch.set_num_threads(threads)
    if CASES[op].dtype:
        dtype = str(CASES[op].dtype).removeprefix("torch.")
    context = _context(device, dtype, torch.get_num_threads())
    click.echo(" · ".join(f"{name} {value}" for name, value in context.items()))
    for report in run_case(CASES[op], device=device, dtype=getattr(torch, dtype), quick=quick):
        click.echo("\n" + "\n".join(lines(report)))
        if out:
            with out.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in records(report, context))


@bench.command("coverage")
@click.option("--simulations", type=click.IntRange(min=1), default=500, show_default=True, help="Cohorts of each size.")
@click.option("--resamples", type=click.IntRange(min=1), default=1000, show_default=True, help="Of each interval.")
@click.option(
    "--patients",
    type=click.IntRange(min=2),
    multiple=True,
    default=(50, 200, 1000),
    show_default=True,
    help="Patients of a cohort; may be given several times.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of cohorts and resamples.")
def coverage_of_intervals(simulations: int, resamples: int, patients: tuple[int, ...], seed: int) -> None:
    """Count how often 95 % bootstrap intervals hold the truth.

    Patients are simulated with exponential times under censoring; the true C-index is that of a million of them.
    Printed is the share of intervals that hold it, with the standard error of the share.
    """
    import numpy as np

    import survcore
    from survcore.benchmarks.coverage import coverage, true_concordance

    facts = {
        "survcore": survcore.__version__,
        "numpy": np.__version__,
        "date": datetime.date.today().isoformat(),
        "simulations": simulations,
        "resamples": resamples,
        "seed": seed,
    }
    click.echo(" · ".join(f"{name} {value}" for name, value in facts.items()))
    noisy, better = truth = true_concordance(seed)
    click.echo(f"true C-index {noisy:.4f}, of the better risk {better:.4f}")
    for count in patients:
        click.echo(f"\n{count} patients")
        for line in coverage(count, truth, simulations=simulations, resamples=resamples, seed=seed):
            share, error = 100 * line.share, 100 * line.standard_error
            click.echo(f"  {line.interval:<43}  {share:5.1f} % (standard error {error:.1f} %)")


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
