from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from survcore.data import Preprocessor
from survcore.data.prepare_mcat import prepare_mcat
from survcore.errors import DataError

REGION_SIZES = {"EPITHELIAL": 112, "STROMA": 112, "TUMOR": 112, "ESI": 112, "NECROSIS": 32, "BETWEEN REGIONS": 123}


def paths(real_data, cohort: str) -> dict:
    omics = real_data("tcga_porpoise_must5")
    return {
        "omics_table": omics / f"tcga_{cohort}_rna_cnv_mut.csv.gz",
        "signatures": omics / "signatures.csv",
        "folds": omics / "folds.csv",
    }


def token_sizes(cohort, modality: str) -> dict[str, int]:
    return {token: len(columns) for token, columns in cohort.modalities[modality].spec.groups}


def test_luad_is_the_cohort_of_the_protocol(real_data):
    slides = real_data("tcga_hif_wsi_features") / "luad.hifs.csv.gz"
    cohort, facts = prepare_mcat(**paths(real_data, "luad"), slide_features=slides)
    assert len(cohort) == 422 and cohort.endpoint("OS").event.sum() == 148
    assert cohort.name == "tcga_luad" and cohort.endpoint("OS").time_unit == "months"
    assert cohort.availability.all()
    assert np.bincount(cohort.fold).tolist() == [86, 84, 83, 80, 89]
    assert token_sizes(cohort, "slide") == REGION_SIZES
    assert list(token_sizes(cohort, "omics").values()) == [94, 334, 531, 471, 218, 440, 1180]
    slide, omics = cohort.modalities["slide"], cohort.modalities["omics"]
    assert (slide.spec.transform, slide.spec.width) == ("signed_log", 603)
    assert (omics.spec.transform, omics.spec.width) == ("none", 2936)
    gaps = np.isnan(slide.table)
    assert gaps.any(axis=1).sum() == 1 and gaps.sum() == 71
    assert any("144 missing cells" in fact for fact in facts)
    assert any("4 columns dropped" in fact and "DENSITY RATIO" in fact for fact in facts)

    table = (
        pd.read_csv(paths(real_data, "luad")["omics_table"])
        .drop_duplicates("case_id")
        .set_index("case_id")
        .loc[cohort.row_ids]
    )
    np.testing.assert_array_equal(cohort.endpoint("OS").event, 1 - table["censorship"])
    np.testing.assert_allclose(cohort.endpoint("OS").time, table["survival_months"])
    np.testing.assert_array_equal(omics.table, table[list(omics.spec.columns)].to_numpy(np.float32))

    everyone, _ = prepare_mcat(**paths(real_data, "luad"), slide_features=slides, keep_incomplete=True)
    assert len(everyone) == 453 and everyone.endpoint("OS").event.sum() == 158
    assert everyone.modalities["slide"].present.sum() == 422

    prepared = Preprocessor.fit(cohort.where(not_fold=0)).transform(cohort)
    assert prepared.imputed["slide"].sum() == 71
    for values in prepared.batch().values.values():
        assert values.isfinite().all() and values.abs().max() <= 5


def test_brca_names_are_mapped_and_hrd_scores_stay_out(real_data):
    folder = real_data("tcga_hif_wsi_features")
    cohort, _ = prepare_mcat(
        **paths(real_data, "brca"),
        slide_features=folder / "brca.hifs_from_hrd.csv.gz",
        slide_names=folder / "hif_name_map.csv",
    )
    assert len(cohort) == 884 and cohort.endpoint("OS").event.sum() == 118
    assert token_sizes(cohort, "slide") == REGION_SIZES
    assert "AREA (MM2) OF [EPITHELIAL] IN [TISSUE]_HE" in cohort.modalities["slide"].spec.columns


def test_ucec_works_without_rna_and_without_slides(real_data):
    cohort, facts = prepare_mcat(**paths(real_data, "ucec"), rest="drop")
    assert len(cohort) == 480 and list(cohort.modalities) == ["omics"]
    assert cohort.modalities["omics"].spec.width == 294
    assert any("0 rnaseq" in fact for fact in facts)


