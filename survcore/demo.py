"""The demo: from a simulated cohort to predictions with a missing modality, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.cohort import Cohort
from survcore.data.simulate import simulate_cohort
from survcore.evaluation.scenarios import scenarios
from survcore.evaluation.simulated_truth import conditional_agreement, shared_recovery
from survcore.files import replacing
from survcore.inference.predictor import Predictor
from survcore.metrics import concordance_index
from survcore.plots import save_kaplan_meier_by_risk
from survcore.training.fit import fit


def run_demo(
    out: str | Path, *, quick: bool = False, seed: int = 0, say: Callable[[str], None] = print
) -> pd.DataFrame:
    """Simulate a cohort, train MUST, test it complete and with each modality missing, and write what came out.

    What the simulator knows is a test too: are the shared factors recovered, and are missing parts generated from the
    right distribution?

    Args:
        out: folder for results.csv, recovery.csv, predictions.csv, kaplan_meier.png and model/.
        quick: a smaller cohort and the quick recipe. The diffusion stage is cut short either way.
        seed: of the cohort and the run.
        say: receives the lines to show.

    Returns:
        C-index per scenario and fill.
    """
    out = Path(out)
    started = time.perf_counter()
    cohort = simulate_cohort(360 if quick else 600, seed=seed)
    test = np.arange(len(cohort)) % 3 == 0
    training, held_out = cohort.select(~test), cohort.select(test)
    say(cohort.summary())
    say(f"\ntraining MUST on {len(training)} simulated patients ...")
    shorter = {"stages": {"diffusion": {"epochs": 4 if quick else 20}}}
    predictor = fit("must", training, seed=seed, out=out, quick=quick, changes=shorter, label="MUST", checkpoints=False)
    say(f"trained in {time.perf_counter() - started:.0f} s")
    for name, value in predictor.description["diagnostics"].items():
        say(f"  {name} = {value:.2f}")

    outcome = held_out.endpoint()
    results, predictions = [], []
    for scenario in scenarios(predictor.modalities):
        table = predictor.predict(scenario.apply(held_out), fill=scenario.fill or "own", seed=seed, errors="raise")
        value = float(concordance_index(outcome.time, outcome.event > 0, table["risk"]))
        results.append({"scenario": scenario.name, "fill": scenario.fill or "-", "c_index": value})
        predictions.append(table.assign(scenario=scenario.name))
    results = pd.DataFrame(results)
    say(f"\nC-index on {len(held_out)} held-out patients ({(outcome.event > 0).sum()} events); the true risk reaches "
        f"{_oracle(cohort, test):.3f}")  # fmt: skip
    say(results.to_string(index=False, float_format=lambda value: f"{value:.3f}"))

    recovery = shared_recovery(predictor, training, held_out)
    say("\nshared factors against the true ones, mean canonical correlation: "
        + ", ".join(f"{line.scenario} {line.mean:.2f}" for line in recovery.itertuples(index=False)))  # fmt: skip
    modality, few = predictor.modalities[-1], held_out.select(range(40))
    # A smaller cohort is the beginning of a larger one: the first 40 held-out patients are among the first 120.
    agreement = conditional_agreement(
        predictor, training, few, lambda number: simulate_cohort(120, seed=seed, redraw={modality: number}), modality,
        draws=12, redraws=12, seed=seed, steps=15, solver="dpm_solver++",
    )  # fmt: skip
    say(f"generated {modality} against the true conditional distribution: {agreement}")

    say("")
    for scenario in scenarios(predictor.modalities):
        if scenario.fill in ("", "own"):
            median, slow = latency(predictor, scenario.apply(held_out))
            say(f"one patient, {scenario.name}: {median:.1f} ms (median), {slow:.1f} ms (95th percentile)")
    for table, file in ((results, "results.csv"), (recovery, "recovery.csv")):
        with replacing(out / file) as temporary:
            table.to_csv(temporary, index=False)
    with replacing(out / "predictions.csv") as temporary:
        pd.concat(predictions).to_csv(temporary)
    complete = predictions[0]["risk"]
    save_kaplan_meier_by_risk(
        out / "kaplan_meier.png", outcome.time, outcome.event > 0, complete > complete.median(),
        title="simulated cohort, held-out patients by median risk",
    )  # fmt: skip
    say(f"\nresults.csv, recovery.csv, predictions.csv, kaplan_meier.png and model/ are in {out}/ "
        f"({time.perf_counter() - started:.0f} s in all)")  # fmt: skip
    return results


def latency(predictor: Predictor, cohort: Cohort, patients: int = 20) -> tuple[float, float]:
    """Milliseconds from one patient's table row to a prediction: median and 95th percentile over patients."""
    taken = []
    for row in range(-2, patients):
        patient = cohort.select([max(row, 0) % len(cohort)])
        start = time.perf_counter()
        predictor.predict(patient)
        # The first two calls warm caches and are not counted.
        if row >= 0:
            taken.append(1e3 * (time.perf_counter() - start))
    return float(np.median(taken)), float(np.percentile(taken, 95))


def _oracle(cohort: Cohort, rows: np.ndarray) -> float:
    outcome = cohort.endpoint()
    truth = np.asarray(cohort.truth["log_hazard"])[rows]
    return float(concordance_index(outcome.time[rows], outcome.event[rows] > 0, truth))
