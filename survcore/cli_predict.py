"""``survcore predict``: a model's answers for a cohort folder, a table, or a stream of JSON lines."""

from __future__ import annotations

import io
import json
import math
import os
import queue
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from survcore.cli_options import known_device, seed_option
from survcore.data.messages import counted
from survcore.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from survcore.inference.predictor import Predictor

_STDIN = "-"
_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}
# Lines of a stream that are answered together where so many wait, and how many more are read ahead.
_TOGETHER, _AHEAD = 256, 1024
_WARMED = ("fill", "draws", "steps", "solver", "precision")


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("patients", type=click.Path(exists=True, allow_dash=True, path_type=Path), default=_STDIN)
@click.option(
    "--out", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default=_STDIN, show_default=True,
    help="File to write, .csv, .json or .jsonl; - for standard output.",
)  # fmt: skip
@click.option(
    "--format", "written_as", type=click.Choice(["csv", "json", "jsonl"]),
    help="How answers are written; by default as --out is named, else JSON lines for JSON lines and CSV for the rest.",
)  # fmt: skip
@click.option(
    "--fill", type=click.Choice(["own", "zeros", "mean"]), default="own", show_default=True,
    help="How missing modalities are completed: by the system itself, by zeros, or by the training mean.",
)  # fmt: skip
@click.option("--months", default="12,36,60", show_default=True, help="Times at which survival is reported.")
@click.option(
    "--restricted-mean-to", type=click.FloatRange(min=0, min_open=True), metavar="MONTHS",
    help="Report the restricted mean survival time up to this month as well.",
)  # fmt: skip
@click.option("--draws", default=5, show_default=True, help="Draws averaged for a completed modality.")
@click.option("--steps", default=50, show_default=True, help="Steps of the sampler.")
@click.option(
    "--solver", type=click.Choice(["ddim", "dpm_solver++"]), default="ddim", show_default=True,
    help="How the sampler steps; dpm_solver++ with 15 to 20 steps comes as close as ddim with 50.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["full", "bfloat16"]),
    help="Of the sampler's weights on the CPU; by default it goes with --dtype.",
)  # fmt: skip
@click.option(
    "--max-patches", type=click.IntRange(min=0), default=0, show_default=True,
    help="Largest number of patches of a slide, drawn without replacement; 0 for all.",
)  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True,
    help="Patients at a time; it changes memory and speed, not the answers.",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
    help="In which the encoders compute.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default as torch is set.")
@seed_option
@click.option(
    "--device", default="auto", show_default=True, callback=lambda *given: known_device(given[-1]),
    help="cpu, cuda:N, or auto: a GPU where there is one.",
)  # fmt: skip
def predict(
    model: Path, patients: Path, out: Path, written_as: str | None, months: str, dtype: str, threads: int | None,
    device: str, **options: Any,
) -> None:  # fmt: skip
    """Predict with MODEL (a folder written by train) for every one of PATIENTS.

    PATIENTS is a cohort folder, a .csv or .parquet table with one line per patient, a .jsonl file with one JSON object
    per line, or - for JSON lines on standard input, where each is answered as soon as it came. A record is {"row_id":
    "P1", "rna": {"TP53": 1.2, ...}, "slide": "slides/P1.h5"}; a table has a column row_id and columns rna.TP53, or TP53
    where one modality has it. Relative paths begin at the file's folder (of standard input, at the working one).

    Patients may lack any modality; outcomes are not needed. One line per patient: risk (higher is worse), median
    survival and survival at --months, which modalities were there and which were completed, what to be warned of, and
    in the column error why a patient could not be predicted, which stops no other. The command fails where all failed.

    In JSON what is no number is null: median_survival is null with median_reached false where survival stays above one
    half, error and warning are null where there is none. A row id may come twice on standard input, not in a file.
    """
    from survcore.inference import load

    options["months"] = _months(months)
    by_lines = str(patients) == _STDIN or patients.suffix == ".jsonl"
    written_as = written_as or _FORMATS.get(out.suffix, "jsonl" if by_lines else "csv")
    predictor = load(model, device=device, dtype=dtype, threads=threads)
    counts: Counter[str] = Counter()
    with _opened(out) as file, warnings.catch_warnings():
        # Every answer carries its own, and their number is told at the end.
        warnings.filterwarnings("ignore", r"\d+ of \d+ patients? ", UserWarning)
        first_error = _write(_tables(predictor, patients, options), file, written_as, counts)
    rows = counts["rows"]
    _say(counts, out, options["max_patches"])
    if rows and counts["failed"] == rows:
        raise DataError(first_error if rows == 1 else f"none of the {rows} patients can be predicted; {first_error}")


