"""Modalities taken from training patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import survcore
from survcore.data import Cohort
from survcore.errors import DataError
from survcore.evaluation.training_missing import (
    counts_at_training,
    read_training_missing,
    refuse_emptied,
    shown_at_training,
    taken_at_training,
)


def several_rows() -> Cohort:
    """900 rows of 300 patients; the first modality is naturally absent from some."""
    cohort = survcore.simulate_cohort(900, seed=3, modalities=dict.fromkeys("abc", "panel"), missing={"a": 0.2})
    return replace(cohort, patient_ids=np.array([f"q{i // 3}" for i in range(900)]))


def test_one_modality_is_taken_from_a_share_of_whole_patients():
    cohort = several_rows()
    cohort = cohort.without("c", np.arange(900) % 7 == 0)
    taken = {share: taken_at_training(cohort, share, 7) for share in (0.2, 0.5)}
    for share, lost in taken.items():
        table = pd.DataFrame(lost, columns=list("abc")).groupby(cohort.patient_ids).max()
        assert table.sum(axis=1).max() == 1
        assert table.any(axis=1).mean() == pytest.approx(share, abs=0.08)
        assert table.sum().min() > 0.6 * table.sum().mean()
        assert not (lost & ~cohort.availability).any()
        assert (cohort.availability & ~lost).any(axis=1).all()
        for name, column in zip("abc", lost.T, strict=True):
            # A patient that loses a modality loses it in every row.
            patients = set(cohort.patient_ids[column])
            assert np.array_equal(column, np.isin(cohort.patient_ids, list(patients)) & cohort.modalities[name].present)
    assert not (taken[0.2] & ~taken[0.5]).any()
    assert not np.array_equal(taken[0.5], taken_at_training(cohort, 0.5, 8))
    some = cohort.select(np.arange(300, 600))
    assert np.array_equal(taken_at_training(some, 0.5, 7), taken[0.5][300:600])


def test_named_modalities_are_taken_but_never_the_last():
    cohort = several_rows()
    lost = taken_at_training(cohort, {"b": 0.9, "a": 0.9, "c": 0.9}, 0)
    left = cohort.availability & ~lost
    assert left.any(axis=1).all() and not (lost & ~cohort.availability).any()
    for name, column in zip("abc", lost.T, strict=True):
        patients = list(set(cohort.patient_ids[column]))
        assert np.array_equal(column, np.isin(cohort.patient_ids, patients) & cohort.modalities[name].present)
    lost = taken_at_training(cohort, {"b": 0.5}, 0)
    assert not lost[:, [0, 2]].any() and lost[:, 1].mean() == pytest.approx(0.5, abs=0.08)
    alone = cohort.without("a").without("c")
    assert not taken_at_training(alone, {"b": 0.9}, 0).any() and not taken_at_training(alone, 0.9, 0).any()
    folded = replace(cohort, fold=np.arange(900) // 3 % 2)
    shown = shown_at_training(folded, lost, 1)
    assert np.array_equal(shown.availability[folded.fold == 1], cohort.availability[folded.fold == 1])
    assert np.array_equal(shown.availability[folded.fold == 0], (cohort.availability & ~lost)[folded.fold == 0])


def test_a_patient_whose_rows_need_a_modality_keeps_it():
    # Every second row of a patient has nothing but "a".
    cohort = several_rows().only(["a", "b"])
    cohort = replace(cohort, patient_ids=np.array([f"q{i // 2}" for i in range(900)]))
    cohort = cohort.select(np.flatnonzero(np.repeat(cohort.modalities["a"].present.reshape(-1, 2).all(axis=1), 2)))
    cohort = cohort.without("b", np.arange(len(cohort)) % 2 == 1)
    for missing in (0.5, {"a": 0.5}, {"a": 0.9, "b": 0.9}):
        lost = taken_at_training(cohort, missing, 0)
        assert not lost[:, 0].any() and (cohort.availability & ~lost).any(axis=1).all()
    share = taken_at_training(cohort, 0.5, 0)[::2, 1].mean()
    assert share == pytest.approx(0.5, abs=0.1)


def test_an_emptied_modality_is_named():
    cohort = survcore.simulate_cohort(150, seed=4)
    first, second = cohort.modalities
    both = cohort.where(has=[first, second])
    few = both.without(second, np.arange(len(both)) >= 4)
    lost = np.zeros_like(few.availability)
    lost[:3, 1] = True
    refuse_emptied(few, lost, "the training part")
    lost[3, 1] = True
    with pytest.raises(DataError, match=f"takes '{second}' from all 4 rows of the training part"):
        refuse_emptied(few, lost, "the training part")
    folded = replace(few, fold=np.arange(len(few)) % 2)
    with pytest.raises(DataError, match=f"training_missing takes '{second}' from all . rows of the training part of"):
        survcore.evaluate("must", folded, training_missing={second: 0.999}, rivals=False)


@pytest.mark.parametrize("missing", [0, 1, -0.1, True, "half", {"a": 1.2}])
def test_shares_outside_their_range_are_refused(missing):
    with pytest.raises(ValueError, match="between 0 and 1, got"):
        taken_at_training(several_rows(), missing, 0)


def test_shares_are_read_from_texts():
    assert read_training_missing([]) is None
    assert read_training_missing(["0.2"]) == 0.2
    assert read_training_missing(["slide=0.2", "omics=.5"]) == {"slide": 0.2, "omics": 0.5}
    with pytest.raises(DataError, match="no modality 'slide'"):
        taken_at_training(several_rows(), {"slide": 0.2}, 0)
    with pytest.raises(ValueError, match="'slide' twice: 0.2 and 0.3"):
        read_training_missing(["slide=0.2", "omics=0.1", "slide=0.3"])
    for entries in (["0.2", "slide=0.2"], ["0.2", "0.3"], ["some"], ["slide=some"]):
        with pytest.raises(ValueError, match="training-missing"):
            read_training_missing(entries)


def test_patients_are_counted_once_whatever_their_rows():
    cohort = replace(several_rows(), fold=np.arange(900) // 3 % 2)
    counts = counts_at_training(cohort, taken_at_training(cohort, 0.3, 0), 1)
    assert counts["patients"] == 150 and 30 < counts["lost"] < 60
    lost = sum(before - after for before, after in counts["rows"].values())
    assert counts["lost"] < lost <= 3 * counts["lost"]
