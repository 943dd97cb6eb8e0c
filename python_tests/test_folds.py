from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from survcore.data import Cohort, split_validation, stratified_folds
from survcore.data.folds import check_folds
from survcore.errors import DataError


def make_cohort(patients: int = 97, seed: int = 0, causes: int = 1, order: np.ndarray | None = None) -> Cohort:
    """One to three rows per patient, about 40 % of the patients with an event."""
    generator = np.random.default_rng(seed)
    repeats = generator.integers(1, 4, patients)
    patient = np.repeat([f"patient{number}" for number in range(patients)], repeats)
    event = np.repeat((generator.random(patients) < 0.4) * generator.integers(1, causes + 1, patients), repeats)
    time = np.repeat(generator.exponential(20, patients), repeats)
    ids = [f"row{number}" for number in range(len(patient))]
    outcomes = pd.DataFrame({"row_id": ids, "patient_id": patient, "time": time, "event": event})
    if order is not None:
        outcomes = outcomes.iloc[order]
    table = pd.DataFrame({"row_id": ids, "x": generator.normal(size=len(ids))})
    return Cohort.from_frames({"table": table}, outcomes, time_unit="months", causes=causes)


def by_patient(cohort: Cohort, fold: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"patient": cohort.patient_ids, "fold": fold, "event": cohort.endpoint().event, "time": cohort.endpoint().time}
    )
    assert (frame.groupby("patient")["fold"].nunique() == 1).all()
    return frame.drop_duplicates("patient")


def test_folds_are_even_in_patients_events_and_times():
    cohort = make_cohort()
    patients = by_patient(cohort, stratified_folds(cohort, 5))
    for counted in (patients["fold"].value_counts(), patients[patients["event"] == 1]["fold"].value_counts()):
        assert len(counted) == 5 and counted.max() - counted.min() <= 1
    medians = patients[patients["event"] == 1].groupby("fold")["time"].median()
    assert medians.max() < 2.5 * medians.min()


def test_folds_are_deterministic_seeded_and_blind_to_row_order():
    cohort = make_cohort()
    fold = stratified_folds(cohort, 5, seed=3)
    assert fold.dtype == np.int64
    np.testing.assert_array_equal(fold, stratified_folds(cohort, 5, seed=3))
    assert (fold != stratified_folds(cohort, 5, seed=4)).any()
    order = np.random.default_rng(1).permutation(len(cohort))
    np.testing.assert_array_equal(stratified_folds(make_cohort(order=order), 5, seed=3), fold[order])


def test_every_cause_is_spread_over_the_folds():
    cohort = make_cohort(patients=200, causes=2)
    patients = by_patient(cohort, stratified_folds(cohort, 4))
    for cause in (1, 2):
        counted = patients[patients["event"] == cause]["fold"].value_counts()
        assert counted.max() - counted.min() <= 1


@pytest.mark.parametrize("count", [2, 5])
def test_every_stratum_is_spread_over_the_folds(count: int):
    cohort = make_cohort(patients=200)
    generator = np.random.default_rng(2)
    labels = generator.choice(["lung", "breast", "rare"], len(cohort), p=[0.6, 0.3, 0.1])
    cohort = replace(cohort, strata=labels)
    fold = stratified_folds(cohort, count)
    patients = by_patient(cohort, fold)
    # Several patients have rows of two strata: they count with the first name.
    label = pd.Series(labels).groupby(cohort.patient_ids).min()
    assert pd.Series(labels).groupby(cohort.patient_ids).nunique().max() > 1
    patients["stratum"] = label.loc[patients["patient"]].to_numpy()
    for _, alike in patients.groupby(["stratum", "event"]):
        counted = alike["fold"].value_counts().reindex(range(count), fill_value=0)
        assert counted.max() - counted.min() <= 1
    for alike in (patients, patients[patients["event"] == 1]):
        counted = alike["fold"].value_counts()
        assert counted.max() - counted.min() <= 1
    assert all(set(labels[fold == number]) == set(labels) for number in range(count))
    order = generator.permutation(len(cohort))
    np.testing.assert_array_equal(stratified_folds(cohort.select(order), count), fold[order])


