"""Pages of this project that show results: their tables, and the figures beside the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from survcore.benchmarks import predict_figure
from survcore.benchmarks.cases import CASES
from survcore.benchmarks.figures import curve_records, data_hash, draw
from survcore.benchmarks.results import Record, read
from survcore.benchmarks.tables import names_in, with_tables
from survcore.files import replacing

_PAGES = ("README.md", "benchmarks/README.md", "survcore/metrics/README.md")


def of_project(root: Path) -> list[Path]:
    """The pages with tables in a source tree.

    Raises:
        ValueError: there is none.
    """
    found = [root / page for page in _PAGES if (root / page).is_file() and names_in((root / page).read_text())]
    if not found:
        raise ValueError(f"none of {', '.join(_PAGES)} is here with a line such as <!-- bench OP -->: name the files")
    return found


def write(pages: Iterable[Path], results: Path) -> list[Path]:
    """Write every table and figure anew; what was changed."""
    records = read(results)
    texts = {page: page.read_text() for page in pages}
    new = {page: with_tables(text, records, CASES) for page, text in texts.items()}
    changed = [page for page, text in texts.items() if new[page] != text]
    for page in changed:
        with replacing(page) as temporary:
            temporary.write_text(new[page])
    for path, figure in _figures(records, results).items():
        if not _shows(path, figure):
            figure.draw(path)
            changed.append(path)
    return changed


def stale(pages: Iterable[Path], results: Path) -> list[Path]:
    """The pages and figures that do not show what the results are."""
    records = read(results)
    found = [page for page in pages if with_tables(page.read_text(), records, CASES) != page.read_text()]
    return found + [path for path, figure in _figures(records, results).items() if not _shows(path, figure)]


class _Figure(NamedTuple):
    """The hash of what a figure shows, and what draws it to a path."""

    data: str
    draw: Callable[[Path], None]


def _figures(records: list[Record], results: Path) -> dict[Path, _Figure]:
    """The figures of what has a curve in the results."""
    folder = results if results.is_dir() else results.parent
    found = {
        folder / f"{op}.svg": _Figure(data_hash(case, records), partial(draw, case, records))
        for op, case in CASES.items()
        if curve_records(case, records)
    }
    predictions = [record for record in records if record["on"] == "cpu"]
    if predict_figure.shown(predictions):
        figure = _Figure(predict_figure.data_hash(predictions), partial(predict_figure.draw, predictions))
        found[folder / f"{predict_figure.NAME}.svg"] = figure
    return found


def _shows(path: Path, figure: _Figure) -> bool:
    return path.is_file() and figure.data in path.read_text()
