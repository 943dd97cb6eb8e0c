"""Panels held by their ones, from the caller's table to the batch: equal to the dense table at every step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch

import survcore
from survcore.batch import Bags, Batch, SparsePanel, dense
from survcore.data import Cohort, Modality, ModalitySpec, Panel, Preprocessor, fingerprint, sparse_frames
from survcore.errors import DataError
from survcore.inference.encoding_cache import EncodingCache
from survcore.inference.made_up import made_up_patients
from survcore.inference.model_card import model_card
from survcore.inference.model_facts import read_facts
from survcore.inference.patients import read_records, read_table
from survcore.models.base import Encoded

ROWS, WIDTH = 60, 21
IDS = [f"p{number:02d}" for number in range(ROWS)]
COLUMNS = [f"gene {number}" for number in range(WIDTH)]
GAPS = ("none", "assays", "scattered")


def values(gaps: str, seed: int = 0) -> np.ndarray:
    """[60, 21] of 0 and 1, NaN where an assay does not cover a column or anywhere; the last two rows have nothing."""
    random = np.random.default_rng(seed)
    table = (random.uniform(size=(ROWS, WIDTH)) < np.linspace(0.02, 0.7, WIDTH)).astype(np.float32)
    if gaps == "assays":
        covered = np.stack([np.arange(WIDTH) < 12, np.arange(WIDTH) >= 3, np.ones(WIDTH, dtype=bool)])
        table[~covered[np.arange(ROWS) % 3]] = np.nan
    elif gaps == "scattered":
        table[random.uniform(size=table.shape) < 0.2] = np.nan
    table[-2:] = np.nan
    return table


def outcomes() -> pd.DataFrame:
    random = np.random.default_rng(1)
    return pd.DataFrame({"row_id": IDS, "time": random.exponential(20, ROWS) + 0.1, "event": np.arange(ROWS) % 2})


def age() -> pd.DataFrame:
    return pd.DataFrame({"row_id": IDS, "age": np.arange(ROWS) * 1.5})


def frame_of(table: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(table, columns=COLUMNS, index=pd.Index(IDS, name="row_id"))


def as_panel(table: np.ndarray) -> Panel:
    """The rows with any entry in another order, each an assay of its own."""
    rows = np.flatnonzero(~np.isnan(table).all(axis=1))[::-1]
    pairs = np.argwhere(table[rows] == 1)[::-1]
    covered = {f"assay {row}": ~np.isnan(table[row]) for row in rows}
    return Panel(
        [IDS[row] for row in rows], COLUMNS, np.concatenate((pairs, pairs[:3])), assays=[*covered], covered=covered
    )


def as_sparse(table: np.ndarray, fill: float = 0.0) -> pd.DataFrame:
    return frame_of(table).astype(pd.SparseDtype(np.float32, fill))


FORMS = {
    "dense": frame_of,
    "sparse": as_sparse,
    "sparse gaps": lambda table: as_sparse(table, np.nan),
    "sparse ones": lambda table: as_sparse(table, 1.0),
    "mixed": lambda table: frame_of(table).astype({COLUMNS[3]: pd.SparseDtype(np.float32, 0.0), COLUMNS[9]: object}),
    "panel": as_panel,
    "vectors": lambda table: {row: line for row, line in zip(IDS, table, strict=True) if not np.isnan(line).all()},
}


def cohort_of(data: Any, kind: str = "panel") -> Cohort:
    return Cohort.from_frames(
        {"age": age(), "mutations": data}, outcomes(), time_unit="months", kinds={"mutations": kind}
    )


# ---- the rows of a batch


@pytest.mark.parametrize(
    "rows",
    [
        *(slice(None), slice(2, 7), slice(7, 2), slice(-4, None), slice(1, 9, 3), slice(8, 1, -2)),
        *(torch.tensor(index, dtype=torch.int64) for index in ([], [3], [5, 0, 5, -1], list(range(10)))),
    ],
    ids=str,
)
def test_rows_of_a_sparse_panel_are_those_of_the_table(rows: slice | torch.Tensor) -> None:
    table = (torch.rand(10, 7, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    table[4] = 0
    numbers = torch.arange(10).numpy()[rows if isinstance(rows, slice) else rows.numpy()].copy()
    panel = SparsePanel.from_dense(table)
    taken = panel.take(rows)
    assert (
        torch.equal(taken.dense(), table[numbers]) and taken.shape == (len(numbers), 7) and len(taken) == len(numbers)
    )
    assert torch.equal(taken.columns, table[numbers].nonzero()[:, 1])
    assert torch.equal(taken.to("cpu").dense(), dense(taken))
    if not isinstance(rows, slice):
        batch = Batch(torch.arange(10), torch.ones(10, 1, dtype=torch.bool), {"a": panel})
        assert torch.equal(dense(batch.take(rows).values["a"]), table[rows])


def test_a_sparse_panel_is_of_zeros_and_ones() -> None:
    with pytest.raises(ValueError, match="zeros and ones, got 0.5"):
        SparsePanel.from_dense(torch.tensor([[0.0, 1.0], [0.5, 0.0]]))
    with pytest.raises(ValueError, match="int64 index of rows, got torch.bool"):
        SparsePanel.from_dense(torch.ones(2, 2)).take(torch.tensor([True, False]))


# ---- what a caller gives


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("form", FORMS)
def test_a_panel_is_the_same_however_it_is_given(form: str, gaps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = values(gaps)
    cohort = cohort_of(FORMS[form](table))
    modality = cohort.modality("mutations")
    np.testing.assert_array_equal(modality.table, table)
    assert modality.present.tolist() == [True] * (ROWS - 2) + [False] * 2
    assert modality.missing_entries == np.isnan(table[:-2]).sum()
    assert (modality.spec.columns == tuple(COLUMNS)) != (form == "vectors")
    # A dict of vectors names no columns.
    named = modality if form != "vectors" else replace(modality, spec=replace(modality.spec, columns=tuple(COLUMNS)))
    given, first = (
        replace(cohort, modalities={"a": part}) for part in (named, cohort_of(frame_of(table)).modality("mutations"))
    )
    assert given.fingerprint() == first.fingerprint()
    written_out = first.fingerprint()
    monkeypatch.setattr(fingerprint, "_WRITTEN_OUT", 0)
    assert given.fingerprint() == first.fingerprint() != written_out


def test_fingerprints_see_every_entry_and_stay_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"p{number}" for number in range(5)]
    frame = pd.DataFrame({"row_id": ids[:4], "a": [0, 1, None, 0], "b": [1, 0, 1, 0], "c": [0, None, None, 0]})
    times = pd.DataFrame({"row_id": ids, "time": [1.0, 2, 3, 4, 5], "event": [0, 1, 0, 1, 1]})

    def mark(changed: pd.DataFrame) -> str:
        return Cohort.from_frames(
            {"m": changed, "v": frame}, times, time_unit="months", kinds={"m": "panel"}, rows_without_modality=True
        ).fingerprint()

    assert mark(frame) == "295dad91d5c52e44"
    for limit in (2**26, 0):
        monkeypatch.setattr(fingerprint, "_WRITTEN_OUT", limit)
        others = []
        for row, column, value in ((0, "a", 1), (0, "a", None), (1, "a", 0), (2, "a", 0), (3, "c", 1)):
            changed = frame.copy()
            changed.loc[row, column] = value
            others.append(mark(changed))
        assert len({mark(frame), *others}) == 6


def test_columns_of_a_sparse_dtype_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_frames, "_dense", None)
    np.testing.assert_array_equal(
        cohort_of(as_sparse(values("scattered"))).modality("mutations").table, values("scattered")
    )


def test_wide_frames_are_read_a_few_columns_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_frames, "_LOOKED_AT", 5 * ROWS)
    for form in ("dense", "mixed"):
        found = cohort_of(FORMS[form](values("scattered"))).modality("mutations").table
        np.testing.assert_array_equal(found, values("scattered"))


def test_assays_say_what_was_measured() -> None:
    panel = Panel(
        ["p0", "p1", "p2"],
        ["TP53", "KRAS", "EGFR"],
        [(0, 1), (1, 0)],
        assays=pd.Series(["large", "small", "large"]),
        covered={"small": ["TP53"], "large": np.array([True, True, False])},
    )
    cohort = Cohort.from_frames({"mutations": panel}, None)
    nan = np.nan
    np.testing.assert_array_equal(cohort.modality("mutations").table, [[0, 1, nan], [1, nan, nan], [0, 0, nan]])
    whole = Cohort.from_frames({"mutations": Panel(["b", "a"], ["x"], [])}, None).modality("mutations")
    assert whole.table.tolist() == [[0.0], [0.0]] and whole.spec.kind == "panel"


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_pairs_are_whole_numbers_of_any_type(dtype: type) -> None:
    pairs = np.argwhere(values("none") == 1).astype(dtype)
    np.testing.assert_array_equal(
        cohort_of(Panel(IDS, COLUMNS, pairs)).modality("mutations").table[:-2], values("none")[:-2]
    )


PANEL_FAULTS = {
    "row twice": (dict(rows=["a", "a"]), "duplicate row id 'a'"),
    "row without id": (dict(rows=["a", None]), "missing id in line 2"),
    "no columns": (dict(columns=[]), "no columns"),
    "column twice": (dict(columns=["x", "x"]), "duplicate column 'x'"),
    "pairs of three": (dict(pairs=[(0, 1, 1)]), r"\[active, 2\], got int64 of shape \[1, 3\]"),
    "pairs of floats": (dict(pairs=[(0.0, 1.0)]), "got float64"),
    "row too far": (dict(pairs=[(0, 0), (2, 0)]), "pair number 1 names row 2 of 2"),
    "column below": (dict(pairs=[(0, -1)]), "names column -1 of 2"),
    "assays alone": (dict(assays=["l", "l"]), "together"),
    "assay too many": (dict(assays=["l"] * 3, covered={"l": ["x"]}), r"per row \(2\), got shape \[3\]"),
    "unknown assay": (dict(assays=["l", "m"], covered={"l": ["x"]}), "row 'b' has assay 'm'"),
    "unknown column": (dict(assays=["l", "l"], covered={"l": ["x", "z"]}), "not there: 'z'"),
    "mask too short": (dict(assays=["l", "l"], covered={"l": np.array([True])}), r"mask of 2 columns, got shape \[1\]"),
    "not covered": (dict(pairs=[(1, 1)], assays=["l", "l"], covered={"l": ["x"]}), "row 'b' has a 1 in column 'y'"),
}


@pytest.mark.parametrize(("arguments", "message"), PANEL_FAULTS.values(), ids=PANEL_FAULTS)
def test_bad_panels(arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"rows": ["a", "b"], "columns": ["x", "y"], "pairs": [(0, 1)]}
    Panel(**good)
    with pytest.raises(DataError, match=message):
        Panel(**{**good, **arguments})


@pytest.mark.parametrize("form", ["dense", "sparse", "sparse gaps", "sparse ones"])
def test_other_values_are_named_by_row_and_column(form: str) -> None:
    table = values("assays")
    table[7, 4] = 0.5
    with pytest.raises(DataError, match="0, 1 or missing entries, got 0.5 in row 'p07', column 'gene 4'"):
        cohort_of(FORMS[form](table))


def test_a_panel_is_of_kind_panel_and_of_known_rows() -> None:
    with pytest.raises(DataError, match="kind 'panel', not 'vector'"):
        cohort_of(as_panel(values("none")), kind="vector")
    with pytest.raises(DataError, match="'mutations'.*without an outcome: 'nobody'"):
        cohort_of(Panel(["nobody"], ["x"], []))
    with pytest.raises(DataError, match="token groups"):
        Cohort.from_frames(
            {"m": as_panel(values("none"))}, outcomes(), time_unit="months", groups={"m": {"a": ["gene 1"]}}
        )


# ---- rows of a cohort


@pytest.mark.parametrize("gaps", GAPS)
def test_selections_are_those_of_the_table(gaps: str) -> None:
    table, modality = values(gaps), cohort_of(as_panel(values(gaps))).modality("mutations")
    for index in (np.array([58, 3, 0]), np.arange(ROWS)[::-1], np.arange(5, 50)):
        part = modality.select(index)
        np.testing.assert_array_equal(part.table, table[index])
        assert part.present.tolist() == modality.present[index].tolist()
        assert len(part.panel.coverage.packed) <= len(index)
    gone = np.arange(ROWS) % 2 == 0
    left = modality.without(gone)
    np.testing.assert_array_equal(left.table, np.where(gone[:, None], np.nan, table))
    assert left.present.tolist() == (modality.present & ~gone).tolist()
    assert left.missing_entries == np.isnan(table[left.present]).sum()
    np.testing.assert_array_equal(modality.value(1).numpy(), table[1])
    assert modality.shape(1) == (WIDTH,) and modality.shape(59) is None
    np.testing.assert_array_equal(modality.panel.coverage.column_counts(), (~np.isnan(table)).sum(axis=0))


def test_a_table_given_for_a_panel_is_held_by_its_ones() -> None:
    table = values("scattered")
    modality = Modality(ModalitySpec("m", "panel", WIDTH, tuple(COLUMNS)), ~np.isnan(table).all(axis=1), table)
    assert len(modality.panel.ones.columns) == (table == 1).sum()
    np.testing.assert_array_equal(modality.table, table)


# ---- folders


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("tables", ["parquet", "csv"])
def test_folders_give_panels_back(tmp_path: Path, tables: str, gaps: str) -> None:
    cohort = cohort_of(as_panel(values(gaps)))
    cohort.to_folder(tmp_path / "one", tables=tables)
    names = {file.name for file in (tmp_path / "one").iterdir() if file.name.startswith("mutations")}
    parts = {f"mutations.{part}.parquet" for part in ("active", "columns", "coverage")}
    assert names == (parts if tables == "parquet" else {"mutations.csv"})
    read = Cohort.from_folder(tmp_path / "one")
    assert read.fingerprint() == cohort.fingerprint()
    read.to_folder(tmp_path / "one", overwrite=True)
    assert Cohort.from_folder(tmp_path / "one").fingerprint() == cohort.fingerprint()


def test_a_panel_that_no_row_has_goes_to_disk_and_back(tmp_path: Path) -> None:
    cohort = cohort_of(as_panel(values("none"))).without("mutations")
    cohort.to_folder(tmp_path / "one")
    read = Cohort.from_folder(tmp_path / "one")
    assert read.fingerprint() == cohort.fingerprint() and read.modality("mutations").spec.width == WIDTH


def test_a_long_csv_has_one_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("survcore.data.sparse_values._WRITTEN_OUT", 7 * WIDTH)
    cohort = cohort_of(as_panel(values("assays")))
    cohort.to_folder(tmp_path / "one", tables="csv")
    assert Cohort.from_folder(tmp_path / "one").fingerprint() == cohort.fingerprint()


def test_a_dense_table_of_a_panel_is_still_read(tmp_path: Path) -> None:
    cohort = cohort_of(frame_of(values("assays")))
    cohort.to_folder(tmp_path / "one")
    for file in (tmp_path / "one").glob("mutations.*"):
        file.unlink()
    frame_of(values("assays"))[:-2].reset_index().to_parquet(tmp_path / "one" / "mutations.parquet")
    assert Cohort.from_folder(tmp_path / "one").fingerprint() == cohort.fingerprint()
    manifest = tmp_path / "one" / "cohort.toml"
    manifest.write_text(manifest.read_text().replace('kind = "panel"', 'kind = "panel"\nformat = "active"'))
    with pytest.raises(DataError, match="'mutations' is declared, but there is no mutations.active.parquet"):
        Cohort.from_folder(tmp_path / "one")


def _rows(**columns: Any) -> pyarrow.Table:
    good = {"row_id": ["p00", "p01"], "active": [[0, 20], []], "coverage": [0, 0]}
    return pyarrow.table({**good, **columns})


FILE_FAULTS: dict[str, tuple[str, pyarrow.Table | bytes | None, str]] = {
    "no names": ("columns", None, "columns.parquet: no such file"),
    "no patterns": ("coverage", None, "coverage.parquet: no such file"),
    "cut short": ("active", b"PAR1 and no more", r"active.parquet: cannot be read as parquet \(damaged"),
    "names cut short": ("columns", b"", r"columns.parquet: cannot be read as parquet \(damaged"),
    "no ones": ("active", _rows().drop_columns("active"), "no column 'active'; the columns are 'row_id', 'coverage'"),
    "ones of another type": ("active", _rows(active=["a", "b"]), "expected the columns row_id string, active"),
    "a null": ("active", _rows(coverage=[0, None]), "column 'coverage' has missing values"),
    "a null one": ("active", _rows(active=[[0, None], []]), "column 'active' has missing values"),
    "column too far": ("active", _rows(active=[[0], [21]]), "'active': 21 is none of the 21 of mutations.columns"),
    "column below": ("active", _rows(active=[[-1], []]), "'active': -1 is none of the 21"),
    "pattern too far": ("active", _rows(coverage=[0, 1]), "'coverage': 1 is none of the 1 of mutations.coverage"),
    "row twice": ("active", _rows(row_id=["p00", "p00"]), "duplicate row id 'p00'"),
    "unknown row": ("active", _rows(row_id=["p00", "who"]), "without an outcome: 'who'"),
    "empty id": ("active", _rows(row_id=["p00", ""]), "missing id in line 2"),
    "name twice": ("columns", pyarrow.table({"column": ["x"] * 21}), "duplicate column 'x'"),
    "without names": ("columns", pyarrow.table({"column": pyarrow.array([], pyarrow.string())}), "names no columns"),
    "gap too far": ("coverage", pyarrow.table({"missing": [[3, 21]]}), "'missing': 21 is none of the 21"),
    "a one in a gap": ("coverage", pyarrow.table({"missing": [[20]]}), "row 'p00' has a 1 in column 'gene 20', which"),
}


@pytest.mark.parametrize(("part", "content", "message"), FILE_FAULTS.values(), ids=FILE_FAULTS)
def test_damaged_files_of_a_panel(tmp_path: Path, part: str, content: Any, message: str) -> None:
    cohort_of(as_panel(values("none"))).to_folder(tmp_path / "one")
    pyarrow.parquet.write_table(_rows(), tmp_path / "one" / "mutations.active.parquet")
    Cohort.from_folder(tmp_path / "one")
    file = tmp_path / "one" / f"mutations.{part}.parquet"
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        pyarrow.parquet.write_table(content, file)
    with pytest.raises(DataError, match=message):
        Cohort.from_folder(tmp_path / "one")


def test_a_panel_stands_in_one_form_alone(tmp_path: Path) -> None:
    cohort_of(as_panel(values("none"))).to_folder(tmp_path / "one")
    frame_of(values("none")).reset_index().to_csv(tmp_path / "one" / "mutations.csv", index=False)
    with pytest.raises(DataError, match="both mutations.csv and mutations.active.parquet"):
        Cohort.from_folder(tmp_path / "one")


def test_a_panel_file_is_of_kind_panel(tmp_path: Path) -> None:
    cohort_of(as_panel(values("none"))).to_folder(tmp_path / "one")
    manifest = tmp_path / "one" / "cohort.toml"
    manifest.write_text(manifest.read_text().replace('kind = "panel"', 'kind = "vector"'))
    with pytest.raises(DataError, match="'mutations': a Panel is of kind 'panel', not 'vector'"):
        Cohort.from_folder(tmp_path / "one")


# ---- model input: a vector that is not scaled is the dense panel


def prepared_pair(table: np.ndarray, other: np.ndarray, *, imputes: bool, **settings: Any) -> tuple[Any, Any]:
    """Prepared cohorts of ``other`` as a panel and as a dense vector, each by what was fitted on ``table`` as such."""
    found = []
    for kind, data in (("panel", as_panel), ("vector", frame_of)):
        own = {"scale": "none", **settings}
        fitted = Preprocessor.fit(cohort_of(data(table), kind), {"modalities": {"mutations": own}}, imputes=imputes)
        fitted = Preprocessor.from_state(json.loads(json.dumps(fitted.state())))
        found.append(fitted.transform(cohort_of(data(other), kind)))
    return found[0], found[1]


def assert_same_batches(panel: Any, vector: Any) -> None:
    for rows in (None, [5, 3, 59, 40], [7]):
        mine, theirs = panel.batch(rows), vector.batch(rows)
        assert torch.equal(dense(mine.values["mutations"]), theirs.values["mutations"])
        assert torch.equal(mine.availability, theirs.availability)
        assert mine.observed.keys() == theirs.observed.keys()
        for name, mask in mine.observed.items():
            assert mask.dtype == torch.bool and torch.equal(mask, theirs.observed[name])
    assert panel.imputed["mutations"].tolist() == vector.imputed["mutations"].tolist()


@pytest.mark.parametrize("imputes", [True, False])
@pytest.mark.parametrize("impute", ["median", "mean"])
@pytest.mark.parametrize("gaps", GAPS)
def test_batches_of_a_panel_are_those_of_the_table(gaps: str, impute: str, imputes: bool) -> None:
    panel, vector = prepared_pair(values(gaps), values("scattered", seed=4), imputes=imputes, impute=impute)
    assert_same_batches(panel, vector)
    assert isinstance(panel.tables["mutations"], SparsePanel) == (not imputes or impute == "median")


def test_medians_of_ones_and_of_halves() -> None:
    """Columns whose training median is 1 stay sparse with ones filled in; a median of one half is no panel any more."""
    table = values("none")
    table[:-2, 0], table[:-2, 1] = 1, np.arange(ROWS - 2) % 2
    gap_in_ones, gap_in_halves = table.copy(), table.copy()
    gap_in_ones[4:9, 0] = np.nan
    gap_in_halves[4:9, :2] = np.nan
    for other, sparse in ((gap_in_ones, True), (gap_in_halves, False)):
        panel, vector = prepared_pair(table, other, imputes=True)
        assert_same_batches(panel, vector)
        assert isinstance(panel.tables["mutations"], SparsePanel) == sparse
        assert (dense(panel.tables["mutations"])[4:9, 0] == 1).all()


@pytest.mark.parametrize("own", [{"scale": "standard"}, {"scale": "minmax"}, {"transform": "signed_log"}])
def test_a_scaled_panel_is_a_tensor(own: dict[str, str]) -> None:
    panel, vector = prepared_pair(values("assays"), values("assays"), imputes=True, **own)
    assert_same_batches(panel, vector)
    assert isinstance(panel.tables["mutations"], SparsePanel) == (own == {"scale": "minmax"})


@pytest.mark.parametrize("imputes", [True, False])
def test_columns_are_found_by_name(imputes: bool) -> None:
    cohort = cohort_of(as_panel(values("assays")))
    fitted = Preprocessor.fit(cohort, imputes=imputes)
    expected = fitted.transform(cohort)
    turned = frame_of(values("assays"))[COLUMNS[::-1]]
    found = fitted.transform(cohort_of(turned))
    assert torch.equal(dense(found.tables["mutations"]), dense(expected.tables["mutations"]))
    short = cohort_of(turned.drop(columns=COLUMNS[2:5]))
    if imputes:
        with pytest.raises(DataError, match="3 missing: 'gene 2', 'gene 3', 'gene 4'"):
            fitted.transform(short)
    else:
        batch = fitted.transform(short).batch()
        table = values("assays")
        table[:, 2:5] = np.nan
        assert torch.equal(batch.observed["mutations"], torch.from_numpy(~np.isnan(table)))
        assert torch.equal(dense(batch.values["mutations"]), torch.from_numpy(np.nan_to_num(table)))


@pytest.mark.parametrize(("fitted_on", "given"), [("panel", "vector"), ("vector", "panel")])
def test_a_panel_and_a_vector_stand_in_for_each_other(fitted_on: str, given: str) -> None:
    settings = {"modalities": {"mutations": {"scale": "none"}}}
    table = frame_of(values("assays"))
    fitted = Preprocessor.fit(cohort_of(table, fitted_on), settings)
    found, expected = (fitted.transform(cohort_of(table, kind)) for kind in (given, fitted_on))
    assert torch.equal(dense(found.tables["mutations"]), dense(expected.tables["mutations"]))
    assert isinstance(found.tables["mutations"], torch.Tensor)


def test_a_cohort_without_the_panel_gets_rows_without_ones() -> None:
    cohort = cohort_of(as_panel(values("none")))
    prepared = Preprocessor.fit(cohort).transform(cohort.only(["age"]))
    assert prepared.tables["mutations"].shape == (ROWS, WIDTH)
    assert not prepared.batch().values["mutations"].dense().any() and not prepared.availability[:, 1].any()


# ---- columns that are 1 in too few training rows


def rare() -> tuple[Cohort, np.ndarray]:
    """A cohort and how often each column is 1 in it."""
    table = values("assays")
    return cohort_of(as_panel(table)), np.nansum(table, axis=0)


@pytest.mark.parametrize("settings", [{"least_active": 9}, {"modalities": {"mutations": {"least_active": 9}}}])
def test_columns_that_are_rarely_1_are_left_out(settings: dict[str, Any]) -> None:
    cohort, counts = rare()
    fitted = Preprocessor.from_state(json.loads(json.dumps(Preprocessor.fit(cohort, settings).state())))
    often = counts >= 9
    assert 0 < often.sum() < WIDTH and fitted.inputs[1].width == often.sum()
    names = np.array(COLUMNS)
    assert fitted.specs["mutations"].columns == tuple(names[often])
    assert fitted.tables["mutations"].ignored == tuple(names[~often])
    prepared = fitted.transform(cohort)
    expected = np.nan_to_num(values("assays")[:, often])
    filled = prepared.imputed["mutations"] > 0
    np.testing.assert_array_equal(dense(prepared.tables["mutations"])[~filled], expected[~filled])
    part = Preprocessor.fit(cohort.select(np.arange(30)), settings)
    assert part.inputs[1].width == (np.nansum(values("assays")[:30], axis=0) >= 9).sum() < often.sum()


def test_columns_left_out_are_known_and_others_are_not() -> None:
    cohort, counts = rare()
    fitted = Preprocessor.fit(cohort, {"least_active": 9})
    kept = frame_of(values("none"))[[column for column, count in zip(COLUMNS, counts, strict=True) if count >= 9]]
    without, having = (fitted.transform(cohort_of(frame)) for frame in (kept, frame_of(values("none"))))
    assert torch.equal(dense(without.tables["mutations"]), dense(having.tables["mutations"]))
    with pytest.raises(DataError, match="1 unexpected: 'gene X'"):
        fitted.transform(cohort_of(frame_of(values("none")).assign(**{"gene X": 0})))


def test_a_row_with_nothing_but_columns_left_out_lacks_the_panel() -> None:
    cohort, counts = rare()
    table = values("none")
    table[3, counts >= 9] = np.nan
    prepared = Preprocessor.fit(cohort, {"least_active": 9}).transform(cohort_of(frame_of(table)))
    assert prepared.availability[:5, 1].tolist() == [True, True, True, False, True]
    assert prepared.imputed["mutations"][3] == 0


def test_patients_may_have_columns_left_out() -> None:
    cohort, counts = rare()
    for imputes in (True, False):
        fitted = Preprocessor.fit(cohort, {"least_active": 9}, imputes=imputes)
        expected = fitted.transform(cohort_of(frame_of(values("none")))).batch([0, 1])
        lines = [dict(zip(COLUMNS, map(int, line), strict=True)) for line in values("none")[:2]]
        read = read_records(fitted, [{"row_id": IDS[0], "mutations": lines[0]}, {"mutations": pd.Series(lines[1])}])
        table = read_table(
            fitted, pd.DataFrame([{f"mutations.{name}": entry for name, entry in line.items()} for line in lines])
        )
        bare = read_table(fitted, pd.DataFrame(lines))
        for found in (read, table, bare):
            assert not found.errors
            batch = fitted.transform(found.cohort).batch()
            assert isinstance(batch.values["mutations"], SparsePanel)
            assert torch.equal(dense(batch.values["mutations"]), dense(expected.values["mutations"]))
        unknown = read_records(fitted, [{"mutations": {**lines[0], "gene X": 1}}])
        assert "unknown column 'gene X'" in unknown.errors[0]
        with pytest.raises(DataError, match="gene X"):
            read_table(fitted, pd.DataFrame(lines).assign(**{"gene X": 1}))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"least_active": 59}, DataError, "'mutations': none of its 21 columns is 1 in least_active = 59"),
        ({"least_active": -1}, ValueError, "least_active must be a whole number of at least 0, got -1"),
        ({"least_active": 2.5}, ValueError, "least_active must be a whole number"),
        ({"modalities": {"mutations": {"least_active": "9"}}}, ValueError, "least_active must be a whole number"),
        ({"modalities": {"age": {"least_active": 9}}}, ValueError, "'age' holds a table and takes.*'least_active'"),
    ],
)
def test_bad_values_of_least_active(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Preprocessor.fit(rare()[0], settings)


def test_states_without_columns_left_out_are_read() -> None:
    cohort, _ = rare()
    state = Preprocessor.fit(cohort).state()
    del state["settings"]["least_active"]
    for table in state["tables"].values():
        del table["ignored"]
    fitted = Preprocessor.from_state(state)
    assert torch.equal(
        dense(fitted.transform(cohort).tables["mutations"]),
        dense(Preprocessor.fit(cohort).transform(cohort).tables["mutations"]),
    )


# ---- systems


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MUST on a panel with columns left out, trained for an epoch."""
    out = tmp_path_factory.mktemp("must")
    stages: dict[str, dict[str, int]] = {stage: {"epochs": 1} for stage in ("warm_up", "joint", "diffusion")}
    stages["diffusion"]["steps_per_epoch"] = 3
    size = {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1}
    changes = {"model": size, "stages": stages, "preprocess": {"least_active": 9}}
    survcore.fit("must", rare()[0], quick=True, changes=changes, out=out, show_progress=False)
    return out


