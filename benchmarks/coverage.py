"""How often a bootstrap interval holds the truth, on simulated patients whose true C-index is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from survcore.metrics import bootstrap_interval, compare_paired, concordance_index

_ROWS_PER_PATIENT = 3


@dataclass(frozen=True)
class Coverage:
    """The share of intervals that hold the truth.

    Attributes:
        interval: of what, in words.
        share: of the simulated cohorts, from 0 to 1.
        standard_error: of the share, from the number of cohorts.
    """

    interval: str
    share: float
    standard_error: float


def simulated_patients(
    generator: np.random.Generator, patients: int, rows: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, events, a noisy risk and the true log-hazard, [patients * rows] each.

    Times are exponential with a hazard of exp(log-hazard), log-hazards standard normal, censorings exponential with
    mean 1.5 (two in five patients); the noise of the risk has a standard deviation of 0.5. A patient has the same
    values in all ``rows`` rows.
    """
    log_hazard = generator.normal(size=patients)
    failure, censoring = generator.exponential(np.exp(-log_hazard)), generator.exponential(1.5, patients)
    risk = log_hazard + 0.5 * generator.normal(size=patients)
    columns = (np.minimum(failure, censoring), failure <= censoring, risk, log_hazard)
    return tuple(np.repeat(column, rows) for column in columns)


def true_concordance(seed: int, patients: int = 1_000_000) -> tuple[float, float]:
    """C-indices of the noisy risk and of the true log-hazard in a cohort so large that its own error is below 0.001."""
    time, event, risk, log_hazard = simulated_patients(np.random.default_rng((seed, 0)), patients)
    return concordance_index(time, event, risk).value, concordance_index(time, event, log_hazard).value


def coverage(
    patients: int, truth: tuple[float, float], *, simulations: int = 500, resamples: int = 1000, seed: int = 0
) -> list[Coverage]:
    """How many 95 % intervals hold the truth, of the C-index, of a paired difference and with several rows per patient.

    Args:
        patients: of each cohort.
        truth: what :func:`true_concordance` returns.
        simulations: number of cohorts, the same for every kind of interval.
        resamples: of each interval.
        seed: of cohorts and resamples.
    """
    held: dict[str, list[bool]] = {}
    for simulation in range(simulations):
        generator = np.random.default_rng((seed, 1, patients, simulation))
        cohort = simulated_patients(generator, patients)
        repeated = tuple(np.repeat(column, _ROWS_PER_PATIENT) for column in cohort)
        options = {"resamples": resamples, "seed": simulation}
        for name, lower, upper, value in _intervals(cohort, repeated, truth, options):
            held.setdefault(name, []).append(lower <= value <= upper)
    shares = {name: float(np.mean(answers)) for name, answers in held.items()}
    return [Coverage(name, share, float(np.sqrt(share * (1 - share) / simulations))) for name, share in shares.items()]


def _intervals(
    cohort: tuple[np.ndarray, ...],
    repeated: tuple[np.ndarray, ...],
    truth: tuple[float, float],
    options: dict[str, int],
) -> Iterator[tuple[str, float, float, float]]:
    """Name, limits and truth of every kind of interval on one cohort."""
    time, event, risk, log_hazard = cohort
    single = bootstrap_interval(concordance_index, time, event, risk, **options)
    yield "C-index", single.lower, single.upper, truth[0]
    paired = compare_paired(concordance_index, (time, event), log_hazard, risk, **options)
    yield "paired difference of two risks", paired.lower, paired.upper, truth[1] - truth[0]
    patient = np.repeat(np.arange(len(time)), _ROWS_PER_PATIENT)
    for unit, groups in (("patients", patient), ("rows", None)):
        found = bootstrap_interval(concordance_index, *repeated[:3], groups=groups, **options)
        yield f"C-index, {_ROWS_PER_PATIENT} rows per patient, {unit} drawn", found.lower, found.upper, truth[0]
