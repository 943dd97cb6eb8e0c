from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from survcore.batch import dense
from survcore.cli import main
from survcore.data import Cohort, Preprocessor
from survcore.data.prepare_assays import prepare_assays
from survcore.errors import DataError

ORDER = ["Mutations", "RNASeq2GeneNorm", "RPPAArray", "gistict", "miRNASeqGene"]


def patterns(cohort) -> dict[str, int]:
    return dict(Counter("".join(str(int(has)) for has in row) for row in cohort.availability))


def test_mini_acc_is_incomplete_as_its_readme_states(real_data):
    folder = real_data("tcga_acc_miniACC")
    cohort, facts = prepare_assays(folder, assays=ORDER, log=["RNASeq2GeneNorm", "miRNASeqGene"])
    assert patterns(cohort) == {
        "11111": 43, "11011": 32, "10010": 12, "01111": 2, "10011": 1, "11001": 1, "11101": 1,
    }  # fmt: skip
    assert len(cohort) == 92 and cohort.endpoint("OS").event.sum() == 34
    assert [modality.spec.width for modality in cohort.modalities.values()] == [97, 198, 33, 198, 471]
    assert [modality.spec.kind for modality in cohort.modalities.values()] == ["panel"] + ["vector"] * 4
    assert cohort.modalities["miRNASeqGene"].spec.transform == "signed_log"
    assert not any("as they stand;" in fact for fact in facts)

    patients = pd.read_csv(folder / "colData.csv.gz", index_col="patientID").loc[cohort.row_ids]
    days = patients["days_to_death"].fillna(patients["days_to_last_followup"])
    np.testing.assert_allclose(cohort.endpoint("OS").time * 30.4375, days)
    proteins = pd.read_csv(folder / "RPPAArray.csv.gz", index_col="rowname")
    barcode = proteins.columns[3]
    row = cohort.row_ids.tolist().index(barcode[:12])
    np.testing.assert_array_equal(cohort.modalities["RPPAArray"].table[row], proteins[barcode].to_numpy(np.float32))

    prepared = Preprocessor.fit(cohort).transform(cohort)
    assert all(dense(values).isfinite().all() for values in prepared.batch().values.values())


def test_all_assays_in_the_order_of_the_map_from_the_command(real_data, tmp_path):
    folder = real_data("tcga_acc_miniACC")
    result = CliRunner().invoke(main, ["data", "prepare", "assays", str(folder), "--out", str(tmp_path / "acc")])
    assert result.exit_code == 0, result.output
    assert "RNASeq2GeneNorm: values from 0 to 355326 as they stand" in result.output
    cohort = Cohort.from_folder(tmp_path / "acc")
    assert list(cohort.modalities) == ["RNASeq2GeneNorm", "gistict", "RPPAArray", "Mutations", "miRNASeqGene"]
    assert cohort.endpoint("OS").event.sum() == 34


@pytest.fixture
def small(tmp_path):
    """Five patients; A has two aliquots in both assays, D has no outcome, E no assay."""
    folder = tmp_path / "small"
    folder.mkdir()
    files = {
        "colData": pd.DataFrame(
            {
                "patient": list("ABCDE"),
                "vital_status": ["Dead", "alive", 0, np.nan, 1],
                "days_to_death": [100, np.nan, np.nan, np.nan, 50],
                "days_to_last_followup": [90, 200, 300, 10, np.nan],
                "months": [1.0, 2.0, 3.0, 4.0, 5.0],
                "relapse": [0, 1, 1, 1, 0],
            }
        ),
        "sampleMap": pd.DataFrame(
            [
                ("rna", "A", "A-1"), ("rna", "A", "A-2"), ("rna", "B", "B-1"), ("rna", "D", "D-1"),
                ("mut", "A", "A-1"), ("mut", "A", "A-2"), ("mut", "C", "C-1"),
            ],
            columns=["assay", "primary", "colname"],
        ),
        "rna": pd.DataFrame(
            {"gene": ["G1", "G2"], "A-1": [1.0, np.nan], "A-2": [2.0, 4.0], "B-1": [3.0, 5.0], "D-1": [1.0, 1.0],
             "Z-1": [9.0, 9.0]}
        ),
        "mut": pd.DataFrame({"gene": ["G1", "G2"], "A-1": [0, 0], "A-2": [1, 0], "C-1": [0, 1]}),
    }  # fmt: skip
    for name, frame in files.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return folder


def edit(folder, name, change) -> None:
    path = folder / f"{name}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


