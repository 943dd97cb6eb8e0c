"""``survcore bench``: list the cases, run them, write what they found into tables, compare two runs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click

DTYPES = ["float32", "float64", "bfloat16", "float16"]


@click.group()
def bench() -> None:
    """Time the compiled ops and whole predictions against plain and compiled PyTorch, and check intervals."""


@bench.command("list")
def list_cases() -> None:
    """Name the ops that can be run, with their providers and sizes."""
    from survcore.benchmarks.cases import CASES
    from survcore.benchmarks.runner import chosen

    for case in CASES.values():
        click.echo(case.name)
        click.echo(f"  providers: {' | '.join((*chosen(case, ()), *case.context))}")
        click.echo(f"  sizes: {' | '.join(case.sizes)}")


@bench.command("run")
@click.argument("ops", metavar="[OP]...", nargs=-1)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where the op runs."
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Type of the floating inputs. If not given, each op's usual one, and what else its tables show.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; torch's own number if not given.")
@click.option("--quick", is_flag=True, help="Small sizes and short timing.")
@click.option(
    "--against",
    type=click.Choice(["peers", "eager", "compile"]),
    multiple=True,
    help="Kind of rivals to run beside survcore; may be given several times. All if not given.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write JSON lines to this folder, one file per op, device and dtype, which is replaced.",
)
def run(
    ops: tuple[str, ...],
    device: str,
    dtype: str | None,
    threads: int | None,
    quick: bool,
    against: tuple[str, ...],
    out: Path | None,
) -> None:
    """Time each OP, or all (on cuda all but the metrics): forward, backward and both, or forward without a gradient.

    Every provider runs in a process of its own, is first checked against the float64 oracle, and is timed in turns with
    the others. A line has the median of the calls, the 20th, 80th, 95th and 99th percentile, the largest relative
    error, the peak memory beside inputs and results, the share of the machine's roof (the rates of copies, of fused
    multiply-adds, of a matrix product and of exponentials measured in the same run), and for survcore the ratio to the
    fastest other provider (above 1: survcore is faster). For some ops also the latency with and without a busy
    neighbour on the machine. A provider that fails, crashes or is wrong is named and not timed.
    """
    import torch

    from survcore.benchmarks import results
    from survcore.benchmarks.report import lines, records, roof_lines, roof_record
    from survcore.benchmarks.runner import Settings, roofs_of, run_case

    if device == "cuda":
        from survcore.benchmarks.op_cases import CASES, MODULES
    else:
        from survcore.benchmarks.cases import CASES, MODULES

    for op in ops:
        if op not in CASES:
            raise click.BadParameter(f"{op!r} is none of {', '.join(CASES)}", param_hint="OP")
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device is available to torch")
    threads = threads or torch.get_num_threads()
    roofs: dict[str, Any] = {}
    for op in ops or CASES:
        case, module = CASES[op], MODULES[op].__name__
        for own in [dtype] if dtype and not case.dtype else case.dtypes_on(device):
            settings = Settings(device, own, threads, against, quick)
            context = results.context(device, own, threads, quick, against)
            if own not in roofs:
                roofs[own] = roofs_of(module, settings)
                facts = {name: value for name, value in context.items() if isinstance(value, str | int)}
                click.echo(" · ".join(f"{name} {value}" for name, value in facts.items()))
                click.echo("\n".join(roof_lines(roofs[own])))
            found = [roof_record(op, roofs[own], context)]
            for report in run_case(module, case, settings, roofs[own]):
                click.echo("\n" + "\n".join(lines(report)))
                found.extend(records(report, context))
                if out:
                    path = results.write(out, op, device, own, found)
            if out:
                click.echo(f"\n{path}")


@bench.command("report")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--results",
    "source",
    type=click.Path(exists=True, path_type=Path),
    default=Path("benchmarks/results"),
    show_default=True,
    help="Folder that `run --out` wrote.",
)
@click.option("--check", is_flag=True, help="Write nothing; fail if a table or a figure is not that of the results.")
def report(files: tuple[Path, ...], source: Path, check: bool) -> None:
    """Write tables of stored results into Markdown FILES, and draw their curves beside the results.

    A table stands between the lines `<!-- bench OP -->` (or `<!-- bench bars -->`) and `<!-- /bench -->`. Without
    FILES: README.md, benchmarks/README.md and survcore/metrics/README.md of this folder.
    """
    from survcore.benchmarks import pages

    try:
        stale = pages.stale(files or pages.of_project(Path()), source) if check else []
        changed = [] if check else pages.write(files or pages.of_project(Path()), source)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    for path in changed:
        click.echo(path)
    if stale:
        raise click.ClickException(f"not those of {source}: {', '.join(map(str, stale))}; `survcore bench report`")


@bench.command("compare")
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Times of AFTER beside those of BEFORE: files or folders that `run --out` wrote."""
    from survcore.benchmarks.compare import comparison
    from survcore.benchmarks.results import read

    try:
        click.echo("\n".join(comparison(read(before), read(after))))
    except ValueError as error:
        raise click.ClickException(str(error)) from None


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


