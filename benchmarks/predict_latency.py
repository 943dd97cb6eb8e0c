"""A whole prediction, from a patient to the table: survcore's Predictor against plain and compiled PyTorch.

Every provider runs in processes of its own, and what it predicts is checked before it is timed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from survcore.benchmarks import predict_bars
from survcore.benchmarks.case import is_own
from survcore.benchmarks.predict_model import made_up_model
from survcore.benchmarks.predict_patients import COMPLETE
from survcore.benchmarks.predict_worker import (
    BFLOAT16,
    COMPILED,
    DTYPES,
    EAGER,
    FLOAT32,
    SURVCORE,
    Facts,
    PredictProcess,
)
from survcore.benchmarks.provider_process import ProviderProblem
from survcore.benchmarks.results import Record
from survcore.benchmarks.timing import spread
from survcore.devices import native_bfloat16
from survcore.files import replacing

OP = "predict_latency"
# The most by which risks may differ from those of survcore in float32, relative to these.
_ALLOWED = {SURVCORE: 1e-2, BFLOAT16: 1e-2, EAGER: 1e-4, COMPILED: 1e-4}
_PATIENTS = 8
# Of the plain provider, whose memory and time grow faster.
_MOST_PLAIN_PATCHES = 50_000
_SAMPLINGS = (("ddim", 50), ("ddim", 20), ("ddim", 10), ("dpm_solver++", 15), ("dpm_solver++", 10))


@dataclass(frozen=True)
class Settings:
    """What is measured, and how long.

    Attributes:
        device: "cpu" or "cuda".
        threads: of every provider.
        patches: of each slide.
        quick: fewer calls, fewer patients and smaller slides, and compiled only where ``against`` names it.
        against: rivals beside survcore, "eager" and "compile"; empty: both.
        predictions: after which the memory is looked at.
        emulated: time bfloat16 encoders also where the processor does not multiply it natively.
    """

    device: str = "cpu"
    threads: int = 1
    patches: int = 4096
    quick: bool = False
    against: tuple[str, ...] = ()
    predictions: int = 10_000
    emulated: bool = False

    @property
    def calls(self) -> int:
        return 30 if self.quick else 200

    @property
    def seconds(self) -> float:
        """Of each provider in each scenario."""
        return 3.0 if self.quick else 20.0

    @property
    def together(self) -> tuple[int, int]:
        """Patients in one call, and how often."""
        return (30, 1) if self.quick else (100, 3)

    @property
    def curve(self) -> tuple[int, ...]:
        """Patches."""
        return (1_000, 4_096, 10_000, *(() if self.quick else (50_000, 200_000)))

    @property
    def rate_seconds(self) -> float:
        """Of each size of matrix product whose rate is measured."""
        return 0.1 if self.quick else 0.3

    @property
    def limit(self) -> float:
        """Seconds after which a provider is given up."""
        return 300.0 if self.quick else 1800.0


def measure(model: Path | None, settings: Settings, context: Record, say: Callable[[str], None]) -> list[Record]:
    """All that is measured of one model, as records; "measured" tells what each is.

    Args:
        model: folder of a model; None for an untrained MUST of the paper's size.
        settings: what is measured.
        context: what belongs to every record, see :func:`survcore.benchmarks.results.context`.
        say: is told what comes next.

    Raises:
        ProviderProblem: survcore itself cannot load the model or predict with it.
    """
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = model
        if folder is None:
            say("making an untrained MUST of the paper's size")
            folder = Path(scratch) / "model"
            made_up_model().save(folder)
        run = _Run(folder, model is None, settings, context, say, stack)
        run.check()
        run.cold()
        run.warm()
        run.curve()
        run.together(folder, f"slides of {settings.patches:,} patches" if run.bag else "tables", settings.patches)
        if run.bag:
            tables = Path(scratch) / "tables"
            made_up_model("embedding").save(tables)
            run.together(tables, "tables alone, in an untrained MUST", 1)
        run.kept()
        run.steps()
        run.threads()
        run.growth()
        for bar in predict_bars.bars(run.records, settings.patches):
            run.add("bar", **bar)
        return run.records


def write(folder: Path, device: str, records: list[Record]) -> Path:
    """Replace the results of a kind of device."""
    path = folder / f"{OP}_{device}.jsonl"
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def wrong(risks: Sequence[float], expected: Sequence[float], allowed: float) -> str:
    """What is wrong with risks, or nothing where each comes as close to the expected one as allowed, relative to it."""
    worst = _difference(risks, expected)
    return "" if worst <= allowed else f"a risk differs by {worst:.1e} of itself; {allowed:.0e} is allowed"


def _difference(risks: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative one; infinite where a risk is not a number."""
    found = [abs(risk / other - 1) for risk, other in zip(risks, expected, strict=True)]
    return max(difference if difference == difference else float("inf") for difference in found)


