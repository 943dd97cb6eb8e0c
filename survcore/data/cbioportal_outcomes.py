"""Endpoints of a cBioPortal study: pairs of columns NAME_MONTHS and NAME_STATUS."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from survcore.data.cbioportal_samples import Clinical
from survcore.data.messages import counted, listed
from survcore.errors import DataError

_CODED = re.compile(r"([01])(?:\.0)?\s*(?::.*)?")
_EVENT = {
    *("deceased", "dead", "died", "died of disease", "dead with tumor", "death", "yes"),
    *("recurred", "recurrence", "relapsed", "relapse", "progressed", "progression", "recurred/progressed", "event"),
}
_NO_EVENT = {
    *("living", "alive", "alive or dead tumor free", "censored", "no", "no event", "not recurred", "not progressed"),
    *("diseasefree", "disease free", "disease-free", "progression free", "not relapsed"),
}


def read_outcomes(clinical: Clinical, endpoints: Sequence[str] | None, facts: list[str]) -> pd.DataFrame:
    """Columns NAME_time (months) and NAME_event (0/1) of the patients who have every one of the endpoints.

    Args:
        clinical: the cells.
        endpoints: names to read; by default "OS", and others where every patient who has it has them too.
        facts: patients left out, and endpoints not read, are appended.

    Raises:
        DataError: an endpoint without its two columns, a status that says neither, no patient left. The message names
            the file or the patient, the column, what was expected and what came.
    """
    pairs = [
        name.removesuffix("_MONTHS")
        for name in clinical.columns
        if name.endswith("_MONTHS") and name.removesuffix("_MONTHS") + "_STATUS" in clinical.columns
    ]
    asked = ["OS"] if endpoints is None else [name.upper() for name in endpoints]
    if not asked or (absent := [name for name in asked if name not in pairs]):
        raise DataError(
            f"{' and '.join(str(source.path) for source, _ in clinical.sources)}: expected columns "
            f"{listed(f'{name}_{part}' for name in (absent if asked else ['OS']) for part in ('MONTHS', 'STATUS'))}; "
            f"the endpoints with both are {listed(pairs) or 'none'}"
        )
    outcomes = pd.concat([_endpoint(clinical, name) for name in asked], axis=1)
    known = outcomes.notna().all(axis=1)
    if not known.all():
        gone = outcomes.index[~known]
        facts.append(f"{counted(len(gone), 'patient')} without {' and '.join(asked)} left out: {listed(gone)}")
    outcomes = outcomes[known]
    if outcomes.empty:
        raise DataError(f"{clinical.files(asked[0] + '_MONTHS')}: no patient has {' and '.join(asked)}")
    for name in pairs if endpoints is None else []:
        if name in asked:
            continue
        try:
            more = _endpoint(clinical, name).loc[outcomes.index]
        except DataError as error:
            facts.append(f"endpoint {name} not read: {error}")
            continue
        if more.notna().all(axis=None):
            outcomes = outcomes.join(more)
        else:
            facts.append(
                f"endpoint {name} not read: {int(more.notna().all(axis=1).sum())} of "
                f"{counted(len(more), 'patient')} have it; ask for it and only they stay"
            )
    return outcomes


def outcome_columns_of(clinical: Clinical) -> set[str]:
    """Columns of all endpoints, which cannot be features."""
    months = {name.removesuffix("_MONTHS") for name in clinical.columns if name.endswith("_MONTHS")}
    states = {name.removesuffix("_STATUS") for name in clinical.columns if name.endswith("_STATUS")}
    return {f"{name}_{part}" for name in months & states for part in ("MONTHS", "STATUS")}


def _endpoint(clinical: Clinical, name: str) -> pd.DataFrame:
    months = clinical.numbers(f"{name}_MONTHS")
    if (negative := months < 0).any():
        raise DataError(
            f"{clinical.files(name + '_MONTHS')}: column {name + '_MONTHS'!r}: expected months from 0 on, got "
            f"{months[negative].iloc[0]:g} for patient {negative.idxmax()!r}"
        )
    column = f"{name}_STATUS"
    words = clinical.text(column)
    codes = {word: _code(word) for word in words.dropna().unique()}
    if strange := [word for word, code in codes.items() if code is None]:
        patient = words.index[(words == strange[0]).to_numpy().argmax()]
        raise DataError(
            f"{clinical.files(column)}: column {column!r}: expected '0:...' or LIVING, '1:...' or DECEASED, got "
            f"{strange[0]!r} for patient {patient!r}"
        )
    return pd.DataFrame({f"{name}_time": months, f"{name}_event": words.map(codes).astype(np.float64)})


def _code(word: str) -> int | None:
    text = word.strip().lower()
    if coded := _CODED.fullmatch(text):
        return int(coded[1])
    return 1 if text in _EVENT else 0 if text in _NO_EVENT else None
