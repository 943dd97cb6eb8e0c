from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from survcore.data import Cohort, Preprocessor
from survcore.data.prepare_prefixed import prepare_prefixed
from survcore.errors import DataError

OUTCOME = {"time": "days", "event": "status", "time_unit": "days"}


@pytest.mark.parametrize(
    ("file", "widths", "events"),
    [
        ("BLCA", {"mRNA": 76, "CNA": 7, "meth": 3, "miRNA": 4, "RPPA": 4, "clinical": 6}, 149),
        ("PAAD", {"mRNA": 50, "CNA": 21, "meth": 20, "miRNA": 3, "clinical": 6}, 85),
    ],
)
def test_survmob_has_the_modalities_of_its_readme(real_data, file, widths, events, tmp_path):
    path = real_data("tcga_survmob_multiomics") / f"{file}_task_multimodal.csv.gz"
    cohort, facts = prepare_prefixed(
        path, time="time", event="status", time_unit="days", modalities=list(widths)[:-1], others="clinical"
    )
    assert {name: modality.spec.width for name, modality in cohort.modalities.items()} == widths
    table = pd.read_csv(path)
    assert len(cohort) == len(table) and cohort.endpoint().event.sum() == events
    assert cohort.availability.all() and cohort.row_ids[:2].tolist() == ["1", "2"]
    np.testing.assert_allclose(cohort.endpoint().time, table["time"] / 30.4375)
    for modality in cohort.modalities.values():
        expected = table[list(modality.spec.columns)].to_numpy(np.float32)
        np.testing.assert_array_equal(modality.table, expected)
    assert any("numbered 1 to" in fact for fact in facts)
    cohort.to_folder(tmp_path / "folder")
    assert Cohort.from_folder(tmp_path / "folder").fingerprint() == cohort.fingerprint()


@pytest.fixture
def small(tmp_path):
    """Six patients: one without RNA, one without outcome, one without any modality; text, numbers and 0/1 columns."""
    table = pd.DataFrame(
        {
            "who": ["007", "B", "C", "D", "E", "F"],
            "days": [10, 20, 30, 40, np.nan, 60],
            "status": [1, 0, 1, 0, 1, 1],
            "rna.G1.x": [0.5, np.nan, 1.5, 2.5, 3.5, np.nan],
            "mut.G1": [0, 1, np.nan, 1, 0, np.nan],
            "rna.G2": [5000.0, np.nan, np.nan, 1.0, 2.0, np.nan],
            "mut.G2": [1, 1, 0, 0, 0, np.nan],
            "age": [50, 60, 70, np.nan, 80, np.nan],
            "stage.old": ["I", "II", None, "I", "III", None],
        }
    )
    path = tmp_path / "small.v1.csv"
    table.to_csv(path, index=False)
    return path


def edit(path, change) -> None:
    change(pd.read_csv(path, dtype={"who": str})).to_csv(path, index=False)


def test_a_small_table_by_hand(small):
    cohort, facts = prepare_prefixed(small, **OUTCOME, id="who", modalities=["rna", "mut"], others="clinical")
    assert cohort.row_ids.tolist() == ["007", "B", "C", "D"] and cohort.name == "small"
    assert cohort.endpoint("primary").event.tolist() == [1, 0, 1, 0]
    assert [modality.spec.kind for modality in cohort.modalities.values()] == ["vector", "panel", "vector"]
    assert cohort.modalities["rna"].spec.columns == ("rna.G1.x", "rna.G2")
    assert cohort.modalities["rna"].present.tolist() == [True, False, True, True]
    clinical = cohort.modalities["clinical"]
    assert clinical.spec.columns == ("age", "stage.old=I", "stage.old=II", "stage.old=III")
    nothing = [np.nan] * 3
    np.testing.assert_array_equal(clinical.table, [[50, 1, 0, 0], [60, 0, 1, 0], [70, *nothing], [np.nan, 1, 0, 0]])
    text = "\n".join(facts)
    for said in (
        "columns: rna 2, mut 2, clinical 2",
        "clinical: text as one 0/1 column per value: stage.old (I, II, III)",
        "rna: values from 0.5 to 5000 as they stand",
        "1 row without outcome left out: 'E'",
        "1 row without modality left out: 'F'",
    ):
        assert said in text
    Preprocessor.fit(cohort).transform(cohort)


def test_by_default_every_prefix_is_a_modality(small):
    cohort, facts = prepare_prefixed(small, **OUTCOME, log=["rna"])
    assert list(cohort.modalities) == ["rna", "mut", "stage"]
    assert cohort.modalities["rna"].spec.transform == "signed_log"
    assert cohort.row_ids.tolist() == ["1", "2", "3", "4"]
    assert any("2 columns of no modality not read: 'who', 'age'" in fact for fact in facts)
    assert not any("as they stand;" in fact for fact in facts)


