"""Folds and validation parts: patients are never split, and the order of the rows does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from survcore.data.checks import refuse_divided_patients
from survcore.data.messages import counted
from survcore.draws import row_keys, row_uniform, stream_seed
from survcore.errors import DataError

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort


def stratified_folds(cohort: Cohort, count: int = 5, seed: int = 0, endpoint: str | None = None) -> np.ndarray:
    """Deal the patients into ``count`` test folds, stratified by event code, stratum (if any) and quartile of time.

    A patient with rows of several strata is dealt with the first of them in the order of their names.

    Args:
        endpoint: name of the endpoint to stratify by; None takes the only one.

    Returns:
        int64 [N], the fold 0..count-1 in which each row is tested. All rows of a patient share a fold; folds differ
        by at most one patient, and so do their shares of the patients of one event code, stratum and quartile, and of
        one event code and stratum.

    Raises:
        DataError: fewer patients with an event than folds.
    """
    if count < 2:
        raise ValueError(f"expected at least 2 folds, got {count}")
    patients = _patients(cohort, endpoint)
    events = int((patients["event"] > 0).sum())
    if events < count:
        raise DataError(
            f"{count} folds need a patient with an event each; the cohort has {counted(events, 'patient')} with one"
        )
    quartile = patients.groupby("event")["time"].transform(
        lambda time: np.searchsorted(np.quantile(time, (0.25, 0.5, 0.75)), time)
    )
    alike = ["event", "stratum", "quartile"]
    dealt = _dealt(patients.assign(quartile=quartile), alike, stream_seed(seed, "folds"))
    fold = pd.Series(np.arange(len(dealt)) % count, index=dealt)
    return fold.loc[cohort.patient_ids].to_numpy(dtype=np.int64)


def split_validation(
    cohort: Cohort, fraction: float = 0.15, seed: int = 0, endpoint: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Set aside a share of the patients with an event, spread over the event codes, and of those without, both spread
    over the strata where the cohort has some.

    Args:
        endpoint: name of the endpoint whose events count; None takes the only one.

    Returns:
        (training, validation): int64 row indices, ascending; together all rows. Each part holds at least one patient
        with an event.

    Raises:
        DataError: fewer than two patients with an event.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction of the validation part: expected a number between 0 and 1, got {fraction}")
    patients = _patients(cohort, endpoint)
    has_event = patients["event"] > 0
    events = int(has_event.sum())
    if events < 2:
        raise DataError(
            "training and validation need a patient with an event each; "
            f"the cohort has {counted(events, 'patient')} with one"
        )
    chosen: list[str] = []
    for group, least in ((patients[has_event], 1), (patients[~has_event], 0)):
        dealt = np.array(_dealt(group, ["event", "stratum"], stream_seed(seed, "validation")), dtype=object)
        size = min(max(round(fraction * len(dealt)), least), len(dealt) - least)
        # Evenly spaced picks from a list ordered by event code and stratum take the same share of each.
        chosen += dealt[((np.arange(size) + 0.5) * len(dealt) / max(size, 1)).astype(int)].tolist()
    validation = np.isin(cohort.patient_ids, chosen)
    return np.flatnonzero(~validation), np.flatnonzero(validation)


def check_folds(cohort: Cohort, fold: np.ndarray, endpoint: str | None = None) -> None:
    """Refuse an assignment of rows to test folds that cannot be evaluated.

    Args:
        fold: int [N]; -1 is a row in no test fold.

    Raises:
        DataError: fewer than two folds, an empty fold, a fold without events, or a patient in several folds.
    """
    fold = np.asarray(fold)
    if fold.shape != (len(cohort),):
        raise DataError(f"expected one fold for each of the {len(cohort)} rows, got shape {fold.shape}")
    if fold.max(initial=-1) < 1:
        raise DataError(f"evaluation needs at least two folds numbered from 0; got {sorted(set(fold.tolist()))}")
    event = cohort.endpoint(endpoint).event > 0
    for number in range(int(fold.max()) + 1):
        rows = fold == number
        if not rows.any():
            raise DataError(f"fold {number} is empty (folds are numbered 0 to {int(fold.max())})")
        if not event[rows].any():
            raise DataError(f"fold {number}: none of its {counted(int(rows.sum()), 'row')} has an event")
    refuse_divided_patients(cohort.patient_ids, fold, "folds")


def _patients(cohort: Cohort, endpoint: str | None) -> pd.DataFrame:
    """One line per patient: the highest event code of its rows, its longest time and its first stratum ("" without)."""
    outcome = cohort.endpoint(endpoint)
    strata = "" if cohort.strata is None else cohort.strata
    rows = pd.DataFrame(
        {"patient": cohort.patient_ids, "event": outcome.event, "time": outcome.time, "stratum": strata}
    )
    return rows.groupby("patient", sort=True).agg(
        event=("event", "max"), time=("time", "max"), stratum=("stratum", "min")
    )


def _dealt(patients: pd.DataFrame, alike: list[str], seed: int) -> list[str]:
    """Patients ordered by these columns and, where they are alike, in an order drawn from (seed, patient)."""
    draw = row_uniform(seed, row_keys(patients.index), 1).numpy()[:, 0]
    # The stable sort leaves equal draws in the order of the patients' names.
    return patients.assign(draw=draw).sort_values([*alike, "draw"], kind="stable").index.tolist()
