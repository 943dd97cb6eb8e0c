"""Runs a case: every provider in its own process, checked against a float64 oracle before it is timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from survcore.benchmarks.agreement import Agreement
from survcore.benchmarks.case import BenchmarkCase, Work, is_own
from survcore.benchmarks.latency import Latency
from survcore.benchmarks.provider_process import ProviderProblem, ProviderProcess
from survcore.benchmarks.roofs import Roofs
from survcore.benchmarks.timing import Spread, spread

# Turns of every provider: what disturbs the machine for a while strikes all of them.
_TURNS = 5
# Threads that have just finished go on spinning for a moment, in whichever process they are.
_SETTLE = 0.01


@dataclass(frozen=True)
class Settings:
    """Where and how long a case is run.

    Attributes:
        device, dtype: of the inputs, as PyTorch names them.
        threads: of every provider.
        against: which rivals are run beside survcore: "peers", "eager", "compile"; empty: all, and the context.
        quick: small sizes and short timing.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    against: tuple[str, ...] = ()
    quick: bool = False

    def seconds(self, passes: str) -> float:
        """Of each provider at each size."""
        return (0.3 if self.quick else 1.0) * (1.0 if passes == "both" else 0.5)

    @property
    def roof_seconds(self) -> float:
        return 0.1 if self.quick else 0.5

    @property
    def latency_limits(self) -> tuple[int, float]:
        """Calls and seconds."""
        return (100, 2.0) if self.quick else (300, 10.0)

    @property
    def limit(self) -> float:
        """Seconds after which a provider is given up."""
        return 120.0 if self.quick else 600.0


@dataclass
class Result:
    """One provider at one size: its times by pass, or why there are none (``agreement.problem``).

    Attributes:
        provider: its name.
        rival: whether it is compared with; context is not.
        agreement: with its oracle.
        spreads: "forward", and where there is a gradient "both" and "backward" -> seconds.
        memory: "forward", "both" -> peak bytes beside inputs and results; None where the system does not say.
    """

    provider: str
    rival: bool
    agreement: Agreement
    spreads: dict[str, Spread] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)


@dataclass
class Report:
    """What was measured at one size.

    Attributes:
        op, size: which.
        results: of all providers, timed in turns.
        work: pass -> what it must do at least; empty where the case does not say.
        roofs: the machine's rates.
        latencies: at the first size, of the providers that the case names.
    """

    op: str
    size: str
    results: list[Result]
    work: dict[str, Work]
    roofs: Roofs
    latencies: list[Latency]

    @property
    def passes(self) -> list[str]:
        """The passes that were timed, the one that counts most first."""
        timed = {name for result in self.results for name in result.spreads}
        return [name for name in ("both", "forward", "backward") if name in timed]


def roofs_of(module: str, settings: Settings) -> Roofs:
    """The machine's rates, measured in a process of their own."""
    with _process(module, "survcore", settings) as process:
        return process.ask("roofs", settings.roof_seconds)