def test_one_stratum_is_as_good_as_none():
    cohort = make_cohort()
    single = replace(cohort, strata=np.full(len(cohort), "all"))
    np.testing.assert_array_equal(stratified_folds(single, 5), stratified_folds(cohort, 5))
    for one, other in zip(split_validation(single), split_validation(cohort), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_validation_part_has_its_share_of_every_stratum():
    cohort = make_cohort(patients=400)
    labels = np.array(["a", "b", "c"])[pd.factorize(cohort.patient_ids)[0] % 3]
    _, validation = split_validation(replace(cohort, strata=labels), 0.2)
    patients = pd.DataFrame({"stratum": labels, "event": cohort.endpoint().event, "id": cohort.patient_ids})
    patients = patients.assign(chosen=np.isin(np.arange(len(cohort)), validation)).drop_duplicates("id")
    for _, alike in patients.groupby(["stratum", "event"]):
        assert abs(alike["chosen"].sum() - 0.2 * len(alike)) <= 1


def test_validation_part_is_stratified_and_keeps_patients_whole():
    cohort = make_cohort(patients=200, causes=2)
    training, validation = split_validation(cohort, 0.15, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate((training, validation))), np.arange(len(cohort)))
    assert not set(cohort.patient_ids[training]) & set(cohort.patient_ids[validation])
    part = np.zeros(len(cohort), dtype=int)
    part[validation] = 1
    patients = by_patient(cohort, part)
    for code in (0, 1, 2):
        chosen = patients[patients["event"] == code]["fold"]
        assert abs(chosen.sum() - 0.15 * len(chosen)) <= 1.5
    again = split_validation(cohort, 0.15, seed=1)
    np.testing.assert_array_equal(validation, again[1])
    assert set(validation) != set(split_validation(cohort, 0.15, seed=2)[1])


def test_validation_follows_patients_not_row_order():
    cohort = make_cohort()
    order = np.random.default_rng(1).permutation(len(cohort))
    shuffled = make_cohort(order=order)
    chosen = set(cohort.row_ids[split_validation(cohort)[1]])
    assert chosen == set(shuffled.row_ids[split_validation(shuffled)[1]])


def tiny(event: list[int]) -> Cohort:
    ids = [f"r{number}" for number in range(len(event))]
    outcomes = pd.DataFrame({"time": np.arange(1.0, len(event) + 1), "event": event}, index=ids)
    return Cohort.from_frames(
        {"table": pd.DataFrame({"x": np.ones(len(event))}, index=ids)}, outcomes, time_unit="months"
    )


def test_both_parts_hold_an_event_however_small():
    cohort = tiny([1, 1, 0, 0, 0, 0])
    for fraction in (0.01, 0.99):
        for part in split_validation(cohort, fraction):
            assert cohort.endpoint().event[part].sum() == 1


@pytest.mark.filterwarnings("ignore:endpoint 'primary'")
def test_too_few_events_are_refused():
    with pytest.raises(DataError, match="5 folds.*2 patients"):
        stratified_folds(tiny([1, 1, 0, 0, 0, 0]), 5)
    with pytest.raises(DataError, match="1 patient with one"):
        split_validation(tiny([1, 0, 0]))
    with pytest.raises(ValueError, match="at least 2 folds"):
        stratified_folds(tiny([1, 1]), 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_validation(tiny([1, 1]), 1.5)


def test_unusable_folds_are_named():
    cohort = tiny([1, 0, 1, 0])
    check_folds(cohort, np.array([0, 0, 1, 1]))
    check_folds(cohort, np.array([0, -1, 1, -1]))
    with pytest.raises(DataError, match="fold 1 is empty"):
        check_folds(cohort, np.array([0, 0, 2, 2]))
    with pytest.raises(DataError, match="fold 1: none of its 2 rows has an event"):
        check_folds(cohort, np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match="at least two folds"):
        check_folds(cohort, np.zeros(4, int))
    with pytest.raises(DataError, match="each of the 4 rows"):
        check_folds(cohort, np.zeros(3, int))
    grouped = make_cohort()
    with pytest.raises(DataError, match="rows in 2 folds"):
        check_folds(grouped, np.arange(len(grouped)) % 2)