@bench.command("latency")
@click.argument("model", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to predict."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; torch's own number if not given.")
@click.option(
    "--patches", type=click.IntRange(min=1), default=4096, show_default=True, help="Of a slide, beside the curve."
)
@click.option("--quick", is_flag=True, help="Fewer calls, patients and patches; compiled only with --against compile.")
@click.option(
    "--against",
    type=click.Choice(["eager", "compile"]),
    multiple=True,
    help="Rivals to run beside survcore; may be given twice. Both if not given.",
)
@click.option(
    "--predictions",
    type=click.IntRange(min=20),
    help="After how many the memory is looked at; 10,000 if not given, with --quick 300.",
)
@click.option("--emulated", is_flag=True, help="Time bfloat16 also where the processor does not multiply it natively.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write JSON lines and a figure to this folder, which are replaced.",
)
def latency(
    model: Path | None,
    device: str,
    threads: int | None,
    patches: int,
    quick: bool,
    against: tuple[str, ...],
    predictions: int | None,
    emulated: bool,
    out: Path | None,
) -> None:
    """Time whole predictions, from a patient to the table, complete and without each modality in turn.

    MODEL is a model folder; without one it is an untrained MUST of the paper's size, which takes the same time.
    Patients are made up, another one at each call, and nobody's encoding is kept. Beside survcore in float32, and in
    bfloat16 where the processor multiplies it, runs the same model in plain PyTorch and by torch.compile; each in
    processes of its own, checked against survcore in float32 before it is timed. Printed are first calls and
    percentiles, many patients in one call, the time over the patches of a slide, fewer steps, memory, what the number
    of threads changes, and which bars are met.
    """
    import torch

    from survcore.benchmarks import predict_figure, predict_tables, results
    from survcore.benchmarks.predict_latency import Settings, measure, write
    from survcore.benchmarks.provider_process import ProviderProblem

    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device is available to torch")
    threads = threads or torch.get_num_threads()
    predictions = predictions or (300 if quick else 10_000)
    settings = Settings(device, threads, patches, quick, against, predictions, emulated)
    context = results.context(device, "float32", threads, quick, against)
    facts = {name: value for name, value in context.items() if isinstance(value, str | int)}
    click.echo(" · ".join(f"{name} {value}" for name, value in facts.items()))
    try:
        found = measure(model, settings, context, click.echo)
    except ProviderProblem as problem:
        raise click.ClickException(f"survcore: {problem}") from None
    click.echo("\n" + predict_tables.printed(found))
    if out:
        click.echo(f"\n{write(out, device, found)}")
        if predict_figure.shown(found):
            path = out / f"{predict_figure.NAME}.svg"
            predict_figure.draw(found, path)
            click.echo(path)


@bench.command("models")
@click.argument("system")
@click.argument("cohort", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--fold", type=int, help="Leave this fold out (the fold column of the cohort).")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; torch's own number if not given.")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a value of the recipe, as in survcore train."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write JSON lines to this folder, one file per system and cohort, which is replaced.",
)
def models(
    system: str, cohort: Path, fold: int | None, threads: int | None, settings: tuple[str, ...], out: Path | None
) -> None:
    """Train SYSTEM on the cohort folder COHORT, with survcore's losses and with the same losses in plain PyTorch.

    Each trains in a process of its own, one after the other, once the losses of first epochs have been compared.
    Printed are the epochs of each stage, the whole time from the cohort to the predictor, and the memory at its peak.
    """
    import torch

    from survcore.benchmarks import results
    from survcore.benchmarks.model_training import OP, measure, table
    from survcore.benchmarks.provider_process import ProviderProblem
    from survcore.training import read_changes

    threads = threads or torch.get_num_threads()
    context = results.context("cpu", "float32", threads)
    facts = {name: value for name, value in context.items() if isinstance(value, str | int)}
    click.echo(" · ".join(f"{name} {value}" for name, value in facts.items()))
    try:
        found = measure(system, cohort, fold, read_changes(settings), threads=threads, context=context, say=click.echo)
    except ProviderProblem as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(table(found))
    if out:
        click.echo(results.write(out, f"{OP}_{system}_{cohort.name}", "cpu", "float32", found))


@bench.command("shortcuts")
@click.argument("evaluation", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("cohort", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda:N, or auto: a GPU where there is one.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; torch's own number if not given.")
@click.option(
    "--max-patches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Also at most so many patches of a slide; may be given several times.",
)
@click.option(
    "--patients", type=click.IntRange(min=1), default=20, show_default=True, help="How many are timed one by one."
)
@click.option("--resamples", type=click.IntRange(min=1), default=1000, show_default=True, help="Of each interval.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write JSON lines to this folder, one file per cohort and device, which is replaced.",
)
def cost_of_shortcuts(
    evaluation: Path,
    cohort: Path,
    device: str,
    threads: int | None,
    max_patches: tuple[int, ...],
    patients: int,
    resamples: int,
    out: Path | None,
) -> None:
    """Tell what fewer steps, another solver, bfloat16 and fewer patches cost on the patients of COHORT.

    EVALUATION is a folder that `survcore evaluate SYSTEM COHORT` wrote: each fold's model predicts for the patients it
    was not trained on, with each modality missing in turn. Printed are the C-index and its paired difference to 50
    steps of ddim in float32, how far risks move (in standard deviations of the risk over patients, and as a share of
    the risk), and the milliseconds of a patient who comes alone. The same with another seed shows the noise of
    sampling.
    """
    import torch

    from survcore.benchmarks import results
    from survcore.benchmarks.shortcuts import measure, records, table
    from survcore.data import Cohort
    from survcore.devices import known_device

    kind = known_device(device).type
    if threads:
        torch.set_num_threads(threads)
    context = results.context(kind, "float32", torch.get_num_threads())
    facts = {name: value for name, value in context.items() if isinstance(value, str | int)}
    click.echo(" · ".join(f"{name} {value}" for name, value in facts.items()))
    costs = measure(
        evaluation,
        Cohort.from_folder(cohort),
        device=device,
        max_patches=max_patches,
        patients=patients,
        resamples=resamples,
    )
    click.echo(table(costs))
    if out:
        found = records(costs, evaluation, context)
        click.echo(results.write(out, f"shortcuts_{found[0]['cohort']}", kind, "float32", found))


if __name__ == "__main__":
    bench()
