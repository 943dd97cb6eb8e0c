"""Columns whose values reproduce an outcome: its time, its event, or who has an event by being missing in the others.

All is judged on a sample of at most 1,000 rows with an event and 1,000 without, evenly spaced over the cohort, so that
the cost hardly depends on the number of patients; pairs of K columns cost a few K x K products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from survcore.data.endpoint import Endpoint
from survcore.data.leaks import Leak

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort

_SAMPLE = 1000
# With fewer rows of either kind, chance among thousands of columns reaches the limits below.
_FEWEST = 20
# Delayed entry, an honest column, reaches a rank correlation of 0.89 with the time of death (breast cancer, MSK-CHORD).
# The cheap correlation with the ranks is a sieve: that of an exponential time and its ranks is 0.87.
_SAME_ORDER, _ORDER_FROM = 0.95, 0.4
# Differences of dates and ages are compared after the worst fifth of the rows is set aside: ages are cut off at 90, and
# some patients are counted from another day.
_SAME_LINE, _TRIMMED, _STEPS = 0.999, 0.2, 5
_PAIRS_FROM, _MOST_PAIRS = 0.6, 200
_SAME_EVENT = 0.95
# Present in hardly any row of one kind, in most of the other, and not by chance (standard errors).
_HARDLY, _MOSTLY, _NOT_CHANCE = 0.05, 0.5, 6.0
# Fewer different values are categories and counts, which cannot tell a time.
_FEWEST_VALUES = 20
# The narrow tables come first: wide ones hold measurements, not dates.
_MOST_PAIRED_COLUMNS, _PAIR_SAMPLE = 1000, 400


class _Columns(NamedTuple):
    """Columns of all tables side by side: values float32 [rows, K] (NaN = missing), their modality and name."""

    values: np.ndarray
    modality: np.ndarray
    name: np.ndarray


def leaks_by_value(cohort: Cohort) -> list[Leak]:
    """Columns of tables whose values give an endpoint of the cohort away.

    - The order of a column is nearly that of the times of the patients with an event (rank correlation above 0.95).
    - A column minus another one is their time, up to unit and constant (the first 1,000 columns that are no categories,
      narrow tables first).
    - A column says who has an event (correlation above 0.95), or one of several causes.
    - A column is missing in all patients without an event and there in most of the others, or the reverse.

    Endpoints with fewer than 20 patients of either kind are not judged.
    """
    found: dict[tuple[str, str], dict[str, None]] = {}
    for endpoint in _different(cohort):
        has_event = endpoint.event > 0
        events, others = (_spaced(np.flatnonzero(kind)) for kind in (has_event, ~has_event))
        if len(events) < _FEWEST:
            continue
        columns = _columns(cohort, np.concatenate((events, others)))
        part = endpoint.select(np.concatenate((events, others)))
        # Squares of huge values overflow; no comparison with them counts.
        with np.errstate(over="ignore", invalid="ignore"):
            told = _time_leaks(columns, part, len(events))
            if len(others) >= _FEWEST:
                told += _event_leaks(columns, part, len(events))
        for position, reason in told:
            found.setdefault((str(columns.modality[position]), reason), {})[str(columns.name[position])] = None
    return [Leak(modality, tuple(names), reason) for (modality, reason), names in found.items()]


def _different(cohort: Cohort) -> list[Endpoint]:
    """The endpoints, without those that repeat another one but for the causes."""
    kept: list[Endpoint] = []
    for endpoint in sorted(cohort.endpoints.values(), key=lambda endpoint: -endpoint.causes):
        if not any(
            np.array_equal(endpoint.time, other.time) and np.array_equal(endpoint.event > 0, other.event > 0)
            for other in kept
        ):
            kept.append(endpoint)
    return kept


def _spaced(rows: np.ndarray) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(int)]


def _columns(cohort: Cohort, rows: np.ndarray) -> _Columns:
    """The tables, narrow ones first."""
    tables = sorted(
        (modality for modality in cohort.modalities.values() if modality.spec.is_table),
        key=lambda modality: modality.spec.width,
    )
    values = [modality.select(rows).table for modality in tables] or [np.empty((len(rows), 0), dtype=np.float32)]
    return _Columns(
        np.concatenate(values, axis=1),
        np.repeat([modality.spec.name for modality in tables], [modality.spec.width for modality in tables]),
        np.array([column for modality in tables for column in modality.spec.columns], dtype=str),
    )


def _time_leaks(columns: _Columns, part: Endpoint, events: int) -> list[tuple[int, str]]:
    """Position and reason of each column that tells the time of an event; the first ``events`` rows have one."""
    values = columns.values[:events]
    continuous = _continuous(values)
    told: dict[int, str] = {}
    centred = _centred(values[:, continuous])
    for what, time in _targets(part, events):
        order = _same_order(values, continuous, centred, time)
        told.update({position: f"in the order of the {what} of endpoint {part.name!r}" for position in order})
    paired = continuous[~np.isin(continuous, list(told))][:_MOST_PAIRED_COLUMNS]
    for what, time in _targets(part, events):
        for first, second in _same_difference(values[:, paired], time):
            reason = f"that, minus {str(columns.name[paired[second]])!r}, are the {what} of endpoint {part.name!r}"
            told.setdefault(int(paired[first]), reason)
    return list(told.items())


def _targets(part: Endpoint, events: int) -> list[tuple[str, np.ndarray]]:
    targets = [("time", part.time[:events])]
    if part.entry is not None:
        targets.append(("time after entry", (part.time - part.entry)[:events]))
    return targets


def _continuous(values: np.ndarray) -> np.ndarray:
    """Positions of the columns with enough rows and different values."""
    ordered = np.sort(values, axis=0)
    # NaN sorts last, and no comparison with it counts.
    different = (np.diff(ordered, axis=0) > 0).sum(axis=0) + 1
    return np.flatnonzero((different >= _FEWEST_VALUES) & (np.isfinite(values).sum(axis=0) >= _FEWEST))


def _centred(values: np.ndarray) -> np.ndarray:
    """float32, every column with mean 0, missing entries 0."""
    known = np.isfinite(values)
    means = np.where(known, values, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values - means, 0).astype(np.float32)


def _correlations(centred: np.ndarray, target: np.ndarray) -> np.ndarray:
    target = (target - target.mean()).astype(np.float32)
    scale = np.sqrt(np.square(centred).sum(axis=0) * np.square(target).sum())
    return (target @ centred) / np.maximum(scale, np.finfo(np.float32).tiny)


def _same_order(values: np.ndarray, continuous: np.ndarray, centred: np.ndarray, time: np.ndarray) -> list[int]:
    ranks = pd.Series(time).rank().to_numpy()
    likely = continuous[np.abs(_correlations(centred, ranks)) >= _ORDER_FROM]
    # Ranks of the times among all rows, and not among those that have the column: a monotone change, near enough.
    same = pd.DataFrame(values[:, likely]).rank().corrwith(pd.Series(ranks)).abs() >= _SAME_ORDER
    return likely[same.to_numpy()].tolist()


def _same_difference(values: np.ndarray, time: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) for which column i minus column j lies on a rising line in time, likeliest first."""
    few = np.linspace(0, len(values) - 1, min(len(values), _PAIR_SAMPLE)).astype(int)
    likely = _difference_correlations(values[few], time[few])
    first, second = np.nonzero(likely >= _PAIRS_FROM)
    best = np.argsort(-likely[first, second], kind="stable")[:_MOST_PAIRS]
    return [
        (int(first[pair]), int(second[pair]))
        for pair in best
        if _on_a_line(values[:, first[pair]].astype(np.float64) - values[:, second[pair]], time)
    ]


