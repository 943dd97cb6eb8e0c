"""Simulated cohorts whose shared factors, modality-specific factors and hazards are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from survcore.data.messages import listed
from survcore.data.simulate_bags import BagDesign, draw_bags
from survcore.draws import row_keys, row_normal, row_uniform, stream_seed
from survcore.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from survcore.data.cohort import Cohort

MODALITIES = {"pathology": "tokens", "genomics": "tokens"}
KINDS = ("tokens", "vector", "panel", "bag")
FACTORS = 4
_GROUPS, _GROUP_WIDTH, _PANEL_WIDTH = 6, 8, 60
_SHAPE, _MEDIAN_MONTHS = 1.2, 30.0
_SHARED_EFFECT, _SPECIFIC_EFFECT = 0.9, 1.0


def simulate_cohort(
    patients: int = 400,
    *,
    seed: int = 0,
    modalities: Mapping[str, str] | None = None,
    missing: float | Mapping[str, float] | None = None,
    missing_entries: float = 0.0,
    recoverable: float = 0.5,
    noise: float = 0.5,
    censored: float = 0.55,
    patches: tuple[int, int] = (20, 60),
    signal_patches: float = 0.1,
    bag_width: int = 32,
    bag_dtype: str = "float32",
    redraw: Mapping[str, int] | None = None,
) -> Cohort:
    """A cohort in which every modality matters, and a missing one can be recovered in part.

    A modality shows the shared factors z and its specific factors s through a random linear map plus noise. The log
    hazard is linear in z and in the s of every modality, so a missing modality costs information. A share of the
    variance of s is a non-linear function of z, (z^2 - 1) / sqrt(2), uncorrelated with z: it can be generated from
    another modality, but not by a mean or a linear map. Times are Weibull (shape 1.2) in months, censoring is
    exponential and independent.

    A bag shows the same factors in a few patches that lie together; the other patches are a fixed mixture of tissue
    types and say nothing of the outcome (:mod:`survcore.data.simulate_bags`). The project has no real bags of patch
    features at hand: the accuracy of models on bags is measured on these simulated ones only.

    Every draw belongs to (seed, patient): a smaller cohort of the same seed is the beginning of a larger one.

    Args:
        patients: number of rows.
        modalities: name to kind, "tokens" (a table of 6 groups of 8 columns), "vector" (the same table without
            groups), "panel" (60 sparse 0/1 columns) or "bag" (one array of patches per row, with coords); by default
            {"pathology": "tokens", "genomics": "tokens"}.
        missing: share of rows without a modality, one number or by name. A row that would lack all of them keeps one,
            so the share is a little lower where several are high.
        missing_entries: share of NaN entries in the tables.
        recoverable: share of the variance of the specific factors that the shared factors determine.
        noise: standard deviation of the measurement noise, where the signal of a column (of a bag: of a feature of a
            signal patch) has 1.
        censored: expected share of censored rows.
        patches: least and most patches of a bag; their logarithm is uniform between.
        signal_patches: share of a bag's patches that show the factors, at least one patch.
        bag_width: features per patch, at least 13.
        bag_dtype: of the features, "float32" or "float16".
        redraw: by modality a number k from 0. With k >= 1 the modality's own part of its specific factors and its
            measurement noise (of a bag: its patches) are those of stream k; 0 is the cohort itself. Shared factors,
            the other modalities and what is missing stay, and so do the outcomes and ``log_hazard``, which keep
            following the factors of stream 0. The values over k = 0, 1, 2, ... are independent draws from the
            distribution of the modality given the shared factors.

    Returns:
        A cohort with endpoint "primary" in months. Its ``truth`` holds float64 arrays, one line per row: ``shared``
        [N, 4] and ``specific`` (a dict by modality of [N, 4]), all with mean 0 and variance 1; ``log_hazard`` [N], the
        oracle risk; ``time`` and ``censoring`` [N], months to the event and to censoring; the outcome is the earlier.
        ``signal`` is a dict by modality of kind "bag" of object arrays [N] of bool arrays [N_i]: the patches that show
        the factors, also in the rows that lack the modality.

    Raises:
        DataError: a share or number outside its range, an unknown kind, dtype or modality.
    """
    import pandas as pd

    from survcore.data.cohort import Cohort

    kinds = dict(MODALITIES if modalities is None else modalities)
    shares = _missing_shares(missing, kinds)
    streams = _redraw_streams(redraw, kinds)
    unit = {"missing_entries": missing_entries, "recoverable": recoverable, "censored": censored}
    _check(patients, kinds, {**unit, "signal_patches": signal_patches})
    design = BagDesign(patches, signal_patches, bag_width, bag_dtype)
    row_ids = np.array([f"patient-{number:06d}" for number in range(patients)])
    keys = row_keys(row_ids)

    shared = _normal(seed, keys, FACTORS, "shared")
    determined = (shared**2 - 1) / np.sqrt(2)

    def specific_factors(name: str, *stream: str | int) -> np.ndarray:
        own = _normal(seed, keys, FACTORS, "specific", name, *stream)
        mixed = determined @ _rotation(seed, name)
        return np.sqrt(recoverable) * mixed + np.sqrt(1 - recoverable) * own

    log_hazard = _SHARED_EFFECT * shared @ _direction(seed, "shared")
    specific = {name: specific_factors(name) for name in kinds}
    for name, factors in specific.items():
        log_hazard = log_hazard + _SPECIFIC_EFFECT * factors @ _direction(seed, name)
    # Only now: the outcomes follow the factors of stream 0.
    specific.update({name: specific_factors(name, *stream) for name, stream in streams.items() if stream})

    uniform = row_uniform(stream_seed(seed, "times"), keys, 2).numpy().astype(np.float64)
    time = _weibull(uniform[:, 0], log_hazard)
    effect = np.hypot(_SHARED_EFFECT, _SPECIFIC_EFFECT * np.sqrt(len(kinds)))
    censoring = -np.log(uniform[:, 1]) * _censoring_mean(effect, censored)
    outcomes = pd.DataFrame(
        {"row_id": row_ids, "time": np.minimum(time, censoring), "event": (time <= censoring).astype(int)}
    )

    present = _present(seed, keys, shares)
    frames: dict[str, Any] = {}
    signal = {}
    for name, kind in kinds.items():
        factors = np.concatenate((shared, specific[name]), axis=1)
        if kind == "bag":
            stream = stream_seed(seed, "bag", name, *streams[name])
            fixed = _fixed(seed, "bag", name)
            bags, signal[name] = draw_bags(stream, fixed, keys, present[name], factors, noise, design)
            frames[name] = {row: bag for row, bag in zip(row_ids, bags, strict=True) if bag is not None}
            continue
        table = _table(seed, keys, name, kind, factors, noise, streams[name])
        if missing_entries:
            gone = row_uniform(stream_seed(seed, "entries", name), keys, table.shape[1]).numpy() < missing_entries
            table = table.mask(gone)
        frames[name] = table.assign(row_id=row_ids)[present[name]]
    groups = {name: _groups(name) for name, kind in kinds.items() if kind == "tokens"}
    cohort = Cohort.from_frames(
        frames,
        outcomes,
        time_unit="months",
        kinds=kinds,
        groups=groups,
        widths=dict.fromkeys(signal, bag_width),
        name="simulated",
    )
    truth = {"shared": shared, "specific": specific, "log_hazard": log_hazard, "time": time, "censoring": censoring}
    return replace(cohort, simulated=True, truth={**truth, "signal": signal})


def _normal(seed: int, keys: np.ndarray, width: int, *stream: str | int) -> np.ndarray:
    return row_normal(stream_seed(seed, *stream), keys, width).numpy().astype(np.float64)


def _fixed(seed: int, *stream: str) -> np.random.Generator:
    """A generator for what all patients share: maps and effects."""
    return np.random.default_rng(stream_seed(seed, "fixed", *stream))


def _direction(seed: int, name: str) -> np.ndarray:
    """A unit vector with no small component, so that every factor matters: float64 [4]."""
    generator = _fixed(seed, "direction", name)
    weights = generator.uniform(0.5, 1.0, FACTORS) * generator.choice((-1.0, 1.0), FACTORS)
    return weights / np.linalg.norm(weights)


def _rotation(seed: int, name: str) -> np.ndarray:
    return np.linalg.qr(_fixed(seed, "rotation", name).standard_normal((FACTORS, FACTORS)))[0]


def _weibull(uniform: np.ndarray, log_hazard: np.ndarray) -> np.ndarray:
    """Event times with cumulative hazard log 2 (t / median)^shape exp(log_hazard)."""
    return _MEDIAN_MONTHS * (-np.log(uniform) / (np.log(2) * np.exp(log_hazard))) ** (1 / _SHAPE)


def _censoring_mean(effect: float, censored: float) -> float:
    """Mean of the exponential censoring time that censors this share of rows.

    ``effect`` is the standard deviation of the log hazard. Found on a fixed sample instead of the drawn patients, so
    that adding patients moves nobody's censoring.
    """
    if censored == 0:
        return np.inf
    sample = np.random.default_rng(0)
    time = _weibull(sample.uniform(size=20_000), effect * sample.standard_normal(20_000))
    low, high = 1e-6, 1e9
    for _ in range(100):
        middle = np.sqrt(low * high)
        too_many = -np.expm1(-time / middle).mean() > censored
        low, high = (middle, high) if too_many else (low, middle)
    return float(middle)


def _columns(name: str, kind: str) -> list[str]:
    if kind == "panel":
        return [f"{name}_{number:02d}" for number in range(_PANEL_WIDTH)]
    return [f"{name}_{group}_{number}" for group in range(_GROUPS) for number in range(_GROUP_WIDTH)]


def _groups(name: str) -> dict[str, list[str]]:
    columns = _columns(name, "tokens")
    return {f"group_{group}": columns[group * _GROUP_WIDTH : (group + 1) * _GROUP_WIDTH] for group in range(_GROUPS)}


def _table(
    seed: int, keys: np.ndarray, name: str, kind: str, factors: np.ndarray, noise: float, stream: tuple[str | int, ...]
) -> pd.DataFrame:
    import pandas as pd

    columns = _columns(name, kind)
    loadings = _fixed(seed, "loadings", name).standard_normal((factors.shape[1], len(columns)))
    loadings /= np.linalg.norm(loadings, axis=0)
    values = factors @ loadings + noise * _normal(seed, keys, len(columns), "noise", name, *stream)
    if kind == "panel":
        # Above 1.3 standard deviations: about one entry in ten is set, as in a mutation panel.
        values = (values > 1.3 * np.hypot(1.0, noise)).astype(np.float64)
    return pd.DataFrame(values.astype(np.float32), columns=columns)


def _missing_shares(missing: float | Mapping[str, float] | None, kinds: Mapping[str, str]) -> dict[str, float]:
    given = dict(missing) if isinstance(missing, Mapping) else dict.fromkeys(kinds, float(missing or 0.0))
    unknown = [name for name in given if name not in kinds]
    if unknown:
        raise DataError(f"missing names modality {listed(unknown)}; the cohort has {listed(kinds)}")
    for name, share in given.items():
        if not 0 <= share <= 1:
            raise DataError(f"missing share of modality {name!r}: expected a number from 0 to 1, got {share}")
    shares = {name: float(given.get(name, 0.0)) for name in kinds}
    if shares and min(shares.values()) == 1:
        raise DataError("missing: every modality is missing in all rows; one must be there")
    return shares


def _present(seed: int, keys: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Which rows have which modality: bool [N] by name, at least one per row."""
    share = np.array(list(shares.values()))
    draw = np.stack([row_uniform(stream_seed(seed, "missing", name), keys, 1).numpy()[:, 0] for name in shares], axis=1)
    present = draw >= share
    empty = ~present.any(axis=1)
    kept = (draw / np.maximum(share, 1e-12) - (share == 1)).argmax(axis=1)
    present[empty, kept[empty]] = True
    return dict(zip(shares, present.T, strict=True))


def _redraw_streams(redraw: Mapping[str, int] | None, kinds: Mapping[str, str]) -> dict[str, tuple[str | int, ...]]:
    """By modality, what names its streams besides their purpose; nothing where it is not drawn anew."""
    given = dict(redraw or {})
    unknown = [name for name in given if name not in kinds]
    if unknown:
        raise DataError(f"redraw names modality {listed(unknown)}; the cohort has {listed(kinds)}")
    for name, number in given.items():
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 0:
            raise DataError(f"redraw of modality {name!r}: expected a whole number from 0, got {number!r}")
    return {name: ("redraw", int(given[name])) if given.get(name) else () for name in kinds}


def _check(patients: int, kinds: Mapping[str, str], shares: Mapping[str, float]) -> None:
    if patients < 1 or not kinds:
        raise DataError(
            f"a simulated cohort needs at least one patient and one modality; got {patients} and {len(kinds)}"
        )
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise DataError(f"modality {name!r}: the simulator draws kinds {', '.join(KINDS)}, not {kind!r}")
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise DataError(f"{name}: expected a share from 0 to below 1, got {share}")