@dataclass
class _Run:
    """Processes of the providers, and what has been measured so far."""

    folder: Path
    made_up: bool
    settings: Settings
    context: Record
    say: Callable[[str], None]
    stack: ExitStack
    records: list[Record] = field(default_factory=list)
    processes: dict[str, PredictProcess] = field(default_factory=dict)
    scenarios: list[str] = field(default_factory=list)
    bag: str = ""
    told: str = ""

    def add(self, measured: str, provider: str = SURVCORE, **facts: Any) -> None:
        record = {"op": OP, "measured": measured, "provider": provider, "model": self.told, **facts}
        self.records.append(record | self.context | {"dtype": DTYPES[provider]})

    # ---- what is wrong is not timed

    def check(self) -> None:
        """Start the providers and hold what they predict against survcore in float32.

        Raises:
            ProviderProblem: survcore can predict nothing, or differs from itself in float32.
        """
        process = self._started(FLOAT32)
        facts: Facts = process.ask("facts")
        self._describe(facts)
        expected: dict[str, list[float]] = {}
        for scenario in facts.scenarios:
            try:
                expected[scenario] = process.ask("risks", scenario)
            except ProviderProblem as problem:
                self._problem(FLOAT32, str(problem), scenario)
        if not expected:
            raise ProviderProblem("survcore can predict in none of the scenarios")
        self.scenarios = list(expected)
        self.processes[FLOAT32] = process
        for provider in self._chosen():
            self._check(provider, expected)
        if SURVCORE not in self.processes:
            raise ProviderProblem(self.records[-1]["problem"])
        self.processes = {SURVCORE: self.processes.pop(SURVCORE), **self.processes}

    def _check(self, provider: str, expected: dict[str, list[float]]) -> None:
        self.say(f"checking {provider}" + (", which is compiled for every scenario" * (provider == COMPILED)))
        try:
            process = self._started(provider)
            for scenario, risks in expected.items():
                if provider == COMPILED:
                    (seconds,) = process.ask("time", scenario, 1, 0.0)
                    self.add("compilation", provider, scenario=scenario, seconds=seconds)
                found = process.ask("risks", scenario)
                if problem := wrong(found, risks, _ALLOWED[provider]):
                    raise ProviderProblem(f"wrong: {scenario}: {problem}")
                self.add("agreement", provider, scenario=scenario, largest_difference=_difference(found, risks))
        except ProviderProblem as problem:
            self._problem(provider, str(problem))
            return
        self.processes[provider] = process

    def _chosen(self) -> Iterator[str]:
        """The providers beside survcore in float32; who is not among them is named."""
        settings = self.settings
        yield SURVCORE
        if native_bfloat16(settings.device) or settings.emulated:
            yield BFLOAT16
        else:
            self._problem(BFLOAT16, f"left out: this {settings.device} only emulates bfloat16")
        for provider, kind in ((EAGER, "eager"), (COMPILED, "compile")):
            if kind in settings.against or not (settings.against or (settings.quick and kind == "compile")):
                yield provider
            else:
                self._problem(provider, "left out: not asked for")

    # ---- one patient at a time

    def cold(self) -> None:
        """In fresh processes: loading, the very first prediction, and with a warm-up before it."""
        for provider in self._uncompiled():
            self.say(f"first predictions of {provider}, in processes of their own")
            for scenario in self.scenarios:
                with self._fresh(provider) as process:
                    load = process.ask("load", self.folder)
                    process.ask("prepare", 1, self.settings.patches)
                    (first,) = process.ask("time", scenario, 1, 0.0)
                    self.add("cold", provider, scenario=scenario, load_seconds=load, first=first)
            with self._fresh(provider) as process:
                process.ask("load", self.folder)
                process.ask("prepare", 1, self.settings.patches)
                seconds = process.ask("warm_up")
                for scenario in self.scenarios:
                    (first,) = process.ask("time", scenario, 1, 0.0)
                    self.add("after warm-up", provider, scenario=scenario, warm_up_seconds=seconds, first=first)

    def warm(self) -> None:
        """Call after call, another patient each time; and one call's memory."""
        settings = self.settings
        for provider, process in self.processes.items():
            if provider != COMPILED:
                process.ask("warm_up")
            for scenario in self.scenarios:
                self.say(f"{provider}, {scenario}")
                samples = process.ask("time", scenario, 1 + settings.calls, settings.seconds)
                memory = process.ask("memory", scenario)
                facts = {"patches": settings.patches, "source": "cohort", "peak_extra_bytes": memory}
                self.add("warm", provider, scenario=scenario, **_spread(samples), **facts)
        scenario = self._without_bag
        samples = self.processes[SURVCORE].ask("time", scenario, 1 + settings.calls, settings.seconds, {}, "record")
        self.add("warm", scenario=scenario, **_spread(samples), patches=settings.patches, source="record")

    def curve(self) -> None:
        """The time over the patches of a slide that comes alone."""
        if not self.bag:
            return
        scenario = self._bag_alone
        for provider in self._uncompiled():
            with self._fresh(provider) as process:
                for patches in self.settings.curve:
                    if not is_own(provider) and patches > _MOST_PLAIN_PATCHES:
                        problem = f"left out: more than {_MOST_PLAIN_PATCHES:,} patches"
                        self._problem(provider, problem, scenario, patches)
                        continue
                    self.say(f"{provider}, {scenario}, {patches:,} patches")
                    try:
                        process.ask("load", self.folder)  # again: a process that has crashed was started anew
                        process.ask("prepare", 2, patches)
                        samples = process.ask("time", scenario, 1 + self.settings.calls, self.settings.seconds / 2)
                    except ProviderProblem as problem:
                        self._problem(provider, str(problem), scenario, patches)
                    else:
                        self.add("patches", provider, scenario=scenario, patches=patches, **_spread(samples))

    def kept(self) -> None:
        """A slide whose encoding is kept from the call before."""
        if not self.bag:
            return
        self.say("the same slide again")
        scenario = self._bag_alone
        with self._fresh(SURVCORE) as process:
            process.ask("load", self.folder, 64)
            process.ask("prepare", 1, self.settings.patches)
            samples = process.ask("time", scenario, 1 + self.settings.calls, self.settings.seconds / 4)
        self.add("kept", scenario=scenario, patches=self.settings.patches, **_spread(samples))

    def steps(self) -> None:
        """Fewer steps, another solver, and the sampler's weights in half the memory."""
        scenario = self._without_bag
        if scenario == COMPLETE:
            return
        for solver, steps in _SAMPLINGS:
            for precision in ("full", "bfloat16"):
                self.say(f"{scenario}, {steps} steps of {solver}, {precision}")
                options = {"solver": solver, "steps": steps, "precision": precision}
                limits = (1 + self.settings.calls, self.settings.seconds / 4)
                samples = self.processes[SURVCORE].ask("time", scenario, *limits, options)
                self.add("steps", scenario=scenario, **options, **_spread(samples))

    # ---- many patients

    def together(self, folder: Path, which: str, patches: int) -> None:
        """Patients in one call against one by one, and how near that comes to the machine's matrix products."""
        patients, rounds = self.settings.together
        operations = self._operations(folder, patches, patients)
        for provider in self.processes:
            if not is_own(provider):
                continue
            self.say(f"{provider}, {which}: {patients} mixed patients in one call and one by one")
            with self._fresh(provider) as process:
                process.ask("load", folder)
                process.ask("prepare", patients, patches)
                process.ask("warm_up")
                before = self._product_rate(process, provider)
                seconds = [process.ask("together") for _ in range(rounds)]
                rate = max(before, self._product_rate(process, provider))
            one, single = (median(times) for times in zip(*seconds, strict=True))
            facts: dict[str, Any] = {
                "of": which,
                "patients": patients,
                "patches": patches,
                "seconds": one,
                "one_by_one": single,
            }
            if operations and rate:
                facts |= {"product_rate": rate} | predict_bars.share(operations, one, rate)
            self.add("together", provider, **facts)

    def threads(self) -> None:
        """The largest relative difference of a risk between numbers of threads."""
        process, numbers = self.processes[SURVCORE], sorted({1, 2, self.settings.threads})
        self.say(f"risks with {', '.join(map(str, numbers))} threads")
        found: list[list[float]] = []
        for number in numbers:
            process.ask("set_threads", number)
            found.append([risk for scenario in self.scenarios for risk in process.ask("risks", scenario)])
        process.ask("set_threads", self.settings.threads)
        worst = max(_difference(risks, found[0]) for risks in found[1:])
        self.add("threads", numbers=numbers, largest_difference=worst)

    def growth(self) -> None:
        """Of the resident memory over many predictions."""
        scenario, predictions = self._without_bag, self.settings.predictions
        self.say(f"memory over {predictions:,} predictions, {scenario}")
        grown = self.processes[SURVCORE].ask("growth", scenario, predictions)
        self.add("growth", scenario=scenario, predictions=predictions, bytes=grown)

    # ---- what these need

    @property
    def _without_bag(self) -> str:
        """The scenario in which the slide, or the first modality, has to be drawn."""
        wanted = f"without {self.bag}"
        return wanted if wanted in self.scenarios else self.scenarios[min(1, len(self.scenarios) - 1)]

    @property
    def _bag_alone(self) -> str:
        """The scenario in which the first modality but the slide is absent."""
        return next((name for name in self.scenarios[1:] if name != f"without {self.bag}"), COMPLETE)

    def _describe(self, facts: Facts) -> None:
        self.bag = next((name for name, kind in facts.modalities if kind == "bag"), "")
        what = "an untrained MUST of the paper's size" if self.made_up else f"{facts.system} of {self.folder.name}"
        kinds = ", ".join(f"{name}: {kind}" for name, kind in facts.modalities)
        self.told = f"{what} ({1e-6 * facts.parameters:.1f} M parameters; {kinds})"
        self.say(f"{self.told}; made-up patients" + f", slides of {self.settings.patches:,} patches" * bool(self.bag))

    def _uncompiled(self) -> list[str]:
        return [provider for provider in self.processes if provider != COMPILED]

    def _problem(self, provider: str, problem: str, scenario: str = "", patches: int = 0) -> None:
        where = "".join(f", {part}" for part in (scenario, f"{patches:,} patches" if patches else "") if part)
        self.say(f"{provider}{where}: {problem}")
        self.add("problem", provider, problem=problem, scenario=scenario, patches=patches)

    def _started(self, provider: str) -> PredictProcess:
        """A process that stays, with the model and the patients."""
        process = self.stack.enter_context(self._fresh(provider))
        process.ask("load", self.folder)
        process.ask("prepare", _PATIENTS, self.settings.patches)
        return process

    @contextmanager
    def _fresh(self, provider: str) -> Iterator[PredictProcess]:
        settings = self.settings
        process = PredictProcess(provider, device=settings.device, threads=settings.threads, limit=settings.limit)
        try:
            yield process
        finally:
            process.close()

    def _product_rate(self, process: PredictProcess, provider: str) -> float:
        """Of the machine, in the provider's type; 0 where it is emulated, which takes minutes and says nothing."""
        if provider == BFLOAT16 and not native_bfloat16(self.settings.device):
            return 0.0
        return process.ask("product_rate", self.settings.rate_seconds)

    def _operations(self, folder: Path, patches: int, patients: int) -> int | None:
        """Floating-point operations of mixed patients; None for a model that plain PyTorch is not written for."""
        try:
            with self._fresh(EAGER) as process:
                process.ask("load", folder)
                process.ask("prepare", 1, patches)
                names = process.ask("facts").scenarios
                counts = [process.ask("operations", name) for name in names]
        except ProviderProblem as problem:
            self._problem(EAGER, f"no operations to count: {problem}")
            return None
        return sum(counts[number % len(names)] for number in range(patients))


def _spread(samples: Sequence[float]) -> dict[str, Any]:
    """Percentiles of calls, in seconds; the first of several, which finds nothing in the caches, does not count."""
    found = spread(list(samples[1:] or samples))
    return {"median": found.median, "p95": found.p95, "p99": found.p99, "calls": found.calls}