def _difference_correlations(values: np.ndarray, time: np.ndarray) -> np.ndarray:
    """float32 [K, K]: the correlation of column i minus column j with time over the rows that have both.

    Missing entries are left out: filled in by the mean, an age would be decades off and outweigh the true differences.
    """
    known = np.isfinite(values).astype(np.float32)
    x = _centred(values)
    t = (time - time.mean()).astype(np.float32)[:, None]
    count = np.maximum(known.T @ known, 1)
    of_time, of_time_squared = (t * known).T @ known, (t * t * known).T @ known
    own, squared, with_time = x.T @ known, (x * x).T @ known, (t * x).T @ known
    squares = squared + squared.T
    difference, product = own - own.T, with_time - with_time.T
    # Columns that repeat each other leave rounding errors alone.
    spread = np.maximum(squares - 2 * (x.T @ x) - difference**2 / count, 1e-5 * squares)
    time_spread = of_time_squared - of_time**2 / count
    scale = np.sqrt(np.maximum(spread * time_spread, np.finfo(np.float32).tiny))
    return (product - difference * of_time / count) / scale


def _on_a_line(values: np.ndarray, time: np.ndarray) -> bool:
    """Whether four fifths of the rows lie on one line: least trimmed squares, a few concentration steps."""
    known = np.isfinite(values)
    values, time = values[known], time[known]
    near = np.ones(len(values), dtype=bool)
    for _ in range(_STEPS):
        if near.sum() < _FEWEST * (1 - _TRIMMED) or np.ptp(values[near]) == 0 or np.ptp(time[near]) == 0:
            return False
        if np.corrcoef(values[near], time[near])[0, 1] >= _SAME_LINE:
            return True
        slope, constant = np.polyfit(values[near], time[near], 1)
        distance = np.abs(time - slope * values - constant)
        near = distance <= np.quantile(distance, 1 - _TRIMMED)
    return False


def _event_leaks(columns: _Columns, part: Endpoint, events: int) -> list[tuple[int, str]]:
    """Position and reason of each column that tells who has an event; the first ``events`` rows have one."""
    centred = _centred(columns.values)
    told: dict[int, str] = {}
    codes = [part.event > 0] + [part.event == code for code in range(1, part.causes + 1) if part.causes > 1]
    for marked in codes:
        if min(marked.sum(), (~marked).sum()) < _FEWEST:
            continue
        same = np.abs(_correlations(centred, marked.astype(np.float64))) >= _SAME_EVENT
        told.update(dict.fromkeys(np.flatnonzero(same), f"that repeat the event of endpoint {part.name!r}"))
    known = np.isfinite(columns.values)
    with_event, without = known[:events].mean(axis=0), known[events:].mean(axis=0)
    share = known.mean(axis=0)
    error = np.sqrt(share * (1 - share) * (1 / events + 1 / (len(known) - events)))
    for more, less, where in ((with_event, without, "with"), (without, with_event, "without")):
        leaks = (less <= _HARDLY) & (more >= _MOSTLY) & (more - less >= _NOT_CHANCE * error)
        reason = f"that hardly anybody has but patients {where} an event of endpoint {part.name!r}"
        for position in np.flatnonzero(leaks):
            told.setdefault(int(position), reason)
    return [(int(position), reason) for position, reason in told.items()]
