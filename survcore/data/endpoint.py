"""Endpoints of a cohort: outcome columns read, checked and converted to months."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from survcore.data.frames import numeric_table
from survcore.data.messages import listed
from survcore.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

PRIMARY = "primary"
_MONTHS_PER_UNIT = {"days": (1.0, 30.4375), "weeks": (7.0, 30.4375), "months": (1.0, 1.0), "years": (12.0, 1.0)}
TIME_UNITS = tuple(_MONTHS_PER_UNIT)
_CENSORING_NAME = re.compile(r"(?<!un)(?<!not_)(?<!non_)censor", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One outcome of every row.

    Attributes:
        name: "primary" for plain columns ``time`` and ``event``, else the columns' prefix (``OS_time`` -> "OS").
        time: follow-up in months, float64 [N], finite and not negative.
        event: int64 [N], 0 = censored, 1..causes = which event.
        entry: delayed entry (left truncation) in months, float64 [N], below ``time``; or None.
        causes: how many kinds of event there can be.
        time_unit: the unit the times were given in (a month is 30.4375 days).
    """

    name: str
    time: np.ndarray
    event: np.ndarray
    entry: np.ndarray | None = None
    causes: int = 1
    time_unit: str = "months"

    def __len__(self) -> int:
        return len(self.time)

    def select(self, index: np.ndarray) -> Endpoint:
        """The rows of an integer index, in its order."""
        entry = None if self.entry is None else self.entry[index]
        return replace(self, time=self.time[index], event=self.event[index], entry=entry)


@dataclass(frozen=True)
class OutcomeColumns:
    """Which columns of the outcomes make one endpoint; ``entry`` is None where there is no such column."""

    name: str
    time: str
    event: str
    entry: str | None
    censored_value: Any = None


def find_endpoints(
    columns: Sequence[str],
    *,
    endpoints: Sequence[str] | None = None,
    time_column: str | Mapping[str, str] | None = None,
    event_column: str | Mapping[str, str] | None = None,
    entry_column: str | Mapping[str, str] | None = None,
    censored_value: Any = None,
) -> list[OutcomeColumns]:
    """Finds the endpoints in the names of the outcome columns.

    Without ``endpoints``: "primary" for ``time`` and ``event`` or for columns given as one name each, NAME for every
    pair ``NAME_time``, ``NAME_event``. Columns and ``censored_value`` are given for the only endpoint, or as a dict by
    endpoint.
    """
    overrides = {"time": time_column, "event": event_column, "entry": entry_column, "censored_value": censored_value}
    named = {name for given in overrides.values() if isinstance(given, Mapping) for name in given}
    scalar = {part for part, given in overrides.items() if given is not None and not isinstance(given, Mapping)}
    if endpoints is not None:
        found = list(endpoints)
    elif scalar - {"censored_value"}:
        found = [PRIMARY]
    else:
        prefixes = [column.removesuffix("_time") for column in columns if column.endswith("_time")]
        found = [PRIMARY] if {"time", "event"} <= set(columns) else []
        found += [name for name in prefixes if name and f"{name}_event" in columns]
        found += sorted(named - set(found))
        if not found:
            raise DataError(_no_endpoint(columns))
    if unknown := named - set(found):
        raise DataError(f"columns are given for {listed(sorted(unknown))}, which is not among the endpoints {found}")
    if scalar and len(found) > 1:
        raise DataError(
            f"several endpoints ({', '.join(found)}): give column names and censored_value as a dict by endpoint"
        )
    return [
        _columns_of(name, columns, {part: _for_endpoint(given, name) for part, given in overrides.items()})
        for name in found
    ]


def read_endpoint(
    outcomes: DataFrame,
    columns: OutcomeColumns,
    row_ids: np.ndarray,
    *,
    time_unit: str | Mapping[str, str] | None,
    causes: int | Mapping[str, int],
) -> Endpoint:
    """Reads and checks one endpoint.

    Raises:
        DataError: unit not declared or unknown; time negative, NaN or infinite; event code outside 0..causes; entry not
            below time. Warns (UserWarning) where more than 90 % of the rows have an event.
    """
    name = columns.name
    unit = _unit(time_unit, name)
    count = causes.get(name, 1) if isinstance(causes, Mapping) else causes
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise DataError(f"endpoint {name!r}: causes must be a whole number of at least 1, got {count!r}")
    time = _times(outcomes[columns.time], columns.time, row_ids)
    if columns.censored_value is None:
        event = _events(outcomes[columns.event], columns.event, row_ids, int(count), set(np.unique(time)) <= {0.0, 1.0})
    else:
        event = _events_from_censoring(outcomes[columns.event], columns, row_ids, int(count))
    entry = None
    if columns.entry is not None:
        entry = _times(outcomes[columns.entry], columns.entry, row_ids)
        if (late := entry >= time).any():
            raise DataError(
                f"columns {columns.entry!r}, {columns.time!r}: entry must come before the end of follow-up; "
                f"not so in {_rows(late, row_ids)}"
            )
    rate = float((event > 0).mean())
    if rate > 0.9:
        warnings.warn(
            f"endpoint {name!r}: {100 * rate:.0f} % of {len(event)} rows have an event; "
            f"if column {columns.event!r} marks censoring, pass censored_value=1",
            stacklevel=4,
        )
    factor, divisor = _MONTHS_PER_UNIT[unit]
    months = [None if values is None else values * factor / divisor for values in (time, entry)]
    return Endpoint(name, months[0], event, months[1], int(count), unit)


