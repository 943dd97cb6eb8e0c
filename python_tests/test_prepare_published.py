"""Four published mutation cohorts as cohort folders: on the real files where they are, and on small ones like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from survcore.cli import main
from survcore.data import Cohort, stratified_folds
from survcore.data.leaks import find_leaks
from survcore.data.prepare_amlsg import CYTOGENETICS, prepare_amlsg
from survcore.data.prepare_metabric import prepare_metabric
from survcore.data.prepare_msk_chord import CANCERS, GENES, prepare_msk_chord
from survcore.data.prepare_msk_met import prepare_msk_met
from survcore.errors import DataError

DAYS_PER_MONTH = 30.4375


def entries(cohort: Cohort, modality: str) -> pd.DataFrame:
    """The values of a modality by row id and column."""
    part = cohort.modality(modality)
    return pd.DataFrame(part.table, index=cohort.row_ids, columns=list(part.spec.columns))


def kinds(cohort: Cohort) -> dict[str, tuple[str, int]]:
    return {name: (part.spec.kind, part.spec.width) for name, part in cohort.modalities.items()}


def test_amlsg_has_1540_patients_with_three_modalities(real_data):
    folder = real_data("aml_amlsg_2016")
    cohort, facts = prepare_amlsg(folder)
    assert len(cohort) == 1540 and cohort.endpoint("OS").event.sum() == 904 and cohort.availability.all()
    assert kinds(cohort) == {"mutations": ("panel", 51), "cytogenetics": ("panel", 26), "clinical": ("vector", 14)}
    source = pd.read_csv(folder / "AMLSG_Clinical_Anon.csv.gz").set_index("PDID").loc[cohort.row_ids]
    np.testing.assert_allclose(cohort.endpoint("OS").time, source["OS"] / DAYS_PER_MONTH)
    np.testing.assert_array_equal(entries(cohort, "clinical")["LDH"], source["LDH"].astype(np.float32))
    cytogenetics = source[list(CYTOGENETICS)].astype(np.float32)
    np.testing.assert_array_equal(entries(cohort, "cytogenetics"), cytogenetics)
    mutations = entries(cohort, "mutations")
    assert mutations.to_numpy().mean() == pytest.approx(0.042, abs=5e-4) and mutations.any(axis=1).sum() == 1362
    # The clinical table has the internal tandem duplications of its own: each is an oncogenic variant of FLT3.
    assert mutations.loc[(source["FLT3_ITD"] == 1).to_numpy(), "FLT3"].all()
    assert any("67 lines of other patients" in fact for fact in facts)
    assert find_leaks(cohort) == []


def test_metabric_has_two_causes_of_death(real_data):
    cohort, _ = prepare_metabric(real_data("metabric_mut_clin"))
    assert len(cohort) == 1980 and cohort.split is None and cohort.availability.all()
    assert kinds(cohort) == {"mutations": ("panel", 173), "clinical": ("vector", 41)}
    overall, disease, cause = (cohort.endpoint(name) for name in ("OS", "DSS", "cause_of_death"))
    assert np.bincount(cause.event).tolist() == [837, 646, 497] and cause.causes == 2
    np.testing.assert_array_equal(overall.event, cause.event > 0)
    np.testing.assert_array_equal(disease.event, cause.event == 1)
    assert entries(cohort, "mutations").any(axis=1).sum() == 1859
    clinical = entries(cohort, "clinical")
    assert clinical.filter(like="THREEGENE=").isna().all(axis=1).sum() == 217
    # Seven cells say that the subtype or the copy number is not known, two are empty.
    assert not any(column.endswith(("=NC", "=UNDEF")) for column in clinical)
    assert clinical["CLAUDIN_SUBTYPE=LumA"].isna().sum() == 7 and clinical["HER2_SNP6=GAIN"].isna().sum() == 6
    assert find_leaks(cohort) == []

    parts = prepare_metabric(real_data("metabric_mut_clin"), split=True).cohort.split
    assert dict(zip(*np.unique(parts, return_counts=True), strict=True)) == {"test": 1141, "train": 839}


def test_msk_chord_is_left_truncated_and_stratified(real_data):
    folder = real_data("msk_chord_2024_figures")
    cohort, facts = prepare_msk_chord(folder)
    # 25,043 lines, of which three repeat another and four have a year near 1900 in place of a date.
    assert len(cohort) == 25036 and cohort.endpoint("OS").event.sum() == 11345
    assert kinds(cohort) == {"mutations": ("panel", 23), "clinical": ("vector", 21)}
    assert sorted(set(cohort.strata)) == sorted(CANCERS)
    outcome = cohort.endpoint("OS")
    assert (outcome.entry >= 0).all() and (outcome.entry < outcome.time).all()
    patients, rows = np.unique(cohort.patient_ids, return_counts=True)
    assert (rows == 2).sum() == 90 and rows.max() == 2
    fold = pd.Series(stratified_folds(cohort)).groupby(cohort.patient_ids).nunique()
    assert (fold == 1).all()
    source = pd.read_csv(folder / "brca.csv.gz").set_index("PATIENT_ID")
    breast = cohort.select(cohort.strata == "brca")
    source = source.loc[breast.patient_ids]
    np.testing.assert_allclose(breast.endpoint("OS").entry, source["entry"] / DAYS_PER_MONTH)
    np.testing.assert_array_equal(entries(breast, "mutations"), source[list(GENES)])
    np.testing.assert_array_equal(entries(breast, "clinical")["DMETS_DX_BONE"], source["DMETS_DX_BONE"])
    assert entries(cohort, "clinical")["STAGE 1"].isna().sum() == 266
    assert entries(cohort, "clinical")["AGE"].min() >= 0
    assert any(fact.startswith("0 rows whose follow-up ends at entry") for fact in facts)
    assert find_leaks(cohort) == []


def test_msk_met_leaks_are_found_where_they_are_kept(real_data):
    folder = real_data("msk_met_2021_clin_sv")
    cohort, facts = prepare_msk_met(folder)
    assert len(cohort) == 25659 and cohort.endpoint("OS").event.sum() == 10168
    assert kinds(cohort) == {"clinical": ("vector", 9), "structural_variants": ("panel", 193)}
    assert any("116 rows without outcome left out" in fact for fact in facts)
    assert find_leaks(cohort) == []

    leaking = prepare_msk_met(folder, keep_leaks=True, none_is_absent=True).cohort
    assert leaking.modality("structural_variants").present.sum() == 4598
    found = find_leaks(leaking)
    assert {leak.modality for leak in found} == {"clinical"}
    assert {column for leak in found for column in leak.columns} == {"AGE_AT_DEATH", "AGE_AT_LAST_CONTACT"}
    by_value = [leak.columns for leak in found if "named" not in leak.reason]
    assert ("AGE_AT_DEATH",) in by_value and ("AGE_AT_LAST_CONTACT",) in by_value
    assert any("minus 'AGE_AT_SEQUENCING'" in leak.reason for leak in found)


def write(folder: Path, tables: dict[str, pd.DataFrame]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.fixture
def amlsg(tmp_path) -> Path:
    """Three patients; one has no variant, one no karyotype; a variant of a fourth and one that is not oncogenic."""
    clinical = pd.DataFrame(
        {
            "PDID": ["A", "B", "C"], "OS": [10, 400, 1000], "Status": [1, 1, 0], "AOD": [50, 60.5, np.nan],
            "gender": [1, 2, 2], "Performance_ECOG": [0, 1, 2], "HB": [9.5, 10, 11], "platelet": [50, 60, 70],
            "wbc": [3, 100, 20.5], "LDH": [200, np.nan, 900], "BM_Blasts": [50, 60, 90], "PB_Blasts": [0, 5, 10],
            "Splenomegaly": [0, 1, 0], "TypeAML": ["AML", "tAML", None], "TPL_o": [1, 0, 1], "Date_LF": [10, 400, 1000],
            **{column: [0, np.nan, 1] for column in CYTOGENETICS}, "t_v_11": [True, None, False],
        }
    )  # fmt: skip
    variants = pd.DataFrame(
        {
            "SAMPLE_NAME": ["A", "A", "C", "C", "Z"],
            "GENE": ["FLT3", "FLT3", "NPM1", "TP53", "KIT"],
            "Result": ["ONCOGENIC", "ONCOGENIC", "ONCOGENIC", "POSSIBLE", "ONCOGENIC"],
        }
    )
    return write(tmp_path / "amlsg", {"AMLSG_Clinical_Anon": clinical, "AMLSG_Genetic": variants})


def test_amlsg_by_hand(amlsg):
    cohort, facts = prepare_amlsg(amlsg)
    assert cohort.row_ids.tolist() == ["A", "B", "C"]
    assert entries(cohort, "mutations").to_dict("list") == {"FLT3": [1, 0, 0], "NPM1": [0, 0, 1]}
    assert cohort.modality("cytogenetics").present.tolist() == [True, False, True]
    assert entries(cohort, "cytogenetics")["t_v_11"].tolist()[::2] == [1, 0]
    clinical = entries(cohort, "clinical")
    np.testing.assert_array_equal(clinical["TypeAML=tAML"], [0, 1, np.nan])
    np.testing.assert_array_equal(clinical["AOD"], np.array([50, 60.5, np.nan], dtype=np.float32))
    assert not {"TPL_o", "Date_LF", "OS", "Status"} & set(clinical)
    assert cohort.endpoint("OS").time[0] == pytest.approx(10 / DAYS_PER_MONTH)
    assert any("4 of 5 variants" in fact for fact in facts)


@pytest.fixture
def metabric(tmp_path) -> Path:
    """Three patients with three outcomes; the clinical table lacks the third and knows a fourth."""
    survival = pd.DataFrame(
        {
            "patientId": ["A", "B", "C"], "time": [0, 500, 900], "event": [0, 1, 2],
            "event_str": ["Living", "Died of Disease", "Died of Other Causes"], "split": ["train", "test", "train"],
        }
    )  # fmt: skip
    texts = (
        "CELLULARITY", "ER_IHC", "HISTOLOGICAL_SUBTYPE", "INFERRED_MENOPAUSAL_STATE", "LATERALITY", "THREEGENE",
        "BREAST_SURGERY", "CHEMOTHERAPY", "HORMONE_THERAPY", "RADIO_THERAPY",
    )  # fmt: skip
    clinical = pd.DataFrame(
        {
            "patientId": ["A", "B", "D"], "AGE_AT_DIAGNOSIS": [40.5, 60, 70], "NPI": [3, np.nan, 4],
            "LYMPH_NODES_EXAMINED_POSITIVE": [0, 3, 1], "CLAUDIN_SUBTYPE": ["LumA", "NC", "Basal"],
            "HER2_SNP6": ["UNDEF", "GAIN", "LOSS"], **{column: ["x", "y", "z"] for column in texts},
        }
    )  # fmt: skip
    variants = pd.DataFrame(
        {"patientId": ["B", "B", "C"], "hugoGeneSymbol": ["TP53", "TP53", "GATA3"], "proteinChange": ["a", "b", "c"]}
    )
    tables = {"metabric_survival": survival, "metabric_clinical": clinical, "metabric_mutations": variants}
    return write(tmp_path / "metabric", tables)


def test_metabric_by_hand(metabric):
    cohort, facts = prepare_metabric(metabric)
    codes = {name: endpoint.event.tolist() for name, endpoint in cohort.endpoints.items()}
    assert codes == {"OS": [0, 1, 1], "DSS": [0, 1, 0], "cause_of_death": [0, 1, 2]}
    assert entries(cohort, "mutations").to_dict("list") == {"GATA3": [0, 0, 1], "TP53": [0, 1, 0]}
    clinical = entries(cohort, "clinical")
    np.testing.assert_array_equal(clinical["CLAUDIN_SUBTYPE=LumA"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(clinical["HER2_SNP6=GAIN"], [np.nan, 1, np.nan])
    assert cohort.modality("clinical").present.tolist() == [True, True, False]
    # A value that only a patient without an outcome has makes no column.
    assert not any(column.endswith("=z") for column in clinical) and not any("event" in name for name in clinical)
    assert any("1 patient without an outcome left out" in fact for fact in facts)
    assert prepare_metabric(metabric, split=True).cohort.split.tolist() == ["train", "test", "train"]


@pytest.fixture
def msk_chord(tmp_path) -> Path:
    """Two lines per cancer; P1 has two cancers. One line stands twice, one is undated, one is never at risk."""
    clinical = {"AGE": 60, "MALE": 1, "WHITE": 1, "ASIAN": 0, "BLACK": 0, "progressed": 1, "SEQUENCING_YEAR": 2018}
    clinical |= {f"STAGE {stage}": stage == 2 for stage in range(1, 5)}
    for site in ("ADRENAL", "BONE", "BRAIN", "LIVER", "LUNG", "LYMPH", "PLEURA", "OTHER"):
        clinical |= {f"DMETS_DX_{site}": 0, f"stop_DMETS_DX_{site}": 9, f"dead_DMETS_DX_{site}": 1}
    clinical |= {f"ANY_{when}_{drug}": 1 for when in ("PREV", "CURRENT") for drug in ("cytotoxic", "immunotherapy")}
    clinical |= {"ANY_PREV_other": 0, "ANY_PRIOR_TX": 1, **dict.fromkeys(GENES, 0)}
    tables = {}
    for number, cancer in enumerate(CANCERS):
        lines = [
            {"PATIENT_ID": f"P{number}", "entry": 10, "stop": 200 + number, "dead": 1, **clinical, "KRAS": number % 2},
            {"PATIENT_ID": f"Q{number}", "entry": 0, "stop": 300, "dead": 0, **clinical, "STAGE 2": False},
        ]
        tables[cancer] = pd.DataFrame(lines)
    tables["crc"] = pd.concat([tables["crc"], tables["crc"].iloc[:1]])
    tables["panc"].loc[0, "PATIENT_ID"] = "P1"
    tables["nsclc"].loc[1, ["SEQUENCING_YEAR", "AGE"]] = [1900, -50]
    tables["prostate"].loc[1, "entry"] = 300
    return write(tmp_path / "msk_chord", tables)


def test_msk_chord_by_hand(msk_chord):
    cohort, facts = prepare_msk_chord(msk_chord)
    assert cohort.row_ids.tolist() == [
        "P0-nsclc", "P1-crc", "Q1-crc", "P2-brca", "Q2-brca", "P3-prostate", "P1-panc", "Q4-panc",
    ]  # fmt: skip
    assert cohort.patient_ids[[1, 6]].tolist() == ["P1", "P1"] and cohort.strata[[1, 6]].tolist() == ["crc", "panc"]
    outcome = cohort.endpoint("OS")
    np.testing.assert_allclose(outcome.entry[:3] * DAYS_PER_MONTH, [10, 10, 0])
    np.testing.assert_allclose(outcome.time[:3] * DAYS_PER_MONTH, [200, 201, 300])
    assert outcome.event.tolist() == [1, 1, 0, 1, 0, 1, 1, 0]
    assert entries(cohort, "mutations")["KRAS"].tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    clinical = entries(cohort, "clinical")
    np.testing.assert_array_equal(clinical["STAGE 2"], [1, 1, np.nan, 1, np.nan, 1, 1, np.nan])
    assert not [column for column in clinical if column.startswith(("stop", "dead", "progressed", "ANY_CURRENT"))]
    text = "\n".join(facts)
    assert "crc.csv: 3 lines; left out 1 that repeat another" in text
    assert "nsclc.csv: 2 lines; left out 0 that repeat another, 1 with a placeholder" in text
    assert "1 row whose follow-up ends at entry or before left out" in text

    with_type = entries(prepare_msk_chord(msk_chord, cancer_type=True).cohort, "clinical")
    assert with_type["CANCER=crc"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert len(set(with_type) - set(clinical)) == 5


def test_msk_chord_files_may_keep_the_names_of_their_source(msk_chord):
    (msk_chord / "brca.csv").rename(msk_chord / "brca_dx_1st_seq_OS.csv")
    assert len(prepare_msk_chord(msk_chord).cohort) == 8


@pytest.fixture
def msk_met(tmp_path) -> Path:
    """Four patients, the last without follow-up; variants of two, one of them in two samples."""
    clinical = pd.DataFrame(
        {
            "PATIENT_ID": ["P-1", "P-2", "P-3", "P-4"], "SEX": ["Male", "Female", None, "Male"],
            "RACE": ["White", "Unknown", "Other", "White"], "OS_MONTHS": [0, 12.5, 30, np.nan],
            "OS_STATUS": ["0:LIVING", "1:DECEASED", "0:LIVING", "0:LIVING"], "AGE_AT_SEQUENCING": [50, 60.25, 70, 40],
            "AGE_AT_DEATH": [np.nan, 61.29, np.nan, np.nan], "AGE_AT_LAST_CONTACT": [50, np.nan, 72.5, np.nan],
        }
    )  # fmt: skip
    variants = pd.DataFrame(
        {
            "Sample_Id": ["P-1-T01-IM3", "P-1-T02-IM6", "P-2-T01-IM6", "P-4-T01-IM6"],
            "Site1_Hugo_Symbol": ["ALK", "ALK", "EML4", "RET"],
            "Site2_Hugo_Symbol": ["EML4", None, "ALK", None],
        }
    )
    return write(tmp_path / "msk_met", {"data_clinical_patient": clinical, "data_sv": variants})


def test_msk_met_by_hand(msk_met):
    cohort, _ = prepare_msk_met(msk_met, min_patients=1)
    assert cohort.row_ids.tolist() == ["P-1", "P-2", "P-3"]
    assert cohort.endpoint("OS").time.tolist() == [0, 12.5, 30] and cohort.endpoint("OS").event.tolist() == [0, 1, 0]
    assert entries(cohort, "structural_variants").to_dict("list") == {"ALK": [1, 1, 0], "EML4": [1, 1, 0]}
    clinical = entries(cohort, "clinical")
    assert list(clinical) == ["AGE_AT_SEQUENCING", "SEX=Female", "SEX=Male", "RACE=Other", "RACE=White"]
    np.testing.assert_array_equal(clinical["RACE=White"], [1, np.nan, 0])

    absent = prepare_msk_met(msk_met, min_patients=2, none_is_absent=True, keep_leaks=True).cohort
    assert absent.modality("structural_variants").present.tolist() == [True, True, False]
    assert {"AGE_AT_DEATH", "AGE_AT_LAST_CONTACT"} < set(entries(absent, "clinical"))
    with pytest.raises(DataError, match="no gene in at least 3 patients"):
        prepare_msk_met(msk_met, min_patients=3)
    with pytest.raises(ValueError, match="min_patients"):
        prepare_msk_met(msk_met, min_patients=0)


PREPARE = {"amlsg": prepare_amlsg, "metabric": prepare_metabric, "msk_chord": prepare_msk_chord}
PREPARE["msk_met"] = prepare_msk_met


@pytest.mark.parametrize(
    ("cohort", "file", "change", "message"),
    [
        ("amlsg", "AMLSG_Clinical_Anon", lambda table: table.drop(columns="wbc"), "no column 'wbc'"),
        ("amlsg", "AMLSG_Clinical_Anon", lambda table: pd.concat([table, table[:1]]), "patient 'A' in several lines"),
        ("amlsg", "AMLSG_Clinical_Anon", lambda table: table.assign(wbc="many"), "'wbc'.*'many' in row 'A'"),
        ("amlsg", "AMLSG_Clinical_Anon", lambda table: table.assign(Status=2), "event codes must be 0..1"),
        (
            "amlsg",
            "AMLSG_Clinical_Anon",
            lambda table: table.assign(minus7=2),
            "'minus7': expected 0 or 1, got 2 in row 'A'",
        ),
        ("amlsg", "AMLSG_Genetic", lambda table: table.assign(Result="POSSIBLE"), "no variant of any of the 3"),
        ("metabric", "metabric_survival", lambda table: table.assign(event=[0, 1, 3]), "event codes must be 0..2"),
        ("metabric", "metabric_survival", lambda table: table.assign(event=[0, 1, np.nan]), "got nan in row 'C'"),
        ("metabric", "metabric_survival", lambda table: table.assign(time=-1), "negative time"),
        ("metabric", "metabric_mutations", lambda table: table[["patientId"]], "no column 'hugoGeneSymbol'"),
        ("msk_chord", "brca", lambda table: table.assign(PATIENT_ID="P2"), "different lines of patient 'P2'"),
        ("msk_chord", "brca", lambda table: table.assign(PATIENT_ID=["P2", None]), "empty in line 3"),
        ("msk_chord", "brca", lambda table: table.drop(columns="TP53"), "brca.csv: no column 'TP53'"),
        ("msk_chord", "brca", lambda table: table.assign(KRAS=2), "'KRAS': expected 0 or 1, got 2 in row 'P2-brca'"),
        ("msk_met", "data_clinical_patient", lambda table: table.assign(OS_STATUS="dead"), "'dead' for patient 'P-1'"),
        ("msk_met", "data_sv", lambda table: table.assign(Sample_Id="P-1"), "got 'P-1' in line 2"),
    ],
)
def test_bad_files_are_named(request, cohort, file, change, message):
    folder = request.getfixturevalue(cohort)
    edit(folder / f"{file}.csv", change)
    with pytest.raises(DataError, match=message):
        PREPARE[cohort](folder)


@pytest.mark.parametrize("cohort", list(PREPARE))
def test_absent_and_doubled_files_are_named(request, cohort):
    folder = request.getfixturevalue(cohort)
    first = sorted(folder.iterdir())[0]
    first.with_name(first.name + ".gz").write_bytes(b"")
    with pytest.raises(DataError, match=f"{first.stem}.csv', '{first.stem}.csv.gz'; keep one"):
        PREPARE[cohort](folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="none is there"):
        PREPARE[cohort](folder)


@pytest.mark.parametrize(
    ("cohort", "options", "check"),
    [
        ("amlsg", [], lambda made: made.endpoint("OS").event.sum() == 2),
        ("metabric", ["--split"], lambda made: made.split is not None),
        ("msk_chord", ["--cancer-type"], lambda made: "CANCER=crc" in made.modality("clinical").spec.columns),
        (
            "msk_met",
            ["--min-patients", "2", "--none-is-absent", "--keep-leaks"],
            lambda made: "AGE_AT_DEATH" in made.modality("clinical").spec.columns and not made.availability.all(),
        ),
    ],
)
def test_commands_write_cohort_folders(request, tmp_path, cohort, options, check):
    arguments = ["data", "prepare", cohort.replace("_", "-"), str(request.getfixturevalue(cohort)), *options]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "made")])
    assert result.exit_code == 0, result.output
    assert check(Cohort.from_folder(tmp_path / "made"))