@pytest.fixture(scope="module")
def predictor(folder: Path) -> survcore.Predictor:
    return survcore.load(folder, "cpu", "float32")


def test_must_predicts_the_same_from_every_form(predictor: survcore.Predictor) -> None:
    table = values("none")
    asked = {"draws": 2, "steps": 3}
    expected = predictor.predict(cohort_of(as_panel(table)), **asked)
    assert expected["risk"].notna().all() and expected["risk"].std() > 0
    records = [
        {"row_id": row, "age": {"age": 1.5 * number}}
        | ({} if np.isnan(line).all() else {"mutations": dict(zip(COLUMNS, line.tolist(), strict=True))})
        for number, (row, line) in enumerate(zip(IDS, table, strict=True))
    ]
    for patients in (cohort_of(frame_of(table)), cohort_of(as_sparse(table)), records):
        pd.testing.assert_frame_equal(predictor.predict(patients, **asked), expected)


def test_must_encodes_a_sparse_panel_as_its_table(predictor: survcore.Predictor) -> None:
    batch = predictor.preprocessor.transform(cohort_of(as_panel(values("none")))).batch()
    assert isinstance(batch.values["mutations"], SparsePanel)
    written_out = replace(batch, values={name: dense(value) for name, value in batch.values.items()})
    with torch.inference_mode():
        sparse, table = (predictor.system.encode(rows).parts for rows in (batch, written_out))
    assert sparse.keys() == table.keys() and all(torch.equal(sparse[name], table[name]) for name in sparse)


