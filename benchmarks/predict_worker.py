"""One provider of whole predictions, served to a run from a process of its own, which has done nothing else before."""

from __future__ import annotations

import time
import warnings
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from survcore.benchmarks.memory import peak_extra_bytes, resident
from survcore.benchmarks.predict_patients import Record, cohort_of, made_up_records, mixed, scenarios, shown
from survcore.benchmarks.predict_plain import made_plain
from survcore.benchmarks.provider_process import ServingProcess
from survcore.benchmarks.roofs import product_rate
from survcore.benchmarks.worker import answer, settle
from survcore.data.cohort import Cohort
from survcore.inference.predictor import Predictor

# As users get it, and in the one type or the other.
SURVCORE, FLOAT32, BFLOAT16 = "survcore", "survcore, float32", "survcore, bfloat16"
EAGER, COMPILED = "eager", "compiled"
DTYPES = {SURVCORE: "auto", FLOAT32: "float32", BFLOAT16: "bfloat16", EAGER: "float32", COMPILED: "float32"}


class Facts(NamedTuple):
    """What a model is: system, number of parameters, its modalities as (name, kind), and its scenarios."""

    system: str
    parameters: int
    modalities: tuple[tuple[str, str], ...]
    scenarios: list[str]


class PredictWorker:
    """What a run asks of a provider.

    Args:
        provider: one of the keys of :data:`DTYPES`.
        device: "cpu" or "cuda".
    """

    def __init__(self, provider: str, device: str) -> None:
        self._provider, self._device = provider, device
        self._predictor: Predictor
        self._records: list[Record] = []
        self._cohorts: dict[tuple[str, int], Cohort] = {}

    def load(self, folder: Path, kept_encodings: int = 0) -> float:
        """Seconds that loading the model takes; what is made plain or compiled of it is made after that."""
        start = time.perf_counter()
        self._predictor = Predictor.load(folder, self._device, DTYPES[self._provider], kept_encodings=kept_encodings)
        seconds = time.perf_counter() - start
        if self._provider in (EAGER, COMPILED):
            made_plain(self._predictor.system, compiled=self._provider == COMPILED)
        return seconds

    def facts(self) -> Facts:
        """Of the model."""
        system = self._predictor.system
        parameters = sum(parameter.numel() for parameter in system.parameters())
        modalities = tuple((entry.name, entry.kind) for entry in system.inputs)
        return Facts(system.name, parameters, modalities, scenarios(self._predictor.preprocessor))

    def prepare(self, count: int, patches: int) -> None:
        """Make up so many patients, with slides of so many patches, in place of those before."""
        self._records, self._cohorts = [], {}
        self._records = made_up_records(self._predictor.preprocessor, count, patches=patches)

    def set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def warm_up(self) -> float:
        """Seconds of the predictor's warm-up."""
        start = time.perf_counter()
        self._predictor.warmup()
        return time.perf_counter() - start

    def risks(self, scenario: str) -> list[float]:
        """Of every patient, each alone."""
        return [float(self._predict(self._cohort(scenario, place))["risk"].iloc[0]) for place in self._places()]

    def time(
        self, scenario: str, calls: int, seconds: float, options: dict[str, Any] | None = None, source: str = "cohort"
    ) -> list[float]:
        """Seconds of calls one after the other, each of the next patient, until one of the limits is reached.

        From a cohort of one patient, made beforehand, or with the source "record" from a record, to the table.
        """
        inputs = [
            shown(self._records[place], scenario) if source == "record" else self._cohort(scenario, place)
            for place in self._places()
        ]
        found: list[float] = []
        deadline = time.perf_counter() + seconds
        for patient in islice(cycle(inputs), calls):
            start = time.perf_counter()
            self._predict(patient, **(options or {}))
            end = time.perf_counter()
            found.append(end - start)
            if end > deadline:
                break
        return found

    def memory(self, scenario: str) -> int | None:
        """Bytes at the peak of a call beyond those before it; None where the system does not tell."""
        patient = self._cohort(scenario, 0)

        def call() -> tuple[()]:
            self._predict(patient)
            return ()

        return peak_extra_bytes(call, self._device)

    def together(self) -> tuple[float, float]:
        """Seconds of all patients, mixed over the scenarios: in one call, and one by one."""
        preprocessor = self._predictor.preprocessor
        records = mixed(self._records, scenarios(preprocessor))
        whole = cohort_of(preprocessor, records)
        singles = [cohort_of(preprocessor, [record]) for record in records]
        start = time.perf_counter()
        self._predict(whole)
        middle = time.perf_counter()
        for patient in singles:
            self._predict(patient)
        return middle - start, time.perf_counter() - middle

    def growth(self, scenario: str, predictions: int) -> int:
        """Bytes by which the resident memory grows from a twentieth of so many predictions to their end."""
        patients = cycle([self._cohort(scenario, place) for place in self._places()])
        first = max(1, predictions // 20)
        for patient in islice(patients, first):
            self._predict(patient)
        before = resident("VmRSS")
        for patient in islice(patients, predictions - first):
            self._predict(patient)
        return resident("VmRSS") - before

    def operations(self, scenario: str) -> int:
        """Floating-point operations of the products and convolutions of one prediction, as this provider computes it.

        They are counted where PyTorch computes them, so of a plain provider alone.
        """
        patient = self._cohort(scenario, 0)
        self._predict(patient)  # what is computed once and kept is no part of it
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self._predict(patient)
        return counter.get_total_flops()

    def product_rate(self, seconds: float) -> float:
        """Floating-point operations per second of the best square product in the type of this provider's encoders."""
        return product_rate(self._predictor.dtype, self._device, seconds)

    def _places(self) -> range:
        return range(len(self._records))

    def _cohort(self, scenario: str, place: int) -> Cohort:
        key = (scenario, place)
        if key not in self._cohorts:
            record = shown(self._records[place], scenario)
            self._cohorts[key] = cohort_of(self._predictor.preprocessor, [record])
        return self._cohorts[key]

    def _predict(self, patients: Cohort | Record, **options: Any) -> pd.DataFrame:
        return self._predictor.predict(patients, errors="raise", **options)


class PredictProcess(ServingProcess):
    """Serves a :class:`PredictWorker`.

    Args:
        provider, device: of the :class:`PredictWorker`.
        threads, limit: as :class:`~survcore.benchmarks.provider_process.ServingProcess`.
    """

    def __init__(self, provider: str, *, device: str, threads: int, limit: float) -> None:
        super().__init__(serve, (provider, device, threads), threads=threads, limit=limit)


def serve(connection: Connection, provider: str, device: str, threads: int) -> None:
    """Answer requests to a :class:`PredictWorker`, see :func:`~survcore.benchmarks.worker.answer`."""
    settle(device, threads)
    warnings.simplefilter("ignore", UserWarning)  # made-up patients may look strange to a model
    answer(connection, PredictWorker(provider, device))
