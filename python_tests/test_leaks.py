"""Columns that give the outcome away are found by name and by value, and honest ones are left in peace."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pandas as pd
import pytest

from survcore.data import Cohort, simulate_cohort
from survcore.data.leaks import find_leaks, outcome_columns
from survcore.data.prepare_mcat import prepare_mcat
from survcore.training.fit import _warn_of_leaks

ROWS = 400


@pytest.fixture
def outcomes() -> pd.DataFrame:
    """Times in months, two causes of death, delayed entry for all."""
    random = np.random.default_rng(7)
    months = random.exponential(24, ROWS) + 1
    event = random.choice([0, 1, 2], ROWS, p=[0.5, 0.3, 0.2])
    entry = months * random.random(ROWS) * 0.99
    index = [f"p{number}" for number in range(ROWS)]
    return pd.DataFrame({"time": months, "event": event, "entry": entry}, index=index)


def honest(outcomes: pd.DataFrame) -> pd.DataFrame:
    """A strong predictor, an age, a score with half of its entries missing, a flag and a delayed entry."""
    random = np.random.default_rng(8)
    return pd.DataFrame(
        {
            "burden": -np.log(outcomes["time"]) + random.normal(scale=0.5, size=ROWS),
            "age": random.normal(60, 10, ROWS),
            "score": np.where(random.random(ROWS) < 0.5, np.nan, random.normal(size=ROWS)),
            "flag": (random.random(ROWS) < 0.3).astype(float),
            "sequenced": outcomes["entry"] + random.exponential(3, ROWS),
        },
        index=outcomes.index,
    )


def cohort_of(features: pd.DataFrame, outcomes: pd.DataFrame, **others: pd.DataFrame) -> Cohort:
    return Cohort.from_frames({"clinical": features, **others}, outcomes, time_unit="months", causes=2)


# Each makes columns of the honest table and the outcomes; the first one is the leak.
LEAKS = {
    "the time in other units": lambda table, out: {"x": out["time"] * 30.4},
    "the time turned round": lambda table, out: {"x": 1 / out["time"]},
    "the time of those who died": lambda table, out: {"x": out["time"].where(out["event"] > 0)},
    "the time after entry": lambda table, out: {"x": out["time"] - out["entry"]},
    "an age at the end of follow-up": lambda table, out: {"x": table["age"] + out["time"] / 12},
    "that age, of four in five": lambda table, out: {"x": (table["age"] + out["time"] / 12).where(table["flag"] < 1)},
    "an age at the end, cut off": lambda table, out: {"x": (table["age"] + out["time"] / 12).clip(upper=78)},
    "an age after the time at risk": lambda table, out: {"x": table["age"] + (out["time"] - out["entry"]) / 12},
    "who died": lambda table, out: {"x": (out["event"] > 0).astype(float)},
    "who did not": lambda table, out: {"x": (out["event"] == 0).astype(float)},
    "who died of the second cause": lambda table, out: {"x": (out["event"] == 2).astype(float)},
    "an entry for the dead alone": lambda table, out: {"x": table["burden"].where(out["event"] > 0)},
    "an entry for the living alone": lambda table, out: {"x": table["burden"].where(out["event"] == 0)},
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_values_that_give_the_outcome_away_are_found(outcomes, leak):
    table = honest(outcomes)
    found = find_leaks(cohort_of(table.assign(**leak(table, outcomes)), outcomes))
    assert {column for leak in found for column in leak.columns} == {"x"}
    assert all(leak.modality == "clinical" for leak in found)


def test_a_difference_may_span_two_modalities(outcomes):
    table = honest(outcomes)
    last = pd.DataFrame({"x": table["age"] + outcomes["time"] / 12})
    (leak,) = find_leaks(cohort_of(table, outcomes, visits=last))
    assert (leak.modality, leak.columns) == ("visits", ("x",)) and "minus 'age'" in leak.reason


def test_honest_columns_are_left_in_peace(outcomes):
    assert find_leaks(cohort_of(honest(outcomes), outcomes)) == []
    wide = pd.DataFrame(
        np.random.default_rng(1).normal(size=(ROWS, 1500)), index=outcomes.index, columns=map(str, range(1500))
    )
    assert find_leaks(cohort_of(honest(outcomes), outcomes, rna=wide)) == []
    # A modality that one patient in three has, and constant or empty columns, are no leaks either.
    some = wide.iloc[:: 3, :5].assign(constant=1.0, empty=np.nan)  # fmt: skip
    assert find_leaks(cohort_of(honest(outcomes), outcomes, some=some)) == []
    assert find_leaks(simulate_cohort(500, seed=2)) == []


def test_calendar_time_of_the_living_is_no_leak(outcomes):
    """Follow-up of the living ends on one day, so their year of diagnosis tells it; that is known in advance."""
    alive = outcomes["event"] == 0
    year = (2023 - outcomes["time"] / 12).where(alive, 2010 + np.random.default_rng(3).random(ROWS) * 10)
    assert find_leaks(cohort_of(honest(outcomes).assign(year=year), outcomes)) == []


def test_few_events_are_not_judged(outcomes):
    few = outcomes.assign(event=(np.arange(ROWS) < 19).astype(int))
    table = honest(outcomes).assign(x=few["time"])
    assert find_leaks(cohort_of(table, few)) == []
    some = outcomes.assign(event=(np.arange(ROWS) < 20).astype(int))
    assert [leak.columns for leak in find_leaks(cohort_of(table, some))] == [("x",)]


def test_every_endpoint_is_looked_at(outcomes):
    random = np.random.default_rng(5)
    both = pd.DataFrame({f"OS_{part}": outcomes[part] for part in ("time", "event")})
    both = both.assign(PFI_time=random.exponential(9, ROWS), PFI_event=(random.random(ROWS) < 0.5).astype(int))
    table = honest(outcomes).assign(x=both["PFI_time"])
    made = Cohort.from_frames({"clinical": table}, both, time_unit="months", causes={"OS": 2})
    (leak,) = find_leaks(made)
    assert leak.columns == ("x",) and "'PFI'" in leak.reason


def test_arrays_and_panels_are_no_obstacle(outcomes):
    random = np.random.default_rng(6)
    panel = pd.DataFrame(random.integers(0, 2, (ROWS, 4)), index=outcomes.index, columns=list("KLMN"))
    bags = {row: random.normal(size=(3, 2)).astype(np.float32) for row in outcomes.index}
    frames = {"genes": panel.assign(X=(outcomes["event"] > 0).astype(int)), "slides": bags}
    made = Cohort.from_frames(frames, outcomes, kinds={"genes": "panel"}, time_unit="months", causes=2)
    assert [(leak.modality, leak.columns) for leak in find_leaks(made)] == [("genes", ("X",))]
    assert find_leaks(made.only(["slides"])) == []


def test_real_omics_and_slide_features_are_left_in_peace(real_data):
    omics = real_data("tcga_porpoise_must5")
    slides = real_data("tcga_hif_wsi_features") / "luad.hifs.csv.gz"
    cohort = prepare_mcat(
        omics / "tcga_luad_rna_cnv_mut.csv.gz", signatures=omics / "signatures.csv", slide_features=slides
    ).cohort
    assert find_leaks(cohort) == []


def test_a_large_cohort_costs_little():
    random = np.random.default_rng(0)
    rows, columns = 25_000, 500
    index = [str(row) for row in range(rows)]
    table = pd.DataFrame(random.normal(size=(rows, columns)).astype(np.float32), index=index).rename(columns=str)
    outcomes = pd.DataFrame({"time": random.exponential(20, rows), "event": random.integers(0, 2, rows)}, index=index)
    large = Cohort.from_frames({"x": table}, outcomes, time_unit="months")
    seconds = []
    for _ in range(3):
        # Time of the processor, which a busy neighbour does not stretch.
        start = time.process_time()
        assert find_leaks(large) == []
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1


def test_training_warns_of_values_and_names(outcomes):
    table = honest(outcomes)
    with pytest.warns(UserWarning) as caught:
        _warn_of_leaks(cohort_of(table.assign(x=outcomes["time"], OS_MONTHS=1.0), outcomes))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert any("named like an outcome: 'OS_MONTHS'" in message for message in messages)
    assert any("in the order of the time of endpoint 'primary': 'x'" in message for message in messages)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _warn_of_leaks(cohort_of(table, outcomes))


def test_names_of_outcomes():
    leaks = [
        "OS_STATUS", "OS_MONTHS", "DFS_MONTHS", "PFS_STATUS", "DMFS_time", "EFSSTAT", "rfsstat", "efs", "EFS_EVENT",
        "days_to_death", "days-to-last-followup", "AGE_AT_DEATH", "AGE_AT_LAST_CONTACT", "last_seen", "time_to_relapse",
        "stop", "survival", "rfs_allo",
    ]  # fmt: skip
    assert outcome_columns(leaks) == leaks
    features = [
        "EFS", "EFS_rnaseq", "ER_STATUS", "TUMOR_STAGE", "Performance_ECOG", "SMOKING_STATUS", "MSI_STATUS", "OSR1",
        "years_of_smoking", "STOPPED", "time_of_day", "AGE_AT_SEQUENCING", "LATERALITY", "BCR", "Recurrence_Score",
    ]  # fmt: skip
    assert outcome_columns(features) == []
