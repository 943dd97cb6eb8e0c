"""The table of what shortcuts of prediction cost, out of stored results."""

from __future__ import annotations

from survcore.benchmarks.results import Record


def shortcut_table(records: list[Record]) -> tuple[list[str], list[list[str]], list[Record]]:
    """Header, rows and the records they come from: one row per shortcut, one column per cohort and missing modality.

    A cell holds the difference of the C-index to that of the reference, and in brackets the median change of a
    patient's risk, in standard deviations of the reference's risk over patients.

    Raises:
        ValueError: there are no results.
    """
    shown = [record for record in records if record["op"].startswith("shortcuts") and record["scenario"] != "complete"]
    if not shown:
        raise ValueError(
            "no results of shortcuts: `survcore bench shortcuts EVALUATION COHORT --out FOLDER` makes them"
        )
    columns = list(dict.fromkeys((record["cohort"], record["scenario"]) for record in shown))
    cells = {(record["cohort"], record["scenario"], record["shortcut"]): record for record in shown}
    rows = []
    for shortcut in dict.fromkeys(record["shortcut"] for record in shown):
        found = [cells.get((*column, shortcut)) for column in columns]
        rows.append([shortcut, *map(_cell, found)])
    return ["shortcut", *(f"{cohort}, {scenario}" for cohort, scenario in columns)], rows, shown


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    if record["largest_change"] == 0:
        return f"C-index {record['c_index']:.3f}"
    return f"{record['difference']:+.4f} ({record['median_change']:.4f})"