def test_the_model_card_tells_of_columns_left_out(folder: Path, predictor: survcore.Predictor) -> None:
    left_out = len(predictor.preprocessor.tables["mutations"].ignored)
    assert left_out and f"least active 9, columns left out {left_out}" in model_card(read_facts(folder))


def test_made_up_patients_have_sparse_panels() -> None:
    inputs = (
        SimpleNamespace(name="m", kind="panel", width=30, groups=()),
        SimpleNamespace(name="v", kind="vector", width=2, groups=()),
    )
    whole, without_panel, without_vector = (
        batch.values["m"] for batch in made_up_patients(SimpleNamespace(inputs=inputs))
    )
    assert whole.shape == (1, 30) and 0 < len(whole.columns) < 10
    assert not len(without_panel.columns) and len(without_vector.columns)


def test_the_cache_of_encodings_sees_the_panel() -> None:
    bag = torch.ones(3, 2)
    panel = SparsePanel.from_dense(torch.eye(3)[[0, 1, 0]])
    batch = Batch(torch.arange(3), torch.ones(3, 2, dtype=torch.bool), {"bag": Bags.of([bag] * 3), "m": panel})
    asked: list[list[float]] = []

    def encode(rows: Batch) -> Encoded:
        asked.append(dense(rows.values["m"])[0].tolist())
        return Encoded({"m": dense(rows.values["m"])}, rows.availability, rows.row_key)

    found = EncodingCache(8).encode(batch, encode, "weights")
    assert asked == [[1, 0, 0], [0, 1, 0]]
    assert torch.equal(found.parts["m"], panel.dense())