def _months(text: str) -> list[float]:
    try:
        return [float(month) for month in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"expected months separated by commas, got {text!r}", param_hint="--months") from error


def _tables(predictor: Predictor, path: Path, options: dict[str, Any]) -> Iterator[pd.DataFrame]:
    """Answers in the order of the patients, a stream's as its lines come."""
    from survcore.data import Cohort
    from survcore.data.tables import TABLE_SUFFIXES
    from survcore.data.tables import read_table as read_file
    from survcore.inference.patients import read_records, read_table

    preprocessor = predictor.preprocessor
    if str(path) == _STDIN:
        yield from _stream(predictor, options)
    elif path.is_dir():
        yield predictor.predict(Cohort.from_folder(path, keep_broken_files=True), **options)
    elif path.suffix == ".jsonl":
        with path.open("rb") as lines:
            records = (record for _, record in _parsed(lines))
            yield predictor.predict(_some(read_records(preprocessor, records, folder=path.parent), path), **options)
    elif path.suffix in TABLE_SUFFIXES:
        texts = [name for name, spec in preprocessor.specs.items() if not spec.is_table]
        frame = read_file(path, text_columns=("row_id", "patient_id", *texts))
        yield predictor.predict(_some(read_table(preprocessor, frame, folder=path.parent), path), **options)
    else:
        raise DataError(f"{path}: expected a cohort folder or a {', '.join(TABLE_SUFFIXES)} or .jsonl file")


def _some(patients: Any, path: Path) -> Any:
    if not len(patients):
        raise DataError(f"{path}: there are no patients in it")
    return patients


def _stream(predictor: Predictor, options: dict[str, Any]) -> Iterator[pd.DataFrame]:
    """Answers to the JSON lines of standard input: what waits is answered together, and nothing waits for more."""
    from survcore.inference.patients import read_records

    predictor.warmup(**{name: options[name] for name in _WARMED})
    waiting: queue.Queue[tuple[str, Any] | None] = queue.Queue(_AHEAD)
    threading.Thread(target=_feed, args=(waiting,), daemon=True).start()
    count, ended = 0, False
    while not ended:
        taken = [waiting.get()]
        while len(taken) < _TOGETHER and not waiting.empty():
            taken.append(waiting.get())
        ended = taken[-1] is None
        for records in _apart(taken[:-1] if ended else taken):
            yield predictor.predict(read_records(predictor.preprocessor, records, first=count), **options)
            count += len(records)


def _feed(waiting: queue.Queue[tuple[str, Any] | None]) -> None:
    try:
        for item in _parsed(_standard_input()):
            waiting.put(item)
    except OSError as error:
        waiting.put(("", DataError(f"standard input broke off: {error}")))
    finally:
        waiting.put(None)


def _standard_input() -> IO[bytes]:
    """A reader of its own: the interpreter cannot end while a thread waits in the one that it closes."""
    given = sys.stdin.buffer
    try:
        return open(os.dup(given.fileno()), "rb")
    except io.UnsupportedOperation:  # no file of the system, but memory
        return given