@pytest.mark.parametrize(
    ("name", "patients", "deaths", "widths", "tokens"),
    [("blca", 373, 169, [1554, 256, 371], [6, 7, 7]), ("gbmlgg", 569, 187, [1544, 30, 16], [6, 5, 5])],
)
def test_three_assays_are_three_modalities(real_data, name, patients, deaths, widths, tokens):
    cohort, _ = prepare_mcat(**paths(real_data, name), assays=True)
    assert len(cohort) == patients and cohort.endpoint("OS").event.sum() == deaths
    assert list(cohort.modalities) == ["rna", "cnv", "snv"] and cohort.availability.all()
    assert [modality.spec.width for modality in cohort.modalities.values()] == widths
    assert [len(modality.spec.groups) for modality in cohort.modalities.values()] == tokens
    assert set(np.unique(cohort.fold)) == set(range(5))
    for modality, suffix in zip(cohort.modalities.values(), ("rnaseq", "cnv", "mut"), strict=True):
        assert all(column.endswith(f"_{suffix}") for column in modality.spec.columns)


def test_ucec_has_two_assays(real_data):
    cohort, facts = prepare_mcat(**paths(real_data, "ucec"), assays=True)
    assert list(cohort.modalities) == ["cnv", "snv"]
    assert any(fact.startswith("rna: no column ends in _rnaseq") for fact in facts)


@pytest.fixture
def tiny(tmp_path):
    """Four patients, one with two slides; two families that share a gene; five slides of four patients."""
    patients = ["A", "B", "B", "C", "D"]
    omics = pd.DataFrame(
        {
            "case_id": patients,
            "slide_id": [f"{patient}-{number}" for number, patient in enumerate(patients)],
            "survival_months": [10.0, 20.0, 20.0, 30.0, 5.0],
            "censorship": [1, 0, 0, 1, 0],
            "G1_rnaseq": [0.1, 0.2, 0.2, 0.3, 0.4],
            "G1_cnv": [-2, 0, 0, 2, 1],
            "G2_mut": [0, 1, 1, 0, 1],
            "LONE_mut": [1, 1, 1, 0, 0],
            "G9": [1, 0, 0, 0, 1],
        }
    )
    slides = pd.DataFrame(
        {
            "bcr_patient_barcode": ["A", "B", "B", "C", "E"],
            "os_time": [1, 2, 3, 4, 5],
            "AREA OF [TUMOR]_HE": [1.0, 2.0, 4.0, np.nan, 5.0],
            "COPY OF [TUMOR]_HE": [1.0, 2.0, 4.0, np.nan, 5.0],
            "RATIO [[STROMA] OVER [TUMOR]]_HE": [0.5, np.nan, 0.7, 0.1, 0.2],
        }
    )
    signatures = pd.DataFrame({"One": ["G1", "G2"], "Two": ["G2", "GHOST"], "Nobody": ["GHOST", None]})
    folds = pd.DataFrame(
        {"cohort": ["tiny"] * 4 + ["tin"], "case_id": ["A", "B", "C", "D", "A"], "val_fold": [0, 1, 0, 1, 1]}
    )
    made = {}
    for name, frame in {
        "omics_table": omics,
        "slide_features": slides,
        "signatures": signatures,
        "folds": folds,
    }.items():
        made[name] = tmp_path / ("tiny_table.csv" if name == "omics_table" else f"{name}.csv")
        frame.to_csv(made[name], index=False)
    return made