# ---- memory


def test_large_panels_take_few_bytes(tmp_path: Path) -> None:
    """100,000 patients with 13 of 1,165 columns, 466 MB as a table, at every step from the caller to the batch."""
    rows, width, active = 100_000, 1165, 13
    random = np.random.default_rng(0)
    pairs = np.stack((np.repeat(np.arange(rows), active), random.integers(0, width, rows * active)), axis=1)
    covered = {"small": [f"c{column}" for column in range(500)], "large": [f"c{column}" for column in range(width)]}
    assays = np.where(random.uniform(size=rows) < 0.5, "small", "large")
    pairs = pairs[(assays[pairs[:, 0]] == "large") | (pairs[:, 1] < 500)]
    ids = np.arange(rows).astype(str)
    panel = Panel(ids, covered["large"], pairs, assays=assays, covered=covered)
    cohort = Cohort.from_frames({"mutations": panel}, None)
    most = 4 * rows * active + 12 * rows + 10_000
    cohort.to_folder(tmp_path / "one")
    read = Cohort.from_folder(tmp_path / "one")
    for held in (cohort, read, read.select(np.arange(rows)[::-1])):
        assert held.modality("mutations").panel.nbytes < most
    assert sum(file.stat().st_size for file in (tmp_path / "one").glob("mutations.*")) < most
    shutil.rmtree(tmp_path / "one")
    prepared = Preprocessor.fit(read, {"least_active": 10}, imputes=False).transform(read)
    ones, mask = prepared.tables["mutations"], prepared.observed["mutations"]
    assert ones.columns.nbytes + ones.offsets.nbytes + mask.numbers.nbytes + mask.packed.nbytes < most
    batch = prepared.batch(torch.arange(0, rows, 400))
    assert batch.observed["mutations"].shape == batch.values["mutations"].shape == (250, width)
