"""Names of columns that carry the outcome and must never become features."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Endpoint abbreviations count as words of their own (os_time, PFI.1), so that gene symbols such as OS9 pass.
_OUTCOME = re.compile(
    r"(?<![a-z0-9])(os|dss|dfi|dfs|pfi|pfs|rfs)(?![a-z0-9])|"
    r"survival|censor|vital[ _.]?status|death|deceased|last[ _.]?contact|follow[ _.]?up|days[ _.]to|to[ _.]days|"
    r"new[ _.]tumou?r[ _.]event|tumou?r[ _.]status|treatment[ _.]outcome|"
    r"^(time|event|entry|status|dead|alive|progressed|(stop|dead)_.*)$|_(time|event)$",
    re.IGNORECASE,
)


def outcome_columns(columns: Iterable[str]) -> list[str]:
    """Those of the names that sound like an outcome: end points, follow-up, vital status, events after diagnosis."""
    return [column for column in columns if _OUTCOME.search(str(column))]