def edit(path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


def test_a_small_table_by_hand(tiny):
    cohort, facts = prepare_mcat(**tiny)
    assert cohort.row_ids.tolist() == ["A", "B", "C"]
    assert cohort.endpoint("OS").event.tolist() == [0, 1, 0]
    assert cohort.fold.tolist() == [0, 1, 0] and cohort.name == "tiny"
    assert dict(cohort.modalities["omics"].spec.groups) == {
        "One": ("G1_rnaseq", "G1_cnv", "G2_mut"),
        "Two": ("G2_mut",),
        "Other columns": ("LONE_mut",),
    }
    slide = cohort.modalities["slide"]
    assert dict(slide.spec.groups) == {
        "TUMOR": ("AREA OF [TUMOR]_HE",),
        "BETWEEN REGIONS": ("RATIO [[STROMA] OVER [TUMOR]]_HE",),
    }
    np.testing.assert_allclose(slide.table, [[1, 0.5], [3, 0.7], [np.nan, 0.1]], rtol=1e-6)
    text = "\n".join(facts)
    for said in (
        "COPY OF [TUMOR]_HE = AREA OF [TUMOR]_HE",
        "'Nobody' has no column",
        "1 with omics only left out",
        "1 column without one",
    ):
        assert said in text

    everyone = prepare_mcat(**tiny, keep_incomplete=True, rest="drop").cohort
    assert everyone.row_ids.tolist() == ["A", "B", "C", "D"]
    assert everyone.availability[:, 0].tolist() == [True, True, True, False]
    assert everyone.modalities["omics"].spec.columns == ("G1_rnaseq", "G1_cnv", "G2_mut")


def test_assays_of_a_small_table_by_hand(tiny):
    cohort, facts = prepare_mcat(**tiny, assays=True)
    assert list(cohort.modalities) == ["slide", "rna", "cnv", "snv"]
    assert {name: dict(cohort.modalities[name].spec.groups) for name in ("rna", "cnv", "snv")} == {
        "rna": {"One": ("G1_rnaseq",)},
        "cnv": {"One": ("G1_cnv",)},
        "snv": {"One": ("G2_mut",), "Two": ("G2_mut",), "Other columns": ("LONE_mut",)},
    }
    np.testing.assert_array_equal(cohort.modalities["cnv"].table[:, 0], [-2, 0, 2])
    assert "cnv: family 'Two' has no column in the table and is left out" in facts

    edit(tiny["omics_table"], lambda table: table.drop(columns=["G1_cnv", "G2_mut"]))
    cohort, facts = prepare_mcat(**tiny, assays=True, rest="drop")
    assert list(cohort.modalities) == ["slide", "rna"]
    assert any(fact.startswith("cnv: no column ends in _cnv") for fact in facts)
    assert any(fact.startswith("snv tokens: none, so it is left out") for fact in facts)

    edit(
        tiny["omics_table"], lambda table: table.assign(G1_rnaseq=[np.nan, 0.2, 0.2, 0.3, 0.4], G1_cnv=[1, 0, 0, 2, 1])
    )
    cohort, _ = prepare_mcat(**tiny, assays=True)
    assert cohort.availability[:, list(cohort.modalities).index("rna")].tolist() == [False, True, True]


def test_features_that_carry_the_outcome_are_refused(tiny):
    with pytest.raises(DataError, match="carry the outcome.*'os_time'"):
        prepare_mcat(**tiny, slide_columns="_HE$|^os")
    edit(tiny["omics_table"], lambda table: table.assign(survival_days_mut=1))
    with pytest.raises(DataError, match="'survival_days_mut'"):
        prepare_mcat(**tiny)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("omics_table", lambda table: table.drop(columns="censorship"), "'censorship' absent"),
        ("omics_table", lambda table: table.assign(censorship=2), "0 .death. or 1 .censored., got 2 for 'A'"),
        ("omics_table", lambda table: table.assign(G1_cnv=range(5)), "patient 'B' has different values of 'G1_cnv'"),
        ("omics_table", lambda table: table.assign(G1_cnv=list("abbcd")), "must hold numbers; 'G1_cnv'"),
        ("omics_table", lambda table: table.rename(columns={"G9": "G1_cnv"}), "duplicate column 'G1_cnv'"),
        ("signatures", lambda table: table[["Nobody"]], "none of the families"),
        ("folds", lambda table: table[table["case_id"] != "C"], "1 patient of cohort 'tiny' without fold: 'C'"),
        ("folds", lambda table: table.assign(cohort="luad"), "no cohort 'tiny_table' among luad"),
        ("folds", lambda table: pd.concat((table, table)), "in several lines"),
        (
            "slide_features",
            lambda table: table.rename(columns={"bcr_patient_barcode": "who"}),
            "bcr_patient_barcode or case_id",
        ),
        (
            "slide_features",
            lambda table: table.assign(bcr_patient_barcode=list("VWXYZ")),
            "no patient is in both tables",
        ),
        ("slide_features", lambda table: table[["bcr_patient_barcode"]], "ends in _HE or _FFPE"),
        ("slide_features", lambda table: table.assign(X_HE="high"), "must hold numbers; 'X_HE'"),
        ("slide_features", lambda table: table.assign(X_HE=np.inf), "infinite value in column 'X_HE', line 2"),
    ],
)
def test_bad_files_are_named(tiny, file, change, message):
    edit(tiny[file], change)
    with pytest.raises(DataError, match=message):
        prepare_mcat(**tiny)


def test_features_without_regions_stay_one_vector(tiny):
    edit(
        tiny["slide_features"],
        lambda table: table.rename(columns=lambda name: name.replace("TUMOR", "T").replace("STROMA", "S")),
    )
    slide = prepare_mcat(**tiny).cohort.modalities["slide"]
    assert (slide.spec.kind, slide.spec.transform) == ("vector", "none")
