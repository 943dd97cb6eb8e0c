"""Patients for prediction out of records and tables: what is read, and whose error bad input is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from survcore.batch import dense
from survcore.data import Cohort, Preprocessor
from survcore.data.messages import nearest, nearest_listed
from survcore.errors import DataError
from survcore.inference.patients import Patients, read_records, read_table

RNA = ["TP53", "KRAS", "EGFR", "x"]
BLOOD = ["x", "y", "z"]
GENES = ["mut_a", "mut_b"]


@pytest.fixture(scope="module")
def training() -> Cohort:
    """Every kind of modality."""
    generator = np.random.default_rng(0)
    ids = [f"t{number}" for number in range(12)]

    def frame(columns: list[str]) -> pd.DataFrame:
        return pd.DataFrame(generator.normal(5, 2, (12, len(columns))), index=ids, columns=columns)

    def arrays(*shape: int) -> dict[str, np.ndarray]:
        return {row: generator.normal(size=shape).astype(np.float32) for row in ids}

    return Cohort.from_frames(
        {
            "rna": frame(RNA),
            "blood": frame(BLOOD),
            "panel": (frame(GENES) > 5).astype(int),
            "emb": arrays(3),
            "slide": arrays(7, 4),
            "parts": arrays(2, 5),
            "scan": arrays(1, 2, 4, 4),
            "note": dict.fromkeys(ids, "a text"),
        },
        pd.DataFrame({"time": np.arange(1.0, 13), "event": [1, 0] * 6}, index=ids),
        time_unit="months",
        kinds={"rna": "tokens", "panel": "panel", "emb": "embedding", "parts": "tokens", "scan": "images"},
        groups={"rna": {"one": ["TP53", "KRAS"], "two": ["EGFR", "x"]}},
    )


@pytest.fixture(scope="module")
def imputing(training: Cohort) -> Preprocessor:
    return Preprocessor.fit(training)


@pytest.fixture(scope="module")
def masking(training: Cohort) -> Preprocessor:
    """Of a model that takes missing entries."""
    return Preprocessor.fit(training, imputes=False)


def record(training: Cohort, row: int) -> dict[str, Any]:
    """A patient of the cohort as JSON gives it."""
    found: dict[str, Any] = {"row_id": str(training.row_ids[row])}
    for name, modality in training.modalities.items():
        value = modality.value(row)
        if modality.spec.is_table:
            found[name] = dict(zip(modality.spec.columns, value.tolist(), strict=True))
        else:
            found[name] = value if isinstance(value, str) else value.tolist()
    return json.loads(json.dumps(found))


@pytest.fixture
def whole(training: Cohort) -> dict[str, Any]:
    return record(training, 3)


def only_error(patients: Patients, position: int = 0) -> str:
    assert list(patients.errors) == [position], patients.errors
    return patients.errors[position]


def value(patients: Patients, name: str, row: int = 0) -> list[float]:
    return patients.cohort.modality(name).table[row].tolist()


def test_records_of_a_cohort_are_the_cohort(training: Cohort, imputing: Preprocessor) -> None:
    patients = read_records(imputing, (record(training, row) for row in range(12)))
    assert not patients.errors and len(patients) == 12
    assert patients.row_ids.tolist() == patients.cohort.row_ids.tolist() == training.row_ids.tolist()
    assert patients.cohort.availability.all() and list(patients.cohort.modalities) == list(training.modalities)
    mine, expected = imputing.transform(patients.cohort), imputing.transform(training)
    for name, table in expected.tables.items():
        assert torch.equal(dense(mine.tables[name]), dense(table))
    one, two = mine.batch([4]), expected.batch([4])
    for name in ("parts", "scan"):
        assert torch.equal(one.values[name], two.values[name])
    assert torch.equal(one.values["slide"][0], two.values["slide"][0])
    assert patients.cohort.modality("note").value(0) == "a text"


@pytest.mark.parametrize(
    ("row_id", "expected"), [("a", "a"), (7, "7"), (np.int64(7), "7"), (None, "row 5"), (" ", "row 5"), ("007", "007")]
)
def test_row_ids(row_id: Any, expected: str, whole: dict[str, Any], imputing: Preprocessor) -> None:
    patients = read_records(imputing, [{**whole, "row_id": row_id}], first=4)
    assert patients.row_ids.tolist() == patients.cohort.row_ids.tolist() == [expected]


@pytest.mark.parametrize("row_id", [True, 1.5, ["a"], {}])
def test_row_ids_that_are_none(row_id: Any, whole: dict[str, Any], imputing: Preprocessor) -> None:
    patients = read_records(imputing, [{**whole, "row_id": row_id}])
    assert "row_id" in only_error(patients) and patients.row_ids.tolist() == ["row 1"] and patients.cohort is None


def test_a_patient_id_is_a_label(whole: dict[str, Any], imputing: Preprocessor) -> None:
    patients = read_records(imputing, [{**whole, "patient_id": 12}, {**whole, "row_id": "b"}])
    assert patients.cohort.patient_ids.tolist() == ["12", "b"]


def test_ways_to_write_a_table(whole: dict[str, Any], imputing: Preprocessor) -> None:
    entries = whole["rna"]
    numbers = list(entries.values())
    ways = [
        dict(reversed(entries.items())),
        numbers,
        tuple(numbers),
        [numbers],
        np.array(numbers),
        np.array([numbers]),
        torch.tensor(numbers, dtype=torch.float64),
        pd.Series(entries)[::-1],
    ]
    patients = read_records(imputing, [{"row_id": place, "rna": way} for place, way in enumerate([entries, *ways])])
    assert not patients.errors
    for row in range(len(ways) + 1):
        assert value(patients, "rna", row) == value(patients, "rna")
    assert list(patients.cohort.modalities) == ["rna"]


def test_nothing_but_missing_entries_is_no_modality(whole: dict[str, Any], imputing: Preprocessor) -> None:
    gaps = {
        "rna": dict.fromkeys(RNA), "blood": [None, float("nan"), None], "panel": {}, "slide": None,
        "parts": [[None] * 5], "scan": " ", "note": "",
    }  # fmt: skip
    patients = read_records(imputing, [{**whole, **gaps}, {**whole, **gaps, "row_id": "none", "emb": None}])
    assert list(patients.cohort.modalities) == ["emb"]
    assert "'none': no modality is there" in only_error(patients, 1)


@pytest.mark.parametrize("gap", [None, float("nan"), np.float32("nan")])
def test_a_single_missing_entry(gap: Any, whole: dict[str, Any], imputing: Preprocessor, masking: Preprocessor) -> None:
    whole["rna"]["KRAS"] = gap
    for preprocessor in (imputing, masking):
        patients = read_records(preprocessor, [whole])
        assert np.isnan(patients.cohort.modality("rna").table[0]).tolist() == [False, True, False, False]
    assert imputing.transform(patients.cohort).imputed["rna"].tolist() == [1]
    assert masking.transform(patients.cohort).observed["rna"].tolist() == [[True, False, True, True]]


def test_a_missing_column_is_a_missing_entry_where_the_model_takes_such(
    whole: dict[str, Any], imputing: Preprocessor, masking: Preprocessor
) -> None:
    del whole["rna"]["KRAS"], whole["rna"]["x"]
    assert "2 of the model's 4 columns are missing: 'KRAS', 'x'" in only_error(read_records(imputing, [whole]))
    patients = read_records(masking, [whole])
    assert np.isnan(value(patients, "rna")).tolist() == [False, True, False, True]
    assert masking.transform(patients.cohort).observed["rna"].tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"rna": {"TP35": 1.0}}, ["'rna'", "unknown column 'TP35'", "'TP53'"]),
        ({"rna": {"tp53": 1.0}}, ["unknown column 'tp53' (nearest: 'TP53')"]),
        ({"blood": [1.0, 2.0]}, ["'blood'", "3 columns, got 2"]),
        ({"emb": 7}, ["'emb'", "array of 3 numbers, got 7"]),
        ({"rna": "rna.npy"}, ["'rna'", "got 'rna.npy'"]),
        ({"blood": ["1.5", 2, 3]}, ["'blood', column 'x'", "a number, got '1.5'"]),
        ({"blood": [1, True, 3]}, ["'blood', column 'y'", "got True"]),
        ({"blood": [1, 2, [3]]}, ["'blood', column 'z'", "got [3]"]),
        ({"blood": [1, 2, float("inf")]}, ["'blood', column 'z'", "got inf"]),
        ({"blood": [1, 2, 1e300]}, ["'blood', column 'z'", "got 1e+300"]),
        ({"blood": [1, 2, -(10**400)]}, ["'blood', column 'z'", "finite"]),
        ({"blood": np.array([True, False, True])}, ["'blood', column 'x'", "got True"]),
        ({"blood": np.array(["a", "b", "c"])}, ["'blood', column 'x'", "got 'a'"]),
        ({"panel": {"mut_a": 1, "mut_b": 2}}, ["'panel', column 'mut_b'", "0, 1", "got 2"]),
        ({"bloood": [1, 2, 3]}, ["unknown 'bloood' (nearest: 'blood')"]),
        ({"time": 3.0}, ["unknown 'time'"]),
        ({"note": 3}, ["'note'", "text, got 3"]),
        ({"slide": [[1.0, 2.0]]}, ["'slide'", "width 4, got 2"]),
        ({"slide": [1.0, 2.0]}, ["'slide'", "shape [N, width]"]),
        ({"slide": []}, ["'slide'", "[0]"]),
        ({"slide": [[1, 2, 3, 4], [1]]}, ["'slide'", "one length"]),
        ({"slide": [[1, 2, 3, "4"]]}, ["'slide'", "expected numbers"]),
        ({"slide": [[1, 2, None, {}]]}, ["'slide'", "expected numbers, got {}"]),
        ({"slide": [[1, 2, 3, float("inf")]]}, ["'slide'", "infinite"]),
        ({"slide": 5}, ["'slide'"]),
        ({"slide": {"coords": [[1, 2]]}}, ["'slide'", "'features'"]),
        ({"slide": {"features": [[1, 2, 3, 4]], "coords": [[1, 2], [3, 4]]}}, ["'slide'", "coords must be"]),
        ({"slide": "nowhere.h5"}, ["'slide'", "nowhere.h5", "no such file"]),
        ({"slide": "slide.tiff"}, ["'slide'", "slide.tiff", "unknown array file type"]),
    ],
)
def test_what_is_wrong_with_one_patient(
    change: dict[str, Any], parts: list[str], whole: dict[str, Any], imputing: Preprocessor
) -> None:
    good = [{**copy.deepcopy(whole), "row_id": name} for name in ("before", "after")]
    patients = read_records(imputing, [good[0], {**whole, "row_id": "bad", **change}, good[1]])
    message = only_error(patients, 1)
    for part in ["'bad'", *parts]:
        assert part in message
    assert patients.row_ids.tolist() == ["before", "bad", "after"]
    assert patients.cohort.row_ids.tolist() == ["before", "after"]
    assert patients.cohort.availability.all()


@pytest.mark.parametrize("thing", [None, 5, "text", [1, 2], np.zeros(3)])
def test_what_is_no_record(thing: Any, whole: dict[str, Any], imputing: Preprocessor) -> None:
    patients = read_records(imputing, [thing, whole])
    assert only_error(patients).startswith("row 1: expected an object")
    assert patients.cohort.row_ids.tolist() == ["t3"]


def test_an_error_stands_for_a_patient(whole: dict[str, Any], imputing: Preprocessor) -> None:
    patients = read_records(imputing, [whole, DataError("line 2 is torn")])
    assert patients.errors == {1: "line 2 is torn"} and patients.row_ids.tolist() == ["t3", "row 2"]


def test_the_later_of_two_row_ids_is_the_error(whole: dict[str, Any], imputing: Preprocessor) -> None:
    records = [whole, {**whole, "row_id": "other"}, whole]
    assert "duplicate row id 't3'" in only_error(read_records(imputing, records), 2)


def test_one_name_for_two_columns(whole: dict[str, Any], imputing: Preprocessor) -> None:
    patients = read_records(imputing, [{"emb": {"0": 1.0, 0: 2.0, "1": 1.0, "2": 1.0}}])
    assert "given twice: column '0'" in only_error(patients)


def test_nobody_is_nobody(imputing: Preprocessor) -> None:
    patients = read_records(imputing, [])
    assert len(patients) == 0 and not patients.errors and patients.cohort is None


def test_arrays_from_files_and_memory(
    training: Cohort, whole: dict[str, Any], imputing: Preprocessor, tmp_path: Path
) -> None:
    bag = training.modality("slide").value(3)
    np.save(tmp_path / "slide.npy", bag.numpy())
    coords = [[0, number] for number in range(7)]
    ways = [
        "slide.npy",
        tmp_path / "slide.npy",
        bag,
        bag.numpy(),
        {"features": bag.tolist(), "coords": coords},
        {"features": bag, "coords": np.array(coords)},
    ]
    patients = read_records(imputing, [{"row_id": str(n), "slide": way} for n, way in enumerate(ways)], folder=tmp_path)
    assert not patients.errors
    slide = patients.cohort.modality("slide")
    for row in range(len(ways)):
        assert torch.equal(slide.value(row), bag)
    assert slide.coords(0) is None and slide.coords(4).tolist() == slide.coords(5).tolist() == coords


def test_null_in_nested_lists_is_a_missing_entry(whole: dict[str, Any], imputing: Preprocessor) -> None:
    whole["slide"][2][1] = None
    bag = read_records(imputing, [whole]).cohort.modality("slide").value(0)
    assert bag.isnan().nonzero().tolist() == [[2, 1]]


def test_a_damaged_file_is_one_patients_error(whole: dict[str, Any], imputing: Preprocessor, tmp_path: Path) -> None:
    (tmp_path / "slide.h5").write_bytes(b"not HDF5")
    np.save(tmp_path / "narrow.npy", np.ones((3, 2), np.float32))
    records = [{**whole, "row_id": name, "slide": name} for name in ("slide.h5", "narrow.npy")]
    patients = read_records(imputing, [*records, whole], folder=tmp_path)
    assert "patient 'slide.h5', modality 'slide'" in patients.errors[0] and "damaged" in patients.errors[0]
    assert "width 4, got 2" in patients.errors[1]
    assert patients.cohort.row_ids.tolist() == ["t3"]


def as_table(training: Cohort, folder: Path) -> pd.DataFrame:
    """The cohort as one line per patient, arrays in files."""
    frame = pd.DataFrame({"row_id": training.row_ids})
    for name, modality in training.modalities.items():
        if modality.spec.is_table:
            for place, column in enumerate(modality.spec.columns):
                frame[f"{name}.{column}"] = modality.table[:, place]
        elif modality.spec.kind == "text":
            frame[name] = modality.items
        else:
            for row, row_id in enumerate(training.row_ids):
                np.save(folder / f"{name}_{row_id}.npy", modality.value(row).numpy())
            frame[name] = [f"{name}_{row_id}.npy" for row_id in training.row_ids]
    return frame


@pytest.fixture
def table(training: Cohort, tmp_path: Path) -> pd.DataFrame:
    return as_table(training, tmp_path)


def test_a_table_of_a_cohort_is_the_cohort(
    training: Cohort, table: pd.DataFrame, imputing: Preprocessor, tmp_path: Path
) -> None:
    renamed = {f"rna.{column}": column for column in RNA[:3]} | {f"blood.{column}": column for column in BLOOD[1:]}
    for frame in (table, table.rename(columns=renamed), table[table.columns[::-1]], table.set_index("row_id")):
        patients = read_table(imputing, frame, folder=tmp_path)
        assert not patients.errors and patients.row_ids.tolist() == training.row_ids.tolist()
        mine, expected = imputing.transform(patients.cohort), imputing.transform(training)
        for name, values in expected.tables.items():
            assert torch.equal(dense(mine.tables[name]), dense(values))
        assert torch.equal(mine.batch([2]).values["slide"][0], expected.batch([2]).values["slide"][0])
        assert patients.cohort.modality("note").value(0) == "a text"


def test_rows_of_a_table_are_counted_where_they_have_no_id(table: pd.DataFrame, imputing: Preprocessor) -> None:
    blood = table[["blood.x", "blood.y", "blood.z"]].iloc[2:4]
    assert read_table(imputing, blood).row_ids.tolist() == ["row 1", "row 2"]
    blood.insert(0, "row_id", [5.0, np.nan])
    assert read_table(imputing, blood).row_ids.tolist() == ["5", "row 2"]


def test_bad_cells_are_errors_of_their_line(
    training: Cohort, table: pd.DataFrame, masking: Preprocessor, tmp_path: Path
) -> None:
    table = table.astype({name: object for name in table.columns if name.endswith((".y", ".z", "_a", "_b"))})
    table.loc[1, "blood.y"] = "high"
    table.loc[2, "rna.TP53"] = np.inf
    table.loc[3, "panel.mut_a"] = 3
    table.loc[4, "slide"] = "nowhere.npy"
    table.loc[5, "row_id"] = "t0"
    table.loc[6, "blood.z"] = pd.Timestamp("2020-01-01")
    table.loc[7, "note"] = np.nan
    table.loc[8, [f"blood.{column}" for column in BLOOD]] = [np.nan, "", "NA"]
    table.loc[9, "blood.y"] = None
    table.loc[10, "blood.y"] = " 4.5 "
    table.loc[11, "blood.z"] = True
    patients = read_table(masking, table, folder=tmp_path)
    assert sorted(patients.errors) == [1, 2, 3, 4, 5, 6, 11]
    for row, parts in {
        1: ["'t1'", "'blood'", "'y'", "a number, got 'high'"],
        2: ["'t2'", "'rna'", "'TP53'", "inf"],
        3: ["'t3'", "'panel'", "'mut_a'", "got 3"],
        4: ["'t4'", "'slide'", "nowhere.npy"],
        5: ["duplicate row id 't0'"],
        6: ["'t6'", "'z'", "a number, got Timestamp"],
        11: ["'t11'", "'z'", "got True"],
    }.items():
        for part in parts:
            assert part in patients.errors[row]
    kept = patients.cohort.row_ids.tolist()
    assert kept == ["t0", "t7", "t8", "t9", "t10"]
    assert patients.cohort.modality("note").present.tolist() == [True, False, True, True, True]
    blood = patients.cohort.modality("blood")
    assert blood.present.tolist() == [True, True, False, True, True]
    assert np.isnan(blood.table[3, 1]) and blood.table[4, 1] == 4.5
    assert blood.table[0].tolist() == training.modality("blood").table[0].tolist()


def test_a_column_of_true_and_false_is_a_panels_alone(imputing: Preprocessor) -> None:
    frame = pd.DataFrame({"mut_a": [True, False], "mut_b": [True, None], "blood.x": [1, 2], "y": [1, 2], "z": [1, 2]})
    patients = read_table(imputing, frame)
    np.testing.assert_array_equal(patients.cohort.modality("panel").table, [[1, 1], [0, np.nan]])
    patients = read_table(imputing, frame.assign(y=[True, False]))
    assert sorted(patients.errors) == [0, 1] and patients.cohort is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TP35": 1.0}, r"does not know 1 of .*'TP35' \(nearest: 'TP53'"),
        ({"blod.y": 1.0}, r"'blod\.y' \(nearest: 'blood\.y'"),
        ({"event": 1}, "'event'"),
        ({"x": 1.0}, "several.*'rna.x', 'blood.x'"),
        ({"TP53": 1.0}, "'rna.TP53' and 'TP53' mean the same"),
        ({"rna.TP53": None}, "'rna': 1 of the model's 4 columns are missing: 'TP53'"),
    ],
)
def test_a_header_concerns_everybody(
    change: dict[str, Any], message: str, table: pd.DataFrame, imputing: Preprocessor
) -> None:
    gone = [name for name, cell in change.items() if cell is None]
    frame = table.drop(columns=gone).assign(**{name: cell for name, cell in change.items() if cell is not None})
    with pytest.raises(DataError, match=message):
        read_table(imputing, frame)


def test_columns_that_are_duplicate(table: pd.DataFrame, imputing: Preprocessor) -> None:
    with pytest.raises(DataError, match="duplicate column 'row_id'"):
        read_table(imputing, pd.concat([table, table[["row_id"]]], axis=1))


def test_columns_that_a_table_lacks(table: pd.DataFrame, imputing: Preprocessor, masking: Preprocessor) -> None:
    frame = table[["row_id", "rna.TP53", "rna.x"]]
    patients = read_table(masking, frame)
    assert list(patients.cohort.modalities) == ["rna"]
    assert np.isnan(value(patients, "rna")).tolist() == [False, True, True, False]
    assert list(read_table(imputing, table[["row_id", "emb.0", "emb.1", "emb.2"]]).cohort.modalities) == ["emb"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TP35", "'TP35' (nearest: 'TP53')"),
        ("kras", "'kras' (nearest: 'KRAS')"),
        ("time", "'time'"),
        ("K" * 100_000, f"{'K' * 100_000!r}"),
    ],
)
def test_nearest_names(name: str, expected: str) -> None:
    assert nearest(name, ["TP53", "KRAS", "EGFR"]) == expected


def test_nearest_names_are_few() -> None:
    names = [f"GENE{number}" for number in range(50)]
    assert nearest("GENE", names).count("'GENE") == 4
    assert nearest_listed(["a", "b", "c", "d"], names, 2) == "'a', 'b' and 2 more"
