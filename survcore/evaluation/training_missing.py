"""Modalities taken from a share of the training patients (MUST, supplement 8.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from survcore.data.cohort import Cohort
from survcore.draws import row_keys, row_uniform, stream_seed


def read_training_missing(entries: Iterable[str]) -> float | dict[str, float] | None:
    """What :func:`survcore.evaluate` takes from the texts ``SHARE`` or ``NAME=SHARE``, ...; None where there are none.

    Raises:
        ValueError: a share that is not a number, or several entries of which one names no modality.
    """
    named: dict[str, float] = {}
    entries = list(entries)
    for entry in entries:
        name, _, text = entry.rpartition("=")
        if not name and len(entries) > 1:
            raise ValueError(f"training-missing takes one SHARE, or NAME=SHARE any number of times; got {entry!r}")
        try:
            named[name] = float(text)
        except ValueError as error:
            raise ValueError(f"training-missing {entry!r}: expected a number, got {text!r}") from error
    return named[""] if "" in named else named or None


def taken_at_training(cohort: Cohort, missing: float | Mapping[str, float], seed: int) -> np.ndarray:
    """Which modalities each row loses where it is trained on: bool [N, M].

    Whole patients lose a modality, and a row never its last one. The draw of a patient depends on (seed, patient id)
    only, so a patient that loses one at a share of 0.2 loses the same one at 0.5.

    Args:
        cohort: the rows.
        missing: share of patients, in (0, 1), that lack one modality, drawn evenly over those that the patient has; or
            by name the share that lacks that modality.
        seed: of the draws.

    Raises:
        ValueError: a share outside (0, 1).
        DataError: a modality that the cohort does not have.
    """
    shares = missing if isinstance(missing, Mapping) else {"": missing}
    for name, share in shares.items():
        what = f" of {cohort.modality(name).spec.name!r}" if name else ""
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share < 1:
            raise ValueError(f"training_missing{what}: expected a share between 0 and 1, got {share!r}")
    patients, patient = np.unique(cohort.patient_ids, return_inverse=True)
    keys, available = row_keys(patients), cohort.availability
    if isinstance(missing, Mapping):
        draws = [row_uniform(stream_seed(seed, "training_missing", name), keys, 1) for name in cohort.modalities]
        share = np.array([missing.get(name, 0.0) for name in cohort.modalities])
        return _by_name(available, np.concatenate(draws, axis=1)[patient], share)
    draws = row_uniform(stream_seed(seed, "training_missing"), keys, 2).numpy()
    return _one_of(available, patient, draws, missing)


def _by_name(available: np.ndarray, draw: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Each modality with its own share [M]; ``draw`` [N, M] is the same in all rows of a patient."""
    taken = available & (draw < share)
    # Of a row that would be left with nothing, the modality stays whose draw came closest to keeping it.
    emptied = ~(available & ~taken).any(axis=1)
    closest = np.where(taken, draw / np.maximum(share, 1e-12), -1.0).argmax(axis=1)
    taken[emptied, closest[emptied]] = False
    return taken


def _one_of(available: np.ndarray, patient: np.ndarray, draws: np.ndarray, share: float) -> np.ndarray:
    """One modality of a share of the patients; ``draws`` [P, 2] say who and which, ``patient`` [N] whose row it is."""
    owned = np.zeros((len(draws), available.shape[1]), dtype=bool)
    np.logical_or.at(owned, patient, available)
    place = 1 + (draws[:, 1] * owned.sum(axis=1)).astype(int)
    lost = owned & (owned.cumsum(axis=1) == place[:, None]) & (draws[:, :1] < share)
    return available & lost[patient] & (available.sum(axis=1) > 1)[:, None]


def shown_at_training(cohort: Cohort, taken: np.ndarray, fold: int) -> Cohort:
    """The cohort with what :func:`taken_at_training` says gone from every row but those of the test fold."""
    training = cohort.fold != fold
    for name, rows in zip(cohort.modalities, taken.T, strict=True):
        if (rows & training).any():
            cohort = cohort.without(name, rows & training)
    return cohort


def counts_at_training(cohort: Cohort, taken: np.ndarray, fold: int) -> dict[str, Any]:
    """ "patients" on the training side of a fold, and "taken": by modality how many of them lost it in some row."""
    training = cohort.fold != fold
    lost = {
        name: len(set(cohort.patient_ids[rows & training]))
        for name, rows in zip(cohort.modalities, taken.T, strict=True)
    }
    return {"patients": len(set(cohort.patient_ids[training])), "taken": lost}