def test_censoring_in_words(small):
    edit(small, lambda table: table.assign(status=["dead", "alive", "dead", "alive", "dead", "dead"]))
    cohort, _ = prepare_prefixed(small, **OUTCOME, modalities=["rna", "mut"], censored_value="alive")
    assert cohort.endpoint().event.tolist() == [1, 0, 1, 0]


def test_parquet_and_another_separator(small, tmp_path):
    table = pd.read_csv(small).rename(columns=lambda name: name.replace(".", "__", 1))
    table.astype({"stage__old": "category"}).to_parquet(tmp_path / "small.parquet")
    cohort, _ = prepare_prefixed(tmp_path / "small.parquet", **OUTCOME, separator="__")
    assert list(cohort.modalities) == ["rna", "mut", "stage"]
    assert cohort.modalities["rna"].spec.columns == ("rna__G1.x", "rna__G2")


@pytest.mark.parametrize(
    ("column", "given"), [("rna.OS_time", {}), ("clinical.status", {}), ("PFI.days", {}), ("dead", {"others": "x"})]
)
def test_outcomes_among_the_features_are_refused(small, column, given):
    edit(small, lambda table: table.assign(**{column: 1}))
    with pytest.raises(DataError, match=f"small.v1.csv: columns that carry the outcome.*'{column}'"):
        prepare_prefixed(small, **OUTCOME, **given)


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (lambda table: table.drop(columns="status"), {}, "small.v1.csv: no column 'status'"),
        (lambda table: table, {"id": "patient"}, "no column 'patient'"),
        (lambda table: table.assign(who="A"), {"id": "who"}, "column 'who': duplicate row id 'A'"),
        (lambda table: table.assign(who=[None, *"BCDEF"]), {"id": "who"}, "column 'who': missing id in line 1"),
        (lambda table: table.assign(days=-1), {}, "small.v1.csv: column 'days': negative time in 5 rows"),
        (lambda table: table.assign(status=2), {}, "small.v1.csv: column 'status': event codes must be 0..1"),
        (lambda table: table.rename(columns={"mut.G2": "mut.G1"}), {}, "duplicate column 'mut.G1'"),
        (lambda table: table, {"modalities": ["rna", "cna"]}, "no column starts with 'cna.'; the prefixes are 'rna'"),
        (lambda table: table, {"separator": "::"}, "no column name has a prefix that ends in '::'"),
        (
            lambda table: table.assign(**{"rna.G2": ["1", "2", "high", "1", "1", "1"]}),
            {"id": "who"},
            "modality 'rna': column 'rna.G2' is not numeric: 'high' in row 'C'",
        ),
        (
            lambda table: table.assign(**{"mut.G1": [0, np.inf, 1, 1, 1, 1]}),
            {"id": "who"},
            "modality 'mut': infinite value .* in row 'B', column 'mut.G1'",
        ),
        (lambda table: table.assign(**{"rna.G1.x": np.nan, "rna.G2": np.nan}), {}, "modality 'rna' has no value"),
        (lambda table: table.assign(days=np.nan), {}, "no row has both"),
    ],
)
def test_bad_tables_are_named(small, change, given, message):
    edit(small, change)
    with pytest.raises(DataError, match=message):
        prepare_prefixed(small, **OUTCOME, **given)


def test_notes_are_no_categories(small, tmp_path):
    table = pd.concat([pd.read_csv(small)] * 5, ignore_index=True)
    table["note.free"] = [f"note {number}" for number in range(len(table))]
    table.to_csv(tmp_path / "notes.csv", index=False)
    with pytest.raises(DataError, match="column 'note.free' of modality 'note' holds 30 different texts"):
        prepare_prefixed(tmp_path / "notes.csv", **OUTCOME)


def test_arguments_that_fit_nothing(small):
    with pytest.raises(ValueError, match="log: no modality 'dna'"):
        prepare_prefixed(small, **OUTCOME, log=["dna"])
    with pytest.raises(ValueError, match="'rna' is also a prefix"):
        prepare_prefixed(small, **OUTCOME, modalities=["rna"], others="rna")


def test_damaged_files_are_named(small):
    content = small.read_bytes()
    for name, bad in (("cut.csv.gz", b"\x1f\x8b\x08\x00nonsense"), ("empty.csv", b""), ("x.parquet", content)):
        path = small.with_name(name)
        path.write_bytes(bad)
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            prepare_prefixed(path, **OUTCOME)
    with pytest.raises(DataError, match="gone.csv: no such file"):
        prepare_prefixed(small.with_name("gone.csv"), **OUTCOME)
