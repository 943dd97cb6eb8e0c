"""Bad cohorts: every fault is a DataError that names what is wrong and where."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from survcore.data import Cohort
from survcore.errors import DataError

ROWS = [f"p{row}" for row in range(6)]


def outcomes(**columns) -> pd.DataFrame:
    frame = pd.DataFrame({"row_id": ROWS, "time": np.arange(1.0, 7.0), "event": [0, 1] * 3})
    return frame.assign(**columns)


def table(rows=ROWS, **columns) -> pd.DataFrame:
    return pd.DataFrame({"row_id": rows, "g0": np.arange(len(rows)), "g1": 0.5}).assign(**columns)


def changed(values, position: int, value) -> list:
    values = list(values)
    values[position] = value
    return values


def make(rna=None, frame=None, **arguments) -> Cohort:
    arguments = {"time_unit": "months"} | arguments
    return Cohort.from_frames(
        {"rna": table() if rna is None else rna}, outcomes() if frame is None else frame, **arguments
    )


TIMES, ARRAYS = np.arange(1.0, 7.0), {row: np.ones((3, 4)) for row in ROWS}

OUTCOME_FAULTS = {
    "duplicate ids": (outcomes(row_id=changed(ROWS, 3, "p1")), {}, "outcomes: duplicate row id 'p1'"),
    "missing id": (outcomes(row_id=changed(ROWS, 3, None)), {}, "outcomes: missing id in line 4"),
    "no id": (outcomes().drop(columns="row_id"), {}, "outcomes: no column 'row_id'"),
    "no rows": (outcomes().iloc[:0], {}, "no rows"),
    "negative": (outcomes(time=changed(TIMES, 2, -1)), {}, "column 'time': negative time in row 'p2'"),
    "nan": (outcomes(time=changed(TIMES, 4, np.nan)), {}, "column 'time': missing time in row 'p4'"),
    "infinite": (outcomes(time=changed(TIMES, 5, np.inf)), {}, "column 'time': infinite time in row 'p5'"),
    "many": (outcomes(time=-1.0), {}, "6 rows: 'p0', 'p1', 'p2', 'p3', 'p4' and 1 more"),
    "words": (outcomes(time=changed(TIMES, 1, "soon")), {}, "column 'time' is not numeric: 'soon' in row 'p1'"),
    "code": (outcomes(event=[0, 1, 2, 0, 1, 0]), {}, r"column 'event': event codes must be 0..1 .*got 2 in row 'p2'"),
    "negative code": (outcomes(event=[0, 1, -1, 0, 1, 0]), {}, "got -1 in row 'p2'"),
    "code beyond causes": (outcomes(event=[0, 1, 2, 3, 1, 0]), {"causes": 2}, "0..2 .*got 3 in row 'p3'"),
    "half a code": (outcomes(event=[0, 1, 0.5, 0, 1, 0]), {}, "got 0.5 in row 'p2'"),
    "missing code": (outcomes(event=[0, 1, None, 0, 1, 0]), {}, "got nan in row 'p2'"),
    "exchanged": (outcomes(time=[0, 1] * 3, event=TIMES), {}, "were time and event exchanged"),
    "entry": (outcomes(entry=changed([0.5] * 6, 3, 4.0)), {}, "'entry', 'time': entry must come before .*in row 'p3'"),
    "negative entry": (outcomes(entry=changed([0.5] * 6, 3, -1)), {}, "column 'entry': negative time in row 'p3'"),
    "no unit": (outcomes(), {"time_unit": None}, "'primary': no time unit is declared; .*days, weeks, months, years"),
    "unknown unit": (outcomes(), {"time_unit": "hours"}, "unknown time unit 'hours'.*days, weeks, months, years"),
    "unit of another": (outcomes(), {"time_unit": {"OS": "days"}}, "'primary': no time unit"),
    "causes": (outcomes(), {"causes": 0}, "causes must be a whole number of at least 1, got 0"),
    "no endpoint": (outcomes().drop(columns="event"), {}, "Expected columns 'time' and 'event'"),
    "asked endpoint": (outcomes(), {"endpoints": ["OS"]}, "'OS': no column 'OS_time'"),
    "censorship instead": (
        outcomes().rename(columns={"event": "censorship"}),
        {},
        "'censorship' looks like a censoring indicator: pass event_column='censorship', censored_value=1",
    ),
    "censored as event": (
        outcomes().rename(columns={"event": "Censored"}),
        {"event_column": "Censored"},
        "'Censored' is named like a censoring indicator.*censored_value=1",
    ),
    "third word": (
        outcomes(event=["dead", "alive", "lost"] * 2),
        {"censored_value": "alive"},
        "expected 'alive' .censored. and one other value, got 'dead', 'lost'",
    ),
    "fold words": (outcomes(fold=changed(range(6), 1, "x")), {}, "column 'fold' is not numeric: 'x' in row 'p1'"),
    "half a fold": (outcomes(fold=changed(range(6), 1, 0.5)), {}, "whole numbers.*got 0.5 in row 'p1'"),
    "negative fold": (outcomes(fold=changed(range(6), 1, -2)), {}, "whole numbers.*got -2 in row 'p1'"),
    "no fold column": (outcomes(), {"fold": "val_fold"}, "no column 'val_fold' in the outcomes"),
    "unknown fold row": (outcomes(), {"fold": {"p1": 0, "q9": 1}}, "fold table: 1 row that the cohort lacks: 'q9'"),
    "unknown split row": (
        outcomes(),
        {"split": pd.Series({"p1": "a", "q8": "b", "q9": "b"})},
        "split table: 2 rows that the cohort lacks: 'q8', 'q9'",
    ),
    "duplicate fold row": (
        outcomes(),
        {"fold": pd.DataFrame({"row_id": ["p1", "p1"], "fold": [0, 1]})},
        "fold table: duplicate row id 'p1'",
    ),
    "weights": (outcomes(weights=changed([1.0] * 6, 2, -1)), {}, "'weights': weights must be .*row 'p2'"),
    "strata": (outcomes(strata=changed(["a"] * 6, 2, None)), {}, "'strata': no stratum in 1 row: 'p2'"),
    "patients": (outcomes(patient_id=changed(ROWS, 2, None)), {}, "column 'patient_id': missing id in line 3"),
    "duplicate column": (
        pd.concat([outcomes(), outcomes()[["time"]]], axis=1),
        {},
        "outcomes: duplicate column 'time'",
    ),
}


@pytest.mark.parametrize(("frame", "arguments", "message"), OUTCOME_FAULTS.values(), ids=OUTCOME_FAULTS)
def test_bad_outcomes(frame, arguments, message):
    with pytest.raises(DataError, match=message):
        make(frame=frame, **arguments)


MODALITY_FAULTS = {
    "duplicate ids": (table(changed(ROWS, 3, "p1")), {}, "modality 'rna': duplicate row id 'p1'"),
    "unknown ids": (table(ROWS + ["q1", "q2"]), {}, "'rna': 2 rows without an outcome: 'q1', 'q2'"),
    "no id": (table().drop(columns="row_id"), {}, "modality 'rna': no column 'row_id' and no index of row ids"),
    "words": (table(g0=changed(range(6), 4, "high")), {}, "'rna': column 'g0' is not numeric: 'high' in row 'p4'"),
    "dates": (table(g0=pd.Timestamp("2020-01-01")), {}, "column 'g0' is not numeric but datetime"),
    "duplicate column": (pd.concat([table(), table()[["g1"]]], axis=1), {}, "'rna': duplicate column 'g1'"),
    "infinite": (table(g1=changed([0.5] * 6, 2, -np.inf)), {}, "infinite value .*in row 'p2', column 'g1'"),
    "beyond float32": (table(g1=changed([0.5] * 6, 2, 1e39)), {}, "beyond float32. in row 'p2', column 'g1'"),
    "no columns": (table()[["row_id"]], {}, "the table has no columns"),
    "a row with nothing": (table(ROWS[:4]), {}, "2 rows with no modality: 'p4', 'p5'"),
    "nothing but nan": (table(g0=np.nan, g1=np.nan), {}, "6 rows with no modality"),
    "the outcome": (table(time=1.0), {}, "'rna' contains the outcome itself: column 'time'"),
    "no data": (np.ones((6, 2)), {}, "expected a DataFrame or a dict"),
    "kind": (None, {"kinds": {"rna": "matrix"}}, "unknown kind 'matrix'; the kinds are vector, panel"),
    "kind of nothing": (None, {"kinds": {"dna": "vector"}}, "kinds are given for 'dna', which is no modality"),
    "transform": (None, {"transforms": {"rna": "log"}}, "unknown transform 'log'; expected one of none, signed_log"),
    "tokens": (None, {"kinds": {"rna": "tokens"}}, "kind 'tokens' as a table needs groups"),
    "bag as table": (None, {"kinds": {"rna": "bag"}}, "kind 'bag' as a table needs a dict of arrays"),
    "group column": (None, {"groups": {"rna": {"t": ["g0", "g9"]}}}, "token group 't' names columns .*: 'g9'"),
    "empty group": (None, {"groups": {"rna": {"t": []}}}, "token group 't' has no columns"),
    "no groups": (None, {"groups": {"rna": {}}}, "the token groups are empty"),
    "groups of a vector": (
        None,
        {"groups": {"rna": {"t": ["g0"]}}, "kinds": {"rna": "vector"}},
        "token groups are given, but the kind is 'vector'",
    ),
    "panel": (table(), {"kinds": {"rna": "panel"}}, "'panel' holds 0, 1 .*got 0.5 in row 'p0', column 'g1'"),
    "array width": (ARRAYS | {"p4": np.ones((3, 5))}, {}, "'rna', row 'p4': width 5, but the modality's width is 4"),
    "array rank": (
        ARRAYS | {"p4": np.ones(4)},
        {},
        r"'rna', row 'p4': kind 'bag' expects shape \[N, width\], got \[4\]",
    ),
    "vector width": (
        {row: np.ones(3 + (row == "p2")) for row in ROWS},
        {},
        r"'rna', row 'p2': shape \[4\], but the first row has \[3\]",
    ),
    "array infinite": (
        ARRAYS | {"p4": np.full((1, 4), np.inf)},
        {},
        r"'rna', row 'p4': infinite value at index \[0, 0\]",
    ),
    "array infinite beside nan": (
        ARRAYS | {"p4": np.array([[np.nan, 0, np.inf, 0]])},
        {},
        r"'rna', row 'p4': infinite value at index \[0, 2\]",
    ),
    "empty array": (ARRAYS | {"p4": np.ones((0, 4))}, {}, "'rna', row 'p4': the array is empty"),
    "array of words": (ARRAYS | {"p4": np.array([["a"]])}, {}, "'rna', row 'p4': expected numbers"),
    "coords": (
        {row: {"features": np.ones((3, 4)), "coords": np.ones((2, 2))} for row in ROWS},
        {},
        r"row 'p0': coords must be \[3, 2\]",
    ),
    "file type": (ARRAYS | {"p4": Path("p4.npz")}, {}, "p4.npz: unknown array file type; expected one of .npy"),
    "no features": ({row: {"coords": np.ones((2, 2))} for row in ROWS}, {}, "row 'p0': expected 'features'"),
    "undeclared": ({row: np.ones((1, 2, 3, 4)) for row in ROWS}, {}, "its kind must be declared"),
    "unknown array row": (ARRAYS | {"q1": np.ones((3, 4))}, {}, "'rna': 1 row without an outcome: 'q1'"),
    "text": (dict.fromkeys(ROWS, 5), {"kinds": {"rna": "text"}}, "kind 'text' expects text, got 5"),
    "text columns": (None, {"kinds": {"rna": "text"}}, "'text' expects one column of text, got 'g0', 'g1'"),
}


@pytest.mark.parametrize(("rna", "arguments", "message"), MODALITY_FAULTS.values(), ids=MODALITY_FAULTS)
def test_bad_modalities(rna, arguments, message):
    with pytest.raises(DataError, match=message):
        make(rna, **arguments)


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "outcomes", "../x", 3])
def test_bad_names_of_modalities(name):
    with pytest.raises(DataError, match="modality name"):
        Cohort.from_frames({name: table()}, outcomes(), time_unit="months")


def test_selections_without_rows_name_what_was_asked():
    cohort = make(frame=outcomes(fold=[0, 0, 1, 1, 2, 2], split="train"))
    with pytest.raises(DataError, match="fold '3' has no rows; the folds of 'cohort' are '0', '1', '2'"):
        cohort.where(fold=3)
    with pytest.raises(DataError, match="split 'test' has no rows; the splits of 'cohort' are 'train'"):
        cohort.where(split="test")
    with pytest.raises(DataError, match=r"the selection \(fold 0; lacks rna\) of 'cohort' has no rows"):
        cohort.where(fold=0, lacks=["rna"])
    with pytest.raises(DataError, match="no modality 'mri'"):
        cohort.where(has=["mri"])
    with pytest.raises(DataError, match="has no folds"):
        make().where(fold=0)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A whole cohort folder with a table and bags as npy."""
    bags = {row: np.full((200, 4), position, dtype=np.float32) for position, row in enumerate(ROWS)}
    cohort = Cohort.from_frames({"rna": table(), "slides": bags}, outcomes(), time_unit="months")
    cohort.to_folder(tmp_path / "cohort", tables="csv", arrays="npy")
    Cohort.from_folder(tmp_path / "cohort")
    return tmp_path / "cohort"


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


