"""Columns that carry the outcome, told by their names or by their values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort

# Endpoint abbreviations count as words of their own (os_time, PFI.1), so that gene symbols such as OS9 pass. EFS is a
# gene, and an endpoint only in small letters or with the part of an outcome behind it.
_OUTCOME = re.compile(
    r"(?<![a-z0-9])(os|dss|dfi|dfs|pfi|pfs|rfs|dmfs)(?![a-z0-9])|(?<![a-z0-9])(?-i:efs)(?![a-z0-9])|"
    r"(?<![a-z0-9])(os|dss|dfi|dfs|pfi|pfs|rfs|efs|dmfs)[ _.-]?(stat|status|time|event|days|weeks|months|years)|"
    r"survival|censor|vital[ _.-]?status|death|deceased|last[ _.-]?(contact|follow|visit|seen|known)|"
    r"follow[ _.-]?up|days[ _.-]to|to[ _.-]days|time[ _.-]to[ _.-](event|progression|recurrence|relapse|last)|"
    r"new[ _.-]tumou?r[ _.-]event|tumou?r[ _.-]status|treatment[ _.-]outcome|"
    r"^(time|event|entry|status|stop|dead|alive|progressed|(stop|dead)_.*)$|_(time|event)$",
    re.IGNORECASE,
)


class Leak(NamedTuple):
    """Columns of one modality that seem to carry the outcome.

    Attributes:
        modality: their modality.
        columns: their names.
        reason: what is wrong with them, to be read after "columns".
    """

    modality: str
    columns: tuple[str, ...]
    reason: str


def outcome_columns(columns: Iterable[str]) -> list[str]:
    """Those of the names that sound like an outcome: end points, follow-up, vital status, events after diagnosis."""
    return [column for column in columns if _OUTCOME.search(str(column))]


def find_leaks(cohort: Cohort) -> list[Leak]:
    """Columns of tables that are named like an outcome, and those whose values reproduce an endpoint of the cohort.

    The values are judged as :func:`survcore.data.leak_values.leaks_by_value` says. Arrays and texts are not looked at.
    What is found may still be honest (a date known in advance), and a leak that repeats the outcome only roughly is not
    found.
    """
    from survcore.data.leak_values import leaks_by_value

    named = [
        Leak(name, tuple(leaks), "named like an outcome")
        for name, modality in cohort.modalities.items()
        if (leaks := outcome_columns(modality.spec.columns))
    ]
    return named + leaks_by_value(cohort)
