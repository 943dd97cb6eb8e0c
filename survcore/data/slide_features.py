"""Reader for tables of human-interpretable slide features: patient means, grouped into tokens by tissue region."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.messages import counted, listed
from survcore.data.prepare_shared import refuse_outcomes
from survcore.errors import DataError

PATIENT_COLUMNS = ("bcr_patient_barcode", "case_id")
FEATURE_SUFFIXES = ("_HE", "_FFPE")
REGIONS = {"EPITHELIAL": "EPITHELIAL", "STROMA": "STROMA", "TUMOR": "TUMOR", "ESI": "ESI_0080", "NECROSIS": "NECROSIS"}
BETWEEN_REGIONS = "BETWEEN REGIONS"


@dataclass(frozen=True)
class SlideFeatures:
    """Patient-level slide features.

    Attributes:
        table: one row per patient (index: patient barcode), float32; NaN where no slide of the patient has a value.
        groups: token name to columns by tissue region; empty where no column names a region.
        transform: "signed_log" for region features (areas, counts and ratios, skewed and partly negative), else "none".
        facts: what was averaged, missing or dropped, one line each.
    """

    table: pd.DataFrame
    groups: dict[str, list[str]]
    transform: str
    facts: list[str]


def read_slide_features(
    path: str | Path, *, columns: str | None = None, names: str | Path | None = None
) -> SlideFeatures:
    """Read slide features and average them over each patient's slides (missing values ignored).

    A column that repeats an earlier one for every patient is dropped. A feature belongs to the token of the tissue
    region it names, one that relates two regions to the token "BETWEEN REGIONS".

    Args:
        path: csv (plain or compressed) or parquet; the patient stands in ``bcr_patient_barcode`` or ``case_id``.
        columns: regular expression searched in the column names; by default features end in _HE or _FFPE.
        names: csv of two columns, names in the table and names to give; only these columns are features then.

    Raises:
        DataError: no patient column, no feature, a feature whose name carries the outcome or that is not a number.
    """
    path = Path(path)
    slides = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    patient = next((column for column in PATIENT_COLUMNS if column in slides), None)
    if patient is None:
        raise DataError(
            f"{path}: expected a column {' or '.join(PATIENT_COLUMNS)} with the patient; got {listed(slides)}"
        )
    features = _features(slides, path, columns, names)
    slides = slides.rename(columns=features)
    chosen = list(features.values())
    _check(slides, chosen, path)
    barcodes = slides[patient].astype(str)
    missing = int(slides[chosen].isna().to_numpy().sum())
    patients = slides[chosen].groupby(barcodes, sort=False).mean().astype(np.float32)
    facts = [
        f"slide features: {counted(len(slides), 'row')}, {counted(len(patients), 'patient')} (mean over slides), "
        f"{counted(len(chosen), 'column')}"
    ]
    repeated = _repeated(patients)
    if repeated:
        facts.append(
            f"slide features: {counted(len(repeated), 'column')} dropped, equal to an earlier one for every patient: "
            + "; ".join(f"{column} = {earlier}" for column, earlier in repeated.items())
        )
    patients = patients.drop(columns=list(repeated))
    if missing:
        gaps = patients.isna().to_numpy()
        facts.append(
            f"slide features: {counted(missing, 'missing cell')} in the file; {int(gaps.sum())} after averaging and "
            f"dropping, of {counted(int(gaps.any(axis=1).sum()), 'patient')}"
        )
    groups = _region_tokens(list(patients.columns))
    if groups:
        sizes = ", ".join(f"{token} {len(members)}" for token, members in groups.items())
        facts.append(f"slide tokens: {sizes}; together {patients.shape[1]} columns")
    return SlideFeatures(patients, groups, "signed_log" if groups else "none", facts)


def _features(slides: pd.DataFrame, path: Path, pattern: str | None, names: str | Path | None) -> dict[str, str]:
    """Feature columns of the table and the names they are to have."""
    if names is not None:
        pairs = pd.read_csv(names, dtype=str)
        if pairs.shape[1] != 2:
            raise DataError(f"{names}: expected two columns, names in the table and names to give; got {listed(pairs)}")
        renamed = dict(zip(pairs.iloc[:, 0], pairs.iloc[:, 1], strict=True))
        absent = [name for name in renamed if name not in slides]
        if absent:
            raise DataError(f"{path}: {counted(len(absent), 'column')} of {names} absent: {listed(absent)}")
        if len(set(renamed.values())) < len(renamed) or len(renamed) < len(pairs):
            raise DataError(f"{names}: a name occurs twice")
    else:
        renamed = {
            name: name for name in slides if (re.search(pattern, name) if pattern else name.endswith(FEATURE_SUFFIXES))
        }
        if not renamed:
            wanted = f"matches {pattern!r}" if pattern else f"ends in {' or '.join(FEATURE_SUFFIXES)}"
            raise DataError(f"{path}: no column name {wanted}; the columns are {listed(slides)}")
    refuse_outcomes(dict.fromkeys([*renamed, *renamed.values()]), path)
    return renamed


def _check(slides: pd.DataFrame, columns: list[str], path: Path) -> None:
    text = [column for column in columns if not pd.api.types.is_numeric_dtype(slides[column])]
    if text:
        raise DataError(f"{path}: slide features must hold numbers; {listed(text)} do not")
    infinite = np.isinf(slides[columns].to_numpy(dtype=np.float64))
    if infinite.any():
        row, column = (int(index[0]) for index in np.nonzero(infinite))
        raise DataError(f"{path}: infinite value in column {columns[column]!r}, line {row + 2}")


def _repeated(patients: pd.DataFrame) -> dict[str, str]:
    """Columns equal to an earlier one in float32, missing entries included, and that earlier one."""
    first: dict[bytes, str] = {}
    repeated = {}
    # Adding 0 turns -0.0 into 0.0, which has other bytes.
    for column, values in zip(patients.columns, patients.to_numpy().T + np.float32(0), strict=True):
        earlier = first.setdefault(np.nan_to_num(values, nan=np.inf).tobytes(), column)
        if earlier != column:
            repeated[column] = earlier
    return repeated


def _region_tokens(columns: list[str]) -> dict[str, list[str]]:
    tokens: dict[str, list[str]] = {token: [] for token in (*REGIONS, BETWEEN_REGIONS)}
    for column in columns:
        named = [token for token, region in REGIONS.items() if region in column]
        if not named:
            return {}
        tokens[named[0] if len(named) == 1 else BETWEEN_REGIONS].append(column)
    return {token: members for token, members in tokens.items() if members}
