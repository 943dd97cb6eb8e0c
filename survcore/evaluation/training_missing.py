"""Modalities taken from a share of the training patients (MUST, supplement 8.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from survcore.data.cohort import Cohort
from survcore.draws import row_keys, row_uniform, stream_seed
from survcore.errors import DataError


def read_training_missing(entries: Iterable[str]) -> float | dict[str, float] | None:
    """What :func:`survcore.evaluate` takes from the texts ``SHARE`` or ``NAME=SHARE``, ...; None where there are none.

    Raises:
        ValueError: a share that is not a number, a name that is given twice, or several entries of which one names no
            modality.
    """
    named: dict[str, float] = {}
    entries = list(entries)
    for entry in entries:
        name, equals, text = entry.rpartition("=")
        if equals and not name:
            raise ValueError(f"training-missing {entry!r}: expected the name of a modality before '='")
        if not name and len(entries) > 1:
            raise ValueError(f"training-missing takes one SHARE, or NAME=SHARE any number of times; got {entry!r}")
        if name in named:
            raise ValueError(f"training-missing gives {name!r} twice: {named[name]:g} and {text}")
        try:
            named[name] = float(text)
        except ValueError as error:
            raise ValueError(f"training-missing {entry!r}: expected a number, got {text!r}") from error
    return named[""] if "" in named else named or None


def taken_at_training(cohort: Cohort, missing: float | Mapping[str, float], seed: int) -> np.ndarray:
    """Which modalities each row loses where it is trained on: bool [N, M].

    A patient loses a modality in every row that has it, or keeps it in all of them; no row loses its last modality. The
    draw of a patient depends on (seed, patient id) only. With a number, or with a single name, what is lost at a share
    of 0.2 is lost at 0.5 too; with several names, the modality that a row keeps as its last one can be another.

    Args:
        cohort: the rows.
        missing: probability, in (0, 1), with which each patient loses one of the modalities that no row needs as its
            last one, drawn evenly over them; a patient who has none such loses nothing. Or by name, for each on its
            own, the probability that a patient who has it, and another modality in the same rows, loses it.
        seed: of the draws.

    Raises:
        ValueError: a share outside (0, 1), or no share at all.
        DataError: a modality that the cohort does not have.
    """
    by_name = isinstance(missing, Mapping)
    if by_name and not missing:
        raise ValueError("training_missing names no modality; expected a share, or shares by modality, or None")
    for name, share in (missing if by_name else {"": missing}).items():
        what = f" of {cohort.modality(name).spec.name!r}" if by_name else ""
        if not isinstance(share, Real) or isinstance(share, bool) or not 0 < share < 1:
            raise ValueError(f"training_missing{what}: expected a share between 0 and 1, got {share!r}")
    patients, patient = np.unique(cohort.patient_ids, return_inverse=True)
    keys, available = row_keys(patients), cohort.availability
    if by_name:
        draws = [row_uniform(stream_seed(seed, "training_missing", name), keys, 1) for name in cohort.modalities]
        share = np.array([missing.get(name, 0.0) for name in cohort.modalities])
        return _by_name(available, patient, np.concatenate(draws, axis=1), share)
    draws = row_uniform(stream_seed(seed, "training_missing"), keys, 2).numpy()
    return _one_of(available, patient, draws, missing)


def _by_name(available: np.ndarray, patient: np.ndarray, draws: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Each modality with its own share [M]; ``draws`` [P, M], ``patient`` [N] says whose row it is."""
    draw = draws[patient]
    taken = available & (draw < share)
    # Of a row that would be left with nothing, the modality stays whose draw came closest to keeping it.
    emptied = ~(available & ~taken).any(axis=1)
    closest = np.where(taken, draw / np.maximum(share, 1e-12), -1.0).argmax(axis=1)
    kept = np.zeros(draws.shape, dtype=bool)
    kept[patient[emptied], closest[emptied]] = True
    return taken & ~kept[patient]


def _one_of(available: np.ndarray, patient: np.ndarray, draws: np.ndarray, share: float) -> np.ndarray:
    """One modality of a share of the patients; ``draws`` [P, 2] say who and which, ``patient`` [N] whose row it is."""
    owned = np.zeros((len(draws), available.shape[1]), dtype=bool)
    needed = np.zeros_like(owned)
    np.logical_or.at(owned, patient, available)
    np.logical_or.at(needed, patient, available & (available.sum(axis=1) == 1)[:, None])
    offered = owned & ~needed
    place = 1 + (draws[:, 1] * offered.sum(axis=1)).astype(int)
    lost = offered & (offered.cumsum(axis=1) == place[:, None]) & (draws[:, :1] < share)
    return available & lost[patient]


def shown_at_training(cohort: Cohort, taken: np.ndarray, fold: int) -> Cohort:
    """The cohort with what :func:`taken_at_training` says gone from every row but those of the test fold."""
    training = cohort.fold != fold
    for name, rows in zip(cohort.modalities, taken.T, strict=True):
        if (rows & training).any():
            cohort = cohort.without(name, rows & training)
    return cohort


def counts_at_training(cohort: Cohort, taken: np.ndarray, fold: int) -> dict[str, Any]:
    """What :func:`taken_at_training` leaves on the training side of a fold.

    Returns:
        "patients", "lost" (how many of them lost a modality), and "rows": by modality how many rows have it before and
        after.
    """
    training = cohort.fold != fold
    before, after = ((part & training[:, None]).sum(axis=0) for part in (cohort.availability, _left(cohort, taken)))
    return {
        "patients": len(set(cohort.patient_ids[training])),
        "lost": len(set(cohort.patient_ids[training & taken.any(axis=1)])),
        "rows": {name: [int(before[m]), int(after[m])] for m, name in enumerate(cohort.modalities)},
    }


def refuse_emptied(training: Cohort, taken: np.ndarray, where: str) -> None:
    """Raises DataError where what is taken from training rows (bool [n, M]) leaves none of them with a modality."""
    left = _left(training, taken).any(axis=0)
    for name, modality in training.modalities.items():
        if modality.present.any() and not left[list(training.modalities).index(name)]:
            raise DataError(
                f"training_missing takes {name!r} from all {modality.present.sum()} rows of {where} that have it; "
                "ask for a smaller share"
            )


def _left(cohort: Cohort, taken: np.ndarray) -> np.ndarray:
    return cohort.availability & ~taken
