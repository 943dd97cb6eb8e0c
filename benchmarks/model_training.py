"""A whole training: a system as it is against the same system with losses in plain PyTorch."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from survcore.benchmarks import plain_losses
from survcore.benchmarks.memory import resident
from survcore.benchmarks.provider_process import ProviderProblem, ServingProcess
from survcore.benchmarks.results import Record
from survcore.benchmarks.worker import answer, settle
from survcore.data.cohort import Cohort
from survcore.models import system_class
from survcore.training.fit import fit

OP = "model_training"
SURVCORE, PLAIN = "survcore", "plain"
# The most by which losses of the first epochs may differ, relative to those of survcore.
_ALLOWED = 1e-3
_LIMIT = 4 * 3600.0
_LOSSES = ("masked_bce_with_logits", "masked_mse", "info_nce", "cox_ph_loss")


class TrainingWorker:
    """Trains a system on a cohort in this process.

    Args:
        provider: "survcore" or "plain".
        system: its name.
        cohort: folder.
        fold: the fold that is left out, or None.
        changes: of the packaged recipe.
    """

    def __init__(self, provider: str, system: str, cohort: Path, fold: int | None, changes: dict[str, Any]) -> None:
        self._system, self._cohort, self._fold = system, Cohort.from_folder(cohort), fold
        self._changes = changes
        if provider == PLAIN:
            module = importlib.import_module(system_class(system).__module__)
            for name in _LOSSES:
                if hasattr(module, name):
                    setattr(module, name, getattr(plain_losses, name))

    def first_losses(self) -> list[float]:
        """Mean losses of the first epoch of each stage."""
        return [line["loss"] for line, _ in self._trained(1)]

    def train(self) -> tuple[list[tuple[str, float]], float, int]:
        """Stage and seconds of every epoch, seconds of the whole, and bytes at the peak beyond those before it."""
        before = resident("VmRSS")
        start = time.perf_counter()
        epochs = [(line["stage"], seconds) for line, seconds in self._trained(0)]
        return epochs, time.perf_counter() - start, resident("VmHWM") - before

    def _trained(self, most_epochs: int) -> list[tuple[dict[str, Any], float]]:
        changes = self._changes
        if most_epochs:
            stages = dict.fromkeys(system_class(self._system).stage_names, {"epochs": most_epochs})
            changes = {**changes, "stages": _merged(changes.get("stages", {}), stages)}
        found: list[tuple[dict[str, Any], float]] = []
        last = time.perf_counter()

        def note(line: dict[str, Any]) -> None:
            nonlocal last
            now = time.perf_counter()
            found.append((line, now - last))
            last = now

        fit(self._system, self._cohort, fold=self._fold, changes=changes, show_progress=False, on_epoch=note)
        return found


def measure(
    system: str,
    cohort: Path,
    fold: int | None,
    changes: dict[str, Any],
    *,
    threads: int,
    context: Record,
    say: Callable[[str], None],
) -> list[Record]:
    """One record per provider and stage, and one per provider of the whole training.

    Raises:
        ProviderProblem: a provider failed, or its losses are others than survcore's.
    """
    module = importlib.import_module(system_class(system).__module__)
    if not any(hasattr(module, name) for name in _LOSSES):
        raise ProviderProblem(f"no loss of {system} has a form in plain PyTorch here")
    records: list[Record] = []
    processes = {
        name: ServingProcess(serve, (name, system, cohort, fold, changes, threads), threads=threads, limit=_LIMIT)
        for name in (SURVCORE, PLAIN)
    }
    shared = {"op": OP, "system": system, "cohort": cohort.name, "fold": fold, **context}
    try:
        expected = processes[SURVCORE].ask("first_losses")
        found = processes[PLAIN].ask("first_losses")
        worst = compared(found, expected)
        for name, process in processes.items():
            process.close()  # a fresh process, whose peak of memory is that of the training
            epochs, seconds, peak = process.ask("train")
            process.close()
            say(f"{name}: {seconds:.0f} s, {peak / 1e6:.0f} MB")
            for stage in dict.fromkeys(stage for stage, _ in epochs):
                times = [seconds for other, seconds in epochs if other == stage]
                values = {"epochs": len(times), "median": median(times), "seconds": sum(times)}
                records.append({"measured": "stage", "provider": name, "stage": stage, **values, **shared})
            whole = {"seconds": seconds, "peak_bytes": peak, "difference": worst}
            records.append({"measured": "training", "provider": name, **whole, **shared})
    finally:
        for process in processes.values():
            process.close()
    return records


def compared(found: list[float], expected: list[float]) -> float:
    """The largest relative difference of two providers' losses.

    Raises:
        ProviderProblem: it is larger than rounding explains, or no number.
    """
    differences = [abs(other / loss - 1) for other, loss in zip(found, expected, strict=True)]
    if not all(difference <= _ALLOWED for difference in differences):
        raise ProviderProblem(f"losses of the first epochs differ: {found}, expected {expected}")
    return max(differences)


def table(records: list[Record]) -> str:
    """As text, one line per provider and stage."""
    lines = []
    for record in records:
        if record["measured"] == "stage":
            lines.append(
                f"{record['provider']:<10} {record['stage']:<12} {record['epochs']:>4} epochs, "
                f"{record['median']:.3f} s each (median), {record['seconds']:.1f} s in all"
            )
        else:
            peak = record["peak_bytes"] / 1e6
            lines.append(f"{record['provider']:<10} the whole training {record['seconds']:.1f} s, {peak:.0f} MB")
    return "\n".join(lines)


def serve(
    connection: Connection,
    provider: str,
    system: str,
    cohort: Path,
    fold: int | None,
    changes: dict[str, Any],
    threads: int,
) -> None:
    """Answer requests to a :class:`TrainingWorker`."""
    settle("cpu", threads)
    answer(connection, TrainingWorker(provider, system, cohort, fold, changes))


def _merged(stages: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    return {name: {**stages.get(name, {}), **others.get(name, {})} for name in {**stages, **others}}