def median_follow_up(endpoint: Endpoint) -> float:
    """Median follow-up in months by the reverse Kaplan-Meier method (Schemper and Smith 1996): censoring is the event.

    NaN where more than half of the rows are still followed at the longest time.
    """
    entry = np.full(len(endpoint), -np.inf) if endpoint.entry is None else endpoint.entry
    times, ended = np.unique(endpoint.time[endpoint.event == 0], return_counts=True)
    ends, starts = np.sort(endpoint.time), np.sort(entry)
    at_risk = np.searchsorted(starts, times, side="left") - np.searchsorted(ends, times, side="left")
    still_followed = np.cumprod(1.0 - ended / np.maximum(at_risk, 1))
    reached = np.flatnonzero(still_followed <= 0.5 + 1e-12)
    return float(times[reached[0]]) if len(reached) else float("nan")


def _columns_of(name: str, columns: Sequence[str], given: Mapping[str, Any]) -> OutcomeColumns:
    prefix = "" if name == PRIMARY else f"{name}_"
    chosen = {part: given[part] or f"{prefix}{part}" for part in ("time", "event", "entry")}
    for part in ("time", "event"):
        if chosen[part] not in columns:
            raise DataError(f"endpoint {name!r}: no column {chosen[part]!r} in the outcomes. {_no_endpoint(columns)}")
    if chosen["entry"] not in columns:
        if given["entry"]:
            raise DataError(f"endpoint {name!r}: no column {chosen['entry']!r} in the outcomes")
        chosen["entry"] = None
    if given["censored_value"] is None and _CENSORING_NAME.search(chosen["event"]):
        raise DataError(
            f"endpoint {name!r}: column {chosen['event']!r} is named like a censoring indicator. Say which value "
            "means censored: censored_value=1 where 1 is a censored row, censored_value=0 where 1 is an event after all"
        )
    return OutcomeColumns(name, chosen["time"], chosen["event"], chosen["entry"], given["censored_value"])


def _no_endpoint(columns: Sequence[str]) -> str:
    text = (
        f"Expected columns 'time' and 'event', or 'NAME_time' and 'NAME_event'; the outcomes have {listed(columns, 12)}"
    )
    if suspects := [column for column in columns if _CENSORING_NAME.search(column)]:
        text += (
            f". {suspects[0]!r} looks like a censoring indicator: pass event_column={suspects[0]!r}, censored_value=1"
        )
    return text


def _for_endpoint(given: Any, name: str) -> Any:
    return given.get(name) if isinstance(given, Mapping) else given


def _unit(time_unit: str | Mapping[str, str] | None, name: str) -> str:
    unit = _for_endpoint(time_unit, name)
    if unit not in TIME_UNITS:
        problem = (
            f"endpoint {name!r}: no time unit is declared"
            if unit is None
            else f"endpoint {name!r}: unknown time unit {unit!r}"
        )
        raise DataError(f"{problem}; pass time_unit, one of {', '.join(TIME_UNITS)}")
    return unit


def _numbers(values: Series, column: str, row_ids: np.ndarray) -> np.ndarray:
    return numeric_table(values.to_frame(), row_ids, "outcomes", dtype=np.float64, infinite="keep")[:, 0]


def _times(values: Series, column: str, row_ids: np.ndarray) -> np.ndarray:
    times = _numbers(values, column, row_ids)
    for wrong, what in ((np.isnan(times), "missing"), (np.isinf(times), "infinite"), (times < 0, "negative")):
        if wrong.any():
            raise DataError(f"column {column!r}: {what} time in {_rows(wrong, row_ids)}")
    return times


def _events(values: Series, column: str, row_ids: np.ndarray, causes: int, times_are_binary: bool) -> np.ndarray:
    codes = _numbers(values, column, row_ids)
    wrong = ~np.isin(codes, np.arange(causes + 1))
    if wrong.any():
        first = codes[wrong.argmax()]
        hint = "; every time is 0 or 1: were time and event exchanged?" if times_are_binary else ""
        raise DataError(
            f"column {column!r}: event codes must be 0..{causes} (0 = censored), "
            f"got {first:g} in {_rows(wrong, row_ids)}{hint}"
        )
    return codes.astype(np.int64)


def _events_from_censoring(values: Series, columns: OutcomeColumns, row_ids: np.ndarray, causes: int) -> np.ndarray:
    if causes != 1:
        raise DataError(
            f"endpoint {columns.name!r}: censored_value is for one kind of event; "
            f"with {causes} causes give event codes 0..{causes}"
        )
    if (missing := values.isna().to_numpy()).any():
        raise DataError(f"column {columns.event!r}: missing value in {_rows(missing, row_ids)}")
    others = [value for value in values.unique() if value != columns.censored_value]
    if len(others) > 1:
        raise DataError(
            f"column {columns.event!r}: expected {columns.censored_value!r} (censored) and one other value, "
            f"got {listed(others)} besides"
        )
    return (values != columns.censored_value).to_numpy(dtype=np.int64)


def _rows(wrong: np.ndarray, row_ids: np.ndarray) -> str:
    named = row_ids[wrong]
    return f"{'row' if len(named) == 1 else f'{len(named)} rows:'} {listed(named)}"
