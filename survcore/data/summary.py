"""A cohort in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from survcore.data.endpoint import Endpoint, median_follow_up
from survcore.data.messages import counted, listed

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort


def headline(cohort: Cohort) -> str:
    """One line: rows, modalities with kind, width and rows, events."""
    parts = [
        f"{name}: {modality.spec.kind}"
        + (f"[{modality.spec.width}]" if modality.spec.width else "")
        + f" in {int(modality.present.sum())}"
        for name, modality in cohort.modalities.items()
    ]
    parts += [
        f"{name}: {counted(int((endpoint.event > 0).sum()), 'event')}" for name, endpoint in cohort.endpoints.items()
    ]
    return f"Cohort({cohort.name!r}, {counted(len(cohort), 'row')}; {'; '.join(parts)})"


def summary(cohort: Cohort) -> str:
    """The text of :meth:`survcore.data.Cohort.summary`."""
    patients = len(np.unique(cohort.patient_ids))
    lines = [
        f"{cohort.name}: {counted(len(cohort), 'row')}, {counted(patients, 'patient')}",
        "",
        *_modalities(cohort),
        "",
        *_patterns(cohort),
    ]
    for endpoint in cohort.endpoints.values():
        lines += ["", *_endpoint(endpoint)]
    for what, labels in (("folds", cohort.fold), ("splits", cohort.split)):
        if labels is not None:
            lines += ["", f"{what}: {_counts(labels)}"]
    return "\n".join(lines)


def _modalities(cohort: Cohort) -> list[str]:
    rows = [("modality", "kind", "width", "rows", "missing entries")]
    for name, modality in cohort.modalities.items():
        spec = modality.spec
        kind = f"{spec.kind} ({len(spec.groups)})" if spec.groups else spec.kind
        missing = (
            "-" if modality.held is None else _share(modality.missing_entries, int(modality.present.sum()) * spec.width)
        )
        rows.append((name, kind, str(spec.width or "-"), _share(int(modality.present.sum()), len(cohort)), missing))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines + _unread_columns(cohort)


def _unread_columns(cohort: Cohort) -> list[str]:
    """Columns in no token are kept, but no model reads them: that must not go unnoticed."""
    lines = []
    for name, modality in cohort.modalities.items():
        grouped = {column for _, columns in modality.spec.groups for column in columns}
        if grouped and (unread := [column for column in modality.spec.columns if column not in grouped]):
            lines.append(f"{name}: {counted(len(unread), 'column')} in no token, not read by models: {listed(unread)}")
    return lines


def _patterns(cohort: Cohort) -> list[str]:
    patterns, counts = np.unique(cohort.availability, axis=0, return_counts=True)
    names = np.array(list(cohort.modalities))
    lines = ["availability"]
    for which in np.argsort(-counts, kind="stable"):
        owned = " + ".join(names[patterns[which]]) or "nothing"
        lines.append(f"  {_share(int(counts[which]), len(cohort))}  {owned}")
    return lines


def _endpoint(endpoint: Endpoint) -> list[str]:
    events = endpoint.event[endpoint.event > 0]
    line = f"endpoint {endpoint.name}: {_share(len(events), len(endpoint))} with an event"
    if endpoint.causes > 1:
        line += ", " + ", ".join(
            f"cause {cause}: {int((events == cause).sum())}" for cause in range(1, endpoint.causes + 1)
        )
    follow_up = median_follow_up(endpoint)
    median = "not reached" if np.isnan(follow_up) else f"{follow_up:.1f} months"
    lines = [
        line,
        f"  median follow-up {median} (reverse Kaplan-Meier), longest {endpoint.time.max():.1f} months "
        f"(given in {endpoint.time_unit})",
    ]
    if endpoint.entry is not None:
        lines.append(f"  delayed entry: median {np.median(endpoint.entry):.1f} months")
    return lines


def _counts(labels: np.ndarray) -> str:
    values, counts = np.unique(labels, return_counts=True)
    named = ["none" if value in (-1, "") else str(value) for value in values.tolist()]
    return ", ".join(f"{value}: {count}" for value, count in zip(named, counts, strict=True))


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)" if whole else "0"