def test_a_small_folder_by_hand(small):
    cohort, facts = prepare_assays(small)
    assert cohort.row_ids.tolist() == ["A", "B", "C"] and cohort.name == "small"
    assert cohort.endpoint("OS").event.tolist() == [1, 0, 0]
    np.testing.assert_allclose(cohort.endpoint("OS").time * 30.4375, [100, 200, 300])
    rna, mutations = cohort.modalities["rna"], cohort.modalities["mut"]
    np.testing.assert_array_equal(rna.table, [[1.5, 4], [3, 5], [np.nan, np.nan]])
    assert mutations.spec.kind == "panel"
    np.testing.assert_array_equal(mutations.table, [[1, 0], [np.nan, np.nan], [0, 1]])
    for said in (
        "rna: 3 patients, 4 aliquots, 2 features; mean over the aliquots of 1 patient; "
        "1 column that the map does not list left out",
        "mut: 2 patients, 3 aliquots, 2 features; maximum over the aliquots of 1 patient",
        "1 row without outcome left out: 'D'",
        "1 row without modality left out: 'E'",
    ):
        assert said in facts


def test_other_names_and_another_outcome(small):
    (small / "sampleMap.csv").rename(small / "links.csv")
    edit(small, "colData", lambda table: table[["months", "relapse", "patient"]])
    (small / "colData.csv").rename(small / "clinic.csv")
    cohort, _ = prepare_assays(
        small, sample_map="links.csv", col_data="clinic", id="patient", time="months", event="relapse",
        time_unit="months", assays=["mut", "rna"], name="n",
    )  # fmt: skip
    assert cohort.row_ids.tolist() == list("ABCD") and list(cohort.modalities) == ["mut", "rna"]
    assert cohort.endpoint("primary").time.tolist() == [1, 2, 3, 4] and cohort.name == "n"
    assert cohort.endpoint().event.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("colData", lambda table: table.drop(columns="vital_status"), "colData.csv: no column 'vital_status'"),
        ("colData", lambda table: table.assign(patient="A"), "colData.csv: patient 'A' in several lines"),
        ("colData", lambda table: table.assign(vital_status="lost"), "expected 0 or alive.*'lost' for patient 'A'"),
        ("colData", lambda table: table.assign(vital_status=0), "patient 'A' is alive.*'days_to_death' is 100"),
        ("colData", lambda table: table.assign(days_to_death="x"), "'days_to_death' is not numeric: 'x' in row 'A'"),
        ("colData", lambda table: table.assign(days_to_last_followup=-1), "colData.csv: .*negative time in .*'B'"),
        ("colData", lambda table: table[table["patient"] != "B"], "patient 'B' of assay 'rna' has no line in colData"),
        ("sampleMap", lambda table: table.drop(columns="colname"), "sampleMap.csv: no column 'colname'"),
        ("sampleMap", lambda table: pd.concat((table, table)), "aliquot 'A-1' of assay 'rna' in several lines"),
        ("sampleMap", lambda table: table.replace("B-1", None), "column 'colname' is empty in line 4"),
        ("sampleMap", lambda table: table.replace("mut", "protein"), "expected one of 'protein.csv'"),
        ("rna", lambda table: table.drop(columns="B-1"), "rna.csv: no column 'B-1', an aliquot of patient 'B'"),
        ("rna", lambda table: table.rename(columns={"Z-1": "B-1"}), "rna.csv: duplicate column 'B-1'"),
        ("rna", lambda table: table.assign(gene="G1"), "rna.csv: feature 'G1' in several lines"),
        ("rna", lambda table: table.assign(gene=["G1", "OS_time"]), "rna.csv: columns that carry.*'OS_time'"),
        (
            "rna",
            lambda table: table.assign(**{"B-1": ["a", "b"]}),
            "rna.csv.*column 'B-1' is not numeric: 'a' in row 'G1'",
        ),
        ("rna", lambda table: table.assign(**{"B-1": np.inf}), "rna.csv.*infinite value.* row 'G1', column 'B-1'"),
        ("mut", lambda table: table.assign(**{"A-1": np.nan, "A-2": np.nan, "C-1": np.nan}), "'mut' has no value"),
    ],
)
def test_bad_files_are_named(small, file, change, message):
    edit(small, file, change)
    with pytest.raises(DataError, match=message):
        prepare_assays(small)


def test_arguments_that_fit_nothing(small):
    with pytest.raises(DataError, match="no assay 'cna'; the assays are 'rna', 'mut'"):
        prepare_assays(small, assays=["cna"])
    with pytest.raises(ValueError, match="give both columns or neither"):
        prepare_assays(small, time="months")
    with pytest.raises(ValueError, match="censored_value"):
        prepare_assays(small, censored_value=1)
    with pytest.raises(DataError, match="no column 'weeks'"):
        prepare_assays(small, time="weeks", event="relapse")
    (small / "rna.csv").rename(small / "rna.csv.gz")
    pd.DataFrame({"gene": ["G1"]}).to_csv(small / "rna.csv", index=False)
    with pytest.raises(DataError, match="'rna.csv', 'rna.csv.gz'; keep one"):
        prepare_assays(small)