def _apart(items: Iterable[tuple[str, Any]]) -> Iterator[list[Any]]:
    """The records in runs in which no row id comes twice: each line is a question of its own."""
    run: list[Any] = []
    seen: set[str] = set()
    for row_id, record in items:
        if row_id in seen:
            yield run
            run, seen = [], set()
        run.append(record)
        seen.add(row_id)
    if run:
        yield run


def _parsed(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """The row id and the record of every line that is not blank; what is not JSON becomes a DataError in the record's
    place."""
    count = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        count += 1
        try:
            record = json.loads(line, object_pairs_hook=_no_key_twice)
        except (ValueError, RecursionError) as error:
            reason = error if isinstance(error, ValueError) else "nested too deeply"
            record = DataError(f"line {number} is not a JSON object: {reason}")
        row_id = record.get("row_id") if isinstance(record, Mapping) else None
        named = isinstance(row_id, str) and row_id.strip()
        # Numbers are compared by their digits, and who has no id by the one that he will be given.
        yield row_id if named else f"row {count}" if row_id in (None, "") else json.dumps(row_id), record


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]!r} is given twice")
    return made


@contextmanager
def _opened(out: Path) -> Iterator[IO[str]]:
    """Standard output, or a file that is there when it is whole."""
    from survcore.files import replacing

    if str(out) == _STDIN:
        yield sys.stdout
        return
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def _write(tables: Iterable[pd.DataFrame], file: IO[str], written_as: str, counts: Counter[str]) -> str:
    """Writes answers as they come and counts what is told of them; returns the first error."""
    first_error = ""
    for number, table in enumerate(tables):
        # Of one patient's table a single pandas operation takes as long as all the rest here.
        answers = table.to_dict("records")
        if written_as == "csv":
            table.to_csv(file, header=number == 0)
        else:
            for row_id, answer in zip(table.index.tolist(), answers, strict=True):
                line = json.dumps(as_json(row_id, answer), allow_nan=False)
                if written_as == "json":
                    file.write(f",\n{line}" if counts["written"] else f"[{line}")
                else:
                    file.write(f"{line}\n")
                counts["written"] += 1
        file.flush()
        for answer in answers:
            counts["rows"] += 1
            if answer["error"]:
                first_error = first_error or answer["error"]
                counts["failed"] += 1
                continue
            for name in ("completed", "subsampled", "warning"):
                counts[name] += answer[name] != ""
            for name in ("imputed_entries", "dropped_patches"):
                counts[name] += int(answer[name])
    if written_as == "json":
        file.write("]\n" if counts["written"] else "[]\n")
    return first_error


def as_json(row_id: str, answer: dict[str, Any]) -> dict[str, Any]:
    """One patient's answer as a JSON object, with null for what is no number, no error and no warning."""
    found: dict[str, Any] = {"row_id": row_id}
    for name, value in answer.items():
        found[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        if name == "median_survival":
            found["median_reached"] = None if math.isnan(value) else math.isfinite(value)
    return found | {name: found[name] or None for name in ("error", "warning")}


def _say(counts: Counter[str], out: Path, max_patches: int) -> None:
    """Tells what was done, beside the answers where those go to standard output."""
    aside = str(out) == _STDIN
    lines = [f"{counted(counts['rows'], 'row')} ({counts['completed']} with completed modalities)"]
    if not aside:
        lines[0] += f" written to {out}"
    if counts["failed"]:
        lines.append(f"{counted(counts['failed'], 'row')} without a prediction (column error)")
    if counts["warning"]:
        lines.append(f"{counted(counts['warning'], 'row')} with a warning (column warning)")
    if counts["imputed_entries"]:
        lines.append(
            f"{counts['imputed_entries']} single missing entries took training values (column imputed_entries)"
        )
    if counts["subsampled"]:
        lines.append(
            f"{counted(counts['subsampled'], 'row')} predicted from {max_patches} patches of larger bags (column "
            "subsampled)"
        )
    if counts["dropped_patches"]:
        lines.append(f"{counts['dropped_patches']} patches with a missing entry were left out (column dropped_patches)")
    for line in lines:
        click.echo(line, err=aside)