def run_case(module: str, case: BenchmarkCase, settings: Settings, roofs: Roofs) -> Iterator[Report]:
    """The report of each size in turn.

    Args:
        module: dotted name of the module whose ``CASE`` this is.
        case: the case.
        settings: where and how long.
        roofs: as :func:`roofs_of` measured them.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rivals = chosen(case, settings.against)
        names = rivals if settings.against else [*rivals, *case.context]
        processes = {name: stack.enter_context(_process(module, name, settings)) for name in names}
        sources = {case.oracles.get(name, case.oracle) for name in names}
        oracles = {name: stack.enter_context(_process(module, name, settings, exact=True)) for name in sources}
        if settings.device == "cuda":  # each takes seconds to begin, on a machine that has many cores
            for process in (*processes.values(), *oracles.values()):
                process.start()
        for size in case.sizes_on(settings.device, settings.dtype, settings.quick):
            first = size == next(iter(case.sizes))
            asked = {name: processes[name] for name in (names if first else rivals)}
            yield _run_size(case, size, settings, roofs, asked, oracles, folder)


def _run_size(
    case: BenchmarkCase,
    size: str,
    settings: Settings,
    roofs: Roofs,
    processes: dict[str, ProviderProcess],
    oracles: dict[str, ProviderProcess],
    folder: Path,
) -> Report:
    exact = _Oracles(case, size, oracles)
    results = []
    work: dict[str, Work] = {}
    values = folder / "values"
    for name, process in processes.items():
        result = Result(name, name not in case.context, Agreement())
        try:
            process.ask("prepare", size)
            work = work or process.ask("work")
            process.ask("write_values", values)
            result.agreement = exact.compare(values, name)
            if not result.agreement.problem:
                result.memory = process.ask("memory")
        except ProviderProblem as problem:
            result.agreement = Agreement(str(problem))
        values.unlink(missing_ok=True)
        results.append(result)
    exact.forget()
    for rival in (True, False):
        _time([result for result in results if result.rival == rival], processes, settings)
    latencies = _latencies(case, size, results, processes, settings)
    return Report(case.name, size, results, work, roofs, latencies)


def _time(results: list[Result], processes: dict[str, ProviderProcess], settings: Settings) -> None:
    """Fill in the spreads of those that agree with their oracle, in turns."""
    for passes in ("forward", "both"):
        samples: dict[str, dict[str, list[float]]] = {}
        timed = [result for result in results if not result.agreement.problem and passes in result.memory]
        for _ in range(_TURNS):
            for result in timed:
                if result.agreement.problem:
                    continue
                time.sleep(_SETTLE)
                try:
                    turn = processes[result.provider].ask("time", passes, settings.seconds(passes) / _TURNS)
                except ProviderProblem as problem:
                    result.agreement = Agreement(str(problem))
                    continue
                for name, values in turn.items():
                    samples.setdefault(result.provider, {}).setdefault(name, []).extend(values)
        for result in timed:
            if result.agreement.problem:
                result.spreads = {}
            else:
                result.spreads |= {name: spread(values) for name, values in samples[result.provider].items()}


class _Oracles:
    """The oracles of a case at one size, each made ready when it is first needed."""

    def __init__(self, case: BenchmarkCase, size: str, processes: dict[str, ProviderProcess]) -> None:
        self._case, self._size, self._processes = case, size, processes
        self._problems: dict[str, str] = {}

    def compare(self, values: Path, provider: str) -> Agreement:
        """Values that a provider wrote, against its oracle's."""
        source = self._case.oracles.get(provider, self._case.oracle)
        process = self._processes[source]
        try:
            if source not in self._problems:
                self._problems[source] = ""
                process.ask("prepare", self._size)
            if not self._problems[source]:
                return process.ask("compare", values, provider)
        except ProviderProblem as problem:
            self._problems[source] = str(problem)
        return Agreement(f"unchecked: {source} in float64 {self._problems[source]}")

    def forget(self) -> None:
        for source, problem in self._problems.items():
            if not problem:
                self._processes[source].ask("forget")


def _latencies(
    case: BenchmarkCase, size: str, results: list[Result], processes: dict[str, ProviderProcess], settings: Settings
) -> list[Latency]:
    if size != next(iter(case.sizes)) or settings.device != "cpu":
        return []
    found = []
    for result in results:
        if result.provider in case.latency and not result.agreement.problem:
            try:
                found.append(processes[result.provider].ask("latency", *settings.latency_limits))
            except ProviderProblem as problem:
                result.agreement = Agreement(str(problem))
                result.spreads = {}
    return found


def chosen(case: BenchmarkCase, against: tuple[str, ...]) -> list[str]:
    """The names of survcore and of its rivals of the kinds asked for."""
    names = list(case.providers)
    if "eager" in names and "compiled" not in names:
        names.append("compiled")
    return [name for name in names if not against or is_own(name) or _kind(name) in against]


def _kind(rival: str) -> str:
    if rival == "compiled" or rival.endswith(", compiled"):
        return "compile"
    return "eager" if rival == "eager" else "peers"


@contextmanager
def _process(module: str, provider: str, settings: Settings, exact: bool = False) -> Iterator[ProviderProcess]:
    options: dict[str, Any] = {"dtype": settings.dtype, "device": settings.device, "threads": settings.threads}
    process = ProviderProcess(module, provider, limit=settings.limit, exact=exact, **options)
    try:
        yield process
    finally:
        process.close()