class Code:
    """Something whose unpickling would run a command that makes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch '{self.folder / 'ran'}'",)


def with_h5(folder: Path, name: str, values: np.ndarray) -> None:
    (folder / "slides" / "p1.npy").unlink()
    with h5py.File(folder / "slides" / "p1.h5", "w") as file:
        file.create_dataset(name, data=values)


def with_pt(folder: Path, content) -> None:
    (folder / "slides" / "p1.npy").unlink()
    torch.save(content, folder / "slides" / "p1.pt")


FOLDER_FAULTS = {
    "no manifest": (lambda at: (at / "cohort.toml").unlink(), "cohort.toml: no such file"),
    "bad toml": (lambda at: rewrite(at / "cohort.toml", "kind =", "kind ="[:4]), "cohort.toml: not valid TOML"),
    "unknown kind": (
        lambda at: rewrite(at / "cohort.toml", '"bag"', '"sack"'),
        r"\[modalities.slides\]: unknown kind 'sack'; the kinds are",
    ),
    "unknown key": (
        lambda at: rewrite(at / "cohort.toml", "time_unit", "time_units"),
        r"\[endpoints.primary\]: unknown key 'time_units'",
    ),
    "no unit": (lambda at: rewrite(at / "cohort.toml", 'time_unit = "months"', ""), "'primary': no time unit"),
    "no endpoint declared": (
        lambda at: rewrite(at / "cohort.toml", '[endpoints."primary"]\ntime_unit = "months"\ncauses = 1', ""),
        "no time unit is declared for 'time', 'event' of outcomes.csv",
    ),
    "declared width": (lambda at: rewrite(at / "cohort.toml", "width = 4", "width = 5"), "p0.*width 4.*width is 5"),
    "no outcomes": (lambda at: (at / "outcomes.csv").unlink(), "there is no outcomes.csv or outcomes.parquet"),
    "two outcomes": (
        lambda at: outcomes().to_parquet(at / "outcomes.parquet"),
        "both outcomes.csv and outcomes.parquet are there",
    ),
    "no table": (lambda at: (at / "rna.csv").unlink(), "'rna' is declared, but there is no rna.csv"),
    "empty table": (lambda at: (at / "rna.csv").write_text(""), "rna.csv: cannot be read as csv"),
    "ragged table": (lambda at: (at / "rna.csv").write_text("row_id,a\np0,1\np1,1,2\n"), "rna.csv: cannot be read"),
    "twice a column": (
        lambda at: (at / "rna.csv").write_text("row_id,a,a\np0,1,2\n"),
        "rna.csv: duplicate column 'a'",
    ),
    "no id column": (lambda at: (at / "rna.csv").write_text("id,a\np0,1\n"), "rna.csv: no column 'row_id'"),
    "unknown row of a table": (
        lambda at: (at / "rna.csv").write_text("row_id,g0,g1\nq7,1,1\n"),
        "'rna': 1 row without an outcome: 'q7'",
    ),
    "words": (
        lambda at: (at / "rna.csv").write_text("row_id,g0,g1\np3,1,low\n"),
        "'rna': column 'g1' is not numeric: 'low' in row 'p3'",
    ),
    "cut parquet": (
        lambda at: ((at / "rna.csv").rename(at / "rna.parquet"), cut(at / "rna.parquet")),
        "rna.parquet: cannot be read as parquet",
    ),
    "unknown row of a file": (
        lambda at: (at / "slides" / "p1.npy").rename(at / "slides" / "q1.npy"),
        "'slides': 1 row without an outcome: 'q1'",
    ),
    "unknown file": (lambda at: (at / "slides" / "p1.npz").touch(), r"slides/p1.npz: unknown file"),
    "two files": (lambda at: torch.save(torch.ones(2, 4), at / "slides" / "p1.pt"), "'p1' has both p1.npy and p1.pt"),
    "cut npy": (lambda at: cut(at / "slides" / "p1.npy"), r"slides/p1.npy: cannot be read as npy .damaged"),
    "pickled npy": (
        lambda at: np.save(at / "slides" / "p1.npy", np.array([Code(at)]), allow_pickle=True),
        "p1.npy: cannot be read as npy",
    ),
    "words in npy": (
        lambda at: np.save(at / "slides" / "p1.npy", np.array([["a"]])),
        "p1.npy: expected numbers, got an array of dtype <U1",
    ),
    "other width": (
        lambda at: np.save(at / "slides" / "p1.npy", np.ones((2, 5))),
        "'slides', row 'p1' .*p1.npy.: width 5, but the modality's width is 4",
    ),
    "h5 without features": (
        lambda at: with_h5(at, "embeddings", np.ones((2, 4))),
        r"p1.h5: no dataset 'features'; it holds \['embeddings'\]",
    ),
    "cut h5": (
        lambda at: (with_h5(at, "features", np.ones((2000, 4))), cut(at / "slides" / "p1.h5")),
        "p1.h5: cannot be read as h5",
    ),
    "pt with code": (lambda at: with_pt(at, {"features": Code(at)}), "p1.pt: refused: it holds pickled objects"),
    "pt of a list": (lambda at: with_pt(at, [torch.ones(2, 4)]), "p1.pt: expected a tensor or a dict of tensors"),
    "pt with several": (
        lambda at: with_pt(at, {"a": torch.ones(2, 4), "b": torch.ones(2, 4)}),
        "p1.pt: expected an array named 'features' or one array alone",
    ),
    "cut pt": (
        lambda at: (with_pt(at, torch.ones(2000, 4)), cut(at / "slides" / "p1.pt")),
        "p1.pt: cannot be read as pt",
    ),
    "junk safetensors": (
        lambda at: (at / "slides" / "p1.npy").rename(at / "slides" / "p1.safetensors"),
        "p1.safetensors: cannot be read as safetensors",
    ),
}


@pytest.mark.parametrize(("damage", "message"), FOLDER_FAULTS.values(), ids=FOLDER_FAULTS)
def test_bad_folders(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        Cohort.from_folder(folder)
    assert not (folder / "ran").exists()


def test_faults_that_show_only_when_values_are_read(folder):
    cohort = Cohort.from_folder(folder)
    slides = cohort.modalities["slides"]
    files = {row: folder / "slides" / f"p{row}.npy" for row in range(3)}
    np.save(files[0], np.full((200, 4), np.inf))
    np.save(files[1], np.ones((100, 4)))
    files[2].unlink()
    with pytest.raises(DataError, match=r"'slides', row 'p0'.*infinite value at index \[0, 0\]"):
        slides.value(0)
    with pytest.raises(DataError, match=r"'slides', row 'p1'.*the file has changed.*\[200, 4\], now \[100, 4\]"):
        slides.value(1)
    with pytest.raises(DataError, match="p2.npy: no such file"):
        slides.value(2)
    assert slides.value(3)[0, 0] == 3
