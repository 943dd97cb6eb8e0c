"""The cBioPortal reader on a small study that has every kind of dirt; the numbers are counted by hand."""

from __future__ import annotations

import gzip
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from survcore.batch import dense
from survcore.cli import main
from survcore.data import Cohort, Preprocessor
from survcore.data.prepare_cbioportal import prepare_cbioportal
from survcore.errors import DataError

NAN = np.nan
TP53, KRAS, EGFR = "TP53_Missense_Mutation_SNP_chr17", "KRAS_Missense_Mutation_SNP_chr12", "EGFR_In_Frame_Del_DEL_chr7"

PATIENTS = """\
#Patient Identifier|Sex|Age|Stage|Brain|Liver|Lung|Overall Survival (Months)|Overall Survival Status|PFS|PFS|Center
#Patient Identifier|Sex|Age|Stage|Brain|Liver|Lung|Months|Status|Months|Status|Where
#STRING|STRING|NUMBER|STRING|STRING|STRING|STRING|NUMBER|STRING|NUMBER|STRING|STRING
#1|1|1|1|1|1|1|1|1|1|1|1
PATIENT_ID|SEX|CURRENT_AGE_DEID|STAGE_HIGHEST_RECORDED|CNS_BRAIN|LIVER|LUNG|OS_MONTHS|OS_STATUS|PFS_MONTHS|PFS_STATUS|CENTER
P1|Male|70|Stage 4|Yes|No|No|10|1:DECEASED|5|1:PROGRESSION|Köln
P2|Female|60|Stage 1-3|No|No|Yes|20.5|0:LIVING|20.5|0:CENSORED|Zürich
P2|Female|60|Stage 1-3|No|No|Yes|20.5|0:LIVING|20.5|0:CENSORED|Zürich
P3|Female|>89|Unknown|No|Yes||30|1:DECEASED|NA|NA|Köln

P4|Male| 50 |"Stage IVA"|No|[Not Available]|Yes|40|DECEASED|7|1:PROGRESSION|Köln
P5|Male|40|Stage 1-3|No|No|No|[Not Available]|NA|||Köln
P6|Female|65|Stage 1-3|No|Yes|No|6|living|6|0:CENSORED
P7|Male|NA|Stage 4|Yes|Yes|Yes|0.03|0:LIVING|0.03|0:CENSORED|Köln
P8|Female|30|Stage 1-3|No|No|No|12|0:LIVING|12|0:CENSORED|Zürich
"""
SAMPLES = """\
#Patient Identifier|Sample Identifier|Cancer Type|Sample Type|Clinical Summary|TMB
#Patient Identifier|Sample Identifier|Cancer Type|Sample Type|Clinical Summary|TMB
#STRING|STRING|STRING|STRING|STRING|NUMBER
#1|1|1|1|1|1
Patient_Id|sample_id|CANCER_TYPE|SAMPLE_TYPE|CLINICAL_SUMMARY|TMB_NONSYNONYMOUS
P1|S1|Breast Cancer|Primary|Distant Metastases/Systemic Disease|12
P2|S2|Non-Small Cell Lung Cancer|Primary|Regional,Lymph Nodes Only|3.5
P3|S3|Breast Cancer|Metastasis|Localized|NA
P4|S4|Colorectal Cancer|Primary|Unknown/Unstaged|10
P5|S5|Breast Cancer|Primary|Localized|1
P6|S6|Breast Cancer|Primary|In Situ|1
P7|S7a|Pancreatic Cancer|Metastasis|Distant|50
P7|S7c|Pancreatic Cancer|Primary|Distant|3
P7|S7b|Pancreatic Cancer|Primary|Regional To Lymph Nodes|2
"""
MAF = """\
#version 2.4
Hugo_Symbol|Center|Chromosome|Variant_Classification|Variant_Type|Reference_Allele|Tumor_Seq_Allele2|Tumor_Sample_Barcode|Mutation_Status
TP53|MSK|17|Missense_Mutation|SNP|C|T|S1|SOMATIC
TP53|MSK|17|Missense_Mutation|SNP|C|T|S1|SOMATIC
TP53|MSK|chr17|Missense_Mutation|SNP|C|A|S2|SOMATIC
TP53|MSK|17|Missense_Mutation|SNP|G|A|S3|SOMATIC
TP53|MSK|17|Missense_Mutation|NA|C|T|S4
TP53|MSK|17|Missense_Mutation|SNP|C|T|S7a|SOMATIC
KRAS|MSK|12|Missense_Mutation|SNP|C|T|S1|SOMATIC
KRAS|MSK|12|Missense_Mutation|SNP|C|T|S2|SOMATIC
KRAS|MSK|12|Missense_Mutation|SNP|C|T|S3|GERMLINE
KRAS|MSK|12|Missense_Mutation|SNP|C|T|S6|SOMATIC
KRAS|MSK|12|Missense_Mutation|SNP|C|T|S7b|SOMATIC
EGFR|MSK|7|In_Frame_Del|DEL|GGA|-|S1|SOMATIC
EGFR|MSK|7|In_Frame_Del||GGA|-|S4|SOMATIC
EGFR|MSK|7|In_Frame_Del|DEL|GGA|-|S2|SOMATIC
BRCA2|MSK|13|Silent|SNP|A|G|S3|SOMATIC
EGFR|MSK|7|In_Frame_Del|DEL|GGA|-|S3|Wildtype
KRAS|MSK|12|Missense_Mutation|SNP|C|T|X9|SOMATIC
"""
CNA = """\
Hugo_Symbol|Entrez_Gene_Id|S1|S2|S3|S4|S6|S7b|X9
ERBB2|2064|2|NA|2|0|0|0|2
KRAS|3845|-2|-2.0|0|-1.5|1|2|2
EGFR|1956|0|2|2|2|0|0|0
TP53|7157|-1|0|0|0|-2||0
"""
SV = """\
Sample_Id|SV_Status|Site1_Hugo_Symbol|Site2_Hugo_Symbol|Class
S1|SOMATIC|KRAS|EGFR|DELETION
S4|SOMATIC|EGFR|KRAS|INVERSION
S1|SOMATIC|TP53||DELETION
S3|GERMLINE|TP53|TP53|DELETION
S2|SOMATIC|EGFR|ALK|INVERSION
"""
MATRIX = """\
SAMPLE_ID|mutations|cna|structural_variants
S1|BIG|BIG|BIG
S2|SMALL|SMALL|SMALL
S3|WES|WES|WES
S4|BIG|BIG|BIG
S5|BIG|BIG|BIG
S6|NA|NA|NA
S7a|BIG|BIG|BIG
S7b|SMALL|SMALL|NA
S7c|BIG|BIG|BIG
"""
FILES = {
    "data_clinical_patient.txt": PATIENTS,
    "data_clinical_sample.txt": SAMPLES,
    "data_mutations.txt": MAF,
    "data_cna.txt": CNA,
    "data_sv.txt": SV,
    "data_gene_panel_matrix.txt": MATRIX,
    "gene_panels/data_gene_panel_big.txt": "stable_id: BIG\ndescription: b:\ngene_list:\tTP53\tKRAS\tEGFR\tERBB2\n",
    "gene_panels/data_gene_panel_small.txt": "stable_id: SMALL\ngene_list: TP53 KRAS\n",
    "data_timeline_specimen.txt": (
        "PATIENT_ID|START_DATE|STOP_DATE|EVENT_TYPE|SAMPLE_ID\nP7|-30||Sequencing|S7b\nP7|5||Sequencing|S7c\n"
    ),
    "data_timeline_treatment.txt": "PATIENT_ID|START_DATE|STOP_DATE|AGENT\nP7|0|9|X\n",
}


def write(folder, name, text, *, encoding="utf-8", ends="\n") -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.replace("|", "\t").replace("\n", ends).encode(encoding))


@pytest.fixture
def study(tmp_path):
    """CRLF in the patients' file, cp1252 in it, a byte order mark in the samples', the MAF compressed."""
    folder = tmp_path / "tiny_2024"
    folder.mkdir()
    for name, text in FILES.items():
        write(folder, name, text)
    write(folder, "data_clinical_patient.txt", PATIENTS, encoding="cp1252", ends="\r\n")
    write(folder, "data_clinical_sample.txt", SAMPLES, encoding="utf-8-sig")
    (folder / "data_mutations.txt").unlink()
    (folder / "data_mutations.txt.gz").write_bytes(gzip.compress(MAF.replace("|", "\t").encode()))
    return folder


def rows_of(cohort, name) -> dict[str, list[float]]:
    modality = cohort.modality(name)
    return {
        str(row): values.tolist()
        for row, values, present in zip(cohort.row_ids, modality.table, modality.present, strict=True)
        if present
    }


def assert_rows(found, expected) -> None:
    assert list(found) == list(expected)
    for row, values in expected.items():
        np.testing.assert_array_equal(found[row], values, err_msg=row)


def test_mutations_by_subtype_and_panel(study):
    cohort, facts = prepare_cbioportal(study)
    assert cohort.row_ids.tolist() == ["P1", "P2", "P3", "P4", "P6", "P7", "P8"] and cohort.name == "tiny_2024"
    mutations = cohort.modality("mutations").spec
    assert mutations.kind == "panel" and mutations.columns == (EGFR, KRAS, TP53)
    expected = {"P1": [1, 1, 1], "P2": [NAN, 1, 1], "P3": [0, 1, 1], "P4": [1, 0, 1], "P7": [NAN, 1, 0]}
    assert_rows(rows_of(cohort, "mutations"), expected)
    for said in (
        "data_mutations.txt.gz: 17 lines",
        "data_mutations.txt.gz: 1 sample without clinical data left out: 'X9'",
        "mutations: 1 line of no mutation (None, LOH, Wildtype) left out",
        "mutations: 1 line of germline mutations kept",
        "mutations: 1 alteration of samples that were not profiled left out",
        "mutations: 1 alteration in genes outside the sample's panel left out: 'EGFR'",
        "mutations: 3 columns seen in at least 2 patients, 1 rarer one left out",
        "mutations: 8 samples profiled, according to column 'mutations' of data_gene_panel_matrix.txt",
        "mutations: panels BIG (4 genes), SMALL (2 genes)",
        "data_clinical_patient.txt: 1 repeated line left out",
        "1 patient without OS left out: 'P5'",
        "cohort tiny_2024: 7 patients, events: OS 3",
    ):
        assert said in facts
    assert not any("no definition of panel" in fact for fact in facts)


def test_outcomes(study):
    cohort, facts = prepare_cbioportal(study)
    assert list(cohort.endpoints) == ["OS"]
    assert cohort.endpoint("OS").time.tolist() == [10, 20.5, 30, 40, 6, 0.03, 12]
    assert cohort.endpoint("OS").event.tolist() == [1, 0, 1, 1, 0, 0, 0]
    assert any("endpoint PFS not read: 6 of 7 patients have it" in fact for fact in facts)
    cohort, facts = prepare_cbioportal(study, endpoints=["os", "PFS"])
    assert cohort.row_ids.tolist() == ["P1", "P2", "P4", "P6", "P7", "P8"]
    assert cohort.endpoint("PFS").event.tolist() == [1, 0, 1, 0, 0, 0]
    assert "2 patients without OS and PFS left out: 'P3', 'P5'" in facts


def test_an_endpoint_that_all_have_is_read(study):
    write(study, "data_clinical_patient.txt", PATIENTS.replace("|NA|NA|Köln", "|3|0:CENSORED|Köln"))
    cohort, _ = prepare_cbioportal(study)
    assert list(cohort.endpoints) == ["OS", "PFS"] and cohort.endpoint("PFS").time[2] == 3


def test_clinical_features(study):
    cohort, facts = prepare_cbioportal(study)
    spec = cohort.modality("clinical").spec
    assert spec.kind == "panel"
    assert spec.columns == (
        *("HIGHEST_STAGE_4", "CNS_BRAIN", "LIVER", "LUNG", "REGIONAL", "DISTANT", "CANCER_TYPE_BREAST"),
        *("CANCER_TYPE_COLON", "CANCER_TYPE_LUNG", "CANCER_TYPE_PANCREAS", "AGE_GE_65", "TMB_GE_10"),
    )
    nothing = [NAN] * 6
    assert_rows(
        rows_of(cohort, "clinical"),
        {
            "P1": [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1],
            "P2": [0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0],
            "P3": [NAN, 0, 1, NAN, 0, 0, 1, 0, 0, 0, 1, NAN],
            "P4": [1, 0, NAN, 1, NAN, NAN, 0, 1, 0, 0, 0, 1],
            "P6": [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0],
            "P7": [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, NAN, 0],
            "P8": [0, 0, 0, 0, *nothing, 0, NAN],
        },
    )
    text = "\n".join(facts)
    for said in (
        "STAGE_HIGHEST_RECORDED says nothing definite in 1 patient: 'Unknown'",
        "CLINICAL_SUMMARY says nothing definite in 1 patient: 'Unknown/Unstaged'",
        "the study has no FRACTION_GENOME_ALTERED_GE_0.2",
        "CANCER_TYPE_PROSTATE left out, the same for all patients",
        "CNS_BRAIN, CURRENT_AGE_DEID, LIVER, LUNG, STAGE_HIGHEST_RECORDED are recorded over the whole follow-up",
        "TMB_GE_10 from TMB_NONSYNONYMOUS, missing in 2 patients",
    ):
        assert said in text


def test_further_columns_and_features_left_out(study):
    cohort, facts = prepare_cbioportal(
        study, clinical=["center", "tmb_nonsynonymous"], modalities=["clinical"], leave_out=["AGE_GE_65", "LUNG"]
    )
    spec = cohort.modality("clinical").spec
    assert spec.kind == "vector" and list(cohort.modalities) == ["clinical"]
    assert spec.columns[-3:] == ("CENTER=Köln", "CENTER=Zürich", "TMB_NONSYNONYMOUS")
    assert not {"AGE_GE_65", "LUNG"} & set(spec.columns)
    last = cohort.modality("clinical").table[:, -3:]
    np.testing.assert_array_equal(
        last,
        np.float32(
            [[1, 0, 12], [0, 1, 3.5], [1, 0, NAN], [1, 0, 10], [NAN, NAN, 1], [1, 0, 2], [0, 1, NAN]]
        ),
    )  # fmt: skip
    assert "clinical: CENTER as one 0/1 column per value: Köln, Zürich" in facts
    assert not any("CURRENT_AGE_DEID" in fact for fact in facts)


def test_what_the_clinical_files_lack_comes_from_timelines_and_segments(study):
    patients = PATIENTS
    for column in ("CNS_BRAIN", "LIVER", "LUNG"):
        patients = patients.replace(f"|{column}|", f"|NOT_{column}|")
    write(study, "data_clinical_patient.txt", patients)
    write(study, "data_clinical_sample.txt", SAMPLES.replace("CLINICAL_SUMMARY", "OTHER"))
    sites = "PATIENT_ID|START_DATE|TUMOR_SITE\nP1|0|CNS/Brain\nP1|9|Liver\nP2|1|Bone\n"
    write(study, "data_timeline_tumor_sites.txt", sites)
    diagnoses = "PATIENT_ID|START_DATE|SUMMARY\nP1|-5|Distant\nP1|-90|Regional Nos\nP2|-7|Localized\nP3||In Situ\n"
    write(study, "data_timeline_diagnosis.txt", diagnoses + "P4|1|Distant\n")
    segments = "ID|chrom|loc.start|loc.end|num.mark|seg.mean\nS1|1|100|900|9|-0.2\nS1|2|0|1200|9|0.19\n"
    write(study, "data_cna_hg19.seg", segments + "S2|1|0|100|5|0\nS2|1|100|120|5|1.5\nS7a|1|0|9|1|1\nS3|1|5|5|1|0\n")
    cohort, facts = prepare_cbioportal(study, modalities=["clinical"])
    spec, table = cohort.modality("clinical").spec, cohort.modality("clinical").table
    found = {
        name: table[:, spec.columns.index(name)].tolist() for name in ("CNS_BRAIN", "LIVER", "REGIONAL", "DISTANT")
    }
    np.testing.assert_array_equal(found["CNS_BRAIN"], [1, 0, NAN, NAN, NAN, NAN, NAN])
    np.testing.assert_array_equal(found["LIVER"], [1, 0, NAN, NAN, NAN, NAN, NAN])
    np.testing.assert_array_equal(found["REGIONAL"], [1, 0, 0, 0, NAN, NAN, NAN])
    np.testing.assert_array_equal(found["DISTANT"], [0, 0, 0, 1, NAN, NAN, NAN])
    assert any("LUNG, " in fact and "the same for all" in fact for fact in facts)
    altered = table[:, spec.columns.index("FRACTION_GENOME_ALTERED_GE_0.2")]
    np.testing.assert_array_equal(altered, [1, 0, NAN, NAN, NAN, NAN, NAN])  # 800/2000 and 20/120


def test_copy_numbers(study):
    cohort, facts = prepare_cbioportal(study, modalities=["cna"], least_patients=1)
    assert cohort.modality("cna").spec.columns == ("EGFR_AMP", "ERBB2_AMP", "KRAS_AMP", "KRAS_HOMDEL")
    # The matrix says that S6 was not profiled, whatever the file holds of it.
    assert_rows(
        rows_of(cohort, "cna"),
        {"P1": [0, 1, 0, 1], "P2": [NAN, NAN, 0, 1], "P3": [1, 1, 0, 0], "P4": [1, 0, 0, 0], "P7": [NAN, NAN, 1, 0]},
    )
    assert "data_cna.txt: 4 genes, 6 samples" in facts and "data_cna.txt: 1 column of other samples not read" in facts
    assert "cna: 1 alteration in genes outside the sample's panel left out: 'EGFR'" in facts
    assert "2 patients without modality left out: 'P6', 'P8'" in facts


def test_structural_variants(study):
    cohort, facts = prepare_cbioportal(study, modalities=["sv", "clinical"], least_patients=1)
    assert cohort.modality("sv").spec.columns == ("EGFR-KRAS_FUSION", "EGFR_SV", "KRAS_SV", "TP53_SV")
    expected = {"P1": [1, 1, 1, 1], "P2": [0, NAN, 0, 0], "P3": [0, 0, 0, 1], "P4": [1, 1, 1, 0]}
    # The sample kept for P7 has no panel for structural variants.
    assert_rows(rows_of(cohort, "sv"), expected)
    assert "sv: 1 line of germline variants kept" in facts
    somatic, _ = prepare_cbioportal(study, modalities=["sv"], least_patients=1, somatic_only=True)
    assert rows_of(somatic, "sv")["P3"] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rule", "seventh", "said"),
    [
        ("primary", [NAN, 1, 0], "then the earliest (data_timeline_specimen.txt); 2 samples left out"),
        ("merge", [0, 1, 1], "1 patient with several samples: an alteration in any of them counts"),
        ("drop", None, "1 patient with several samples left out: 'P7'"),
    ],
)
def test_patients_with_several_samples(study, rule, seventh, said):
    cohort, facts = prepare_cbioportal(study, samples=rule)
    if seventh is None:
        assert "P7" not in cohort.row_ids
    else:
        np.testing.assert_array_equal(rows_of(cohort, "mutations")["P7"], seventh)
    assert any(said in fact for fact in facts)


def test_the_sample_kept_without_days_or_sequencing(study):
    (study / "data_timeline_specimen.txt").unlink()
    cohort, facts = prepare_cbioportal(study)
    assert rows_of(cohort, "mutations")["P7"] == [0, 0, 0]  # S7c, the first primary one in the file
    assert any("the first in the file" in fact for fact in facts)
    write(
        study, "data_gene_panel_matrix.txt", MATRIX.replace("S7b|SMALL|SMALL", "S7b|NA|NA").replace("S7c|BIG", "S7c|NA")
    )
    cohort, _ = prepare_cbioportal(study)
    assert rows_of(cohort, "mutations")["P7"] == [0, 0, 1]  # S7a, the only one sequenced


def test_options_of_mutations(study):
    cohort, facts = prepare_cbioportal(study, least_patients=1)
    assert "BRCA2_Silent_SNP_chr13" in cohort.modality("mutations").spec.columns
    assert rows_of(cohort, "mutations")["P1"][0] != rows_of(cohort, "mutations")["P1"][0]  # BRCA2 is on no panel
    cohort, facts = prepare_cbioportal(study, least_patients=1, drop_silent=True, somatic_only=True)
    assert cohort.modality("mutations").spec.columns == (EGFR, KRAS, TP53)
    assert rows_of(cohort, "mutations")["P3"] == [0, 0, 1]
    assert "mutations: 1 line of germline mutations left out" in facts
    cohort, facts = prepare_cbioportal(study, least_patients=1, least_gene_share=0.2)
    assert cohort.modality("mutations").spec.columns == (KRAS, TP53)
    assert "mutations: 4 lines of 2 genes with less than 0.2 of all left out" in facts
    cohort, _ = prepare_cbioportal(study, least_patients=4)
    assert cohort.modality("mutations").spec.columns == (KRAS, TP53)


def test_silent_mutations_of_the_promoter_of_tert_stay(study):
    more = "TERT|MSK|5|5'Flank|SNP|C|T|S3|SOMATIC\nALK|MSK|2|5'Flank|SNP|C|T|S3|SOMATIC\nALK|MSK|X|Intron|SNP|C|T|S3|\n"
    (study / "data_mutations.txt.gz").unlink()
    write(study, "data_mutations.txt", MAF + more)
    cohort, _ = prepare_cbioportal(study, least_patients=1, drop_silent=True)
    assert cohort.modality("mutations").spec.columns == (EGFR, KRAS, "TERT_5'Flank_SNP_chr5", TP53)


@pytest.mark.parametrize(
    ("reference", "first", "second", "expected"),
    [
        ("C", "C", "T", "SNP"), ("CA", "", "TT", "DNP"), ("CAG", "", "TTT", "TNP"), ("CAGT", "", "TTTA", "ONP"),
        ("-", "-", "A", "INS"), ("AG", "A", "", "DEL"), ("A", "AGG", "A", "INS"),
    ],
)  # fmt: skip
def test_variant_types_from_alleles(study, reference, first, second, expected):
    (study / "data_mutations.txt.gz").unlink()
    maf = "Hugo_Symbol|Chromosome|Variant_Classification|Reference_Allele|Tumor_Seq_Allele1|Tumor_Seq_Allele2|"
    maf += f"Tumor_Sample_Barcode\nTP53|23|RNA|{reference}|{first}|{second}|S1\n"
    write(study, "data_mutations_extended.txt", maf)
    cohort, _ = prepare_cbioportal(study, least_patients=1)
    assert cohort.modality("mutations").spec.columns == (f"TP53_RNA_{expected}_chrX",)


def test_without_a_matrix_the_case_list_decides_and_all_genes_count(study):
    (study / "data_gene_panel_matrix.txt").unlink()
    write(
        study, "case_lists/cases_sequenced.txt", "stable_id: t\ncase_list_name: A: b\ncase_list_ids: S1|S2|S3|S6|S8\n"
    )
    cohort, facts = prepare_cbioportal(study, modalities=["mutations", "clinical"])
    expected = {"P1": [1, 1, 1], "P2": [1, 1, 1], "P3": [0, 1, 1], "P6": [0, 1, 0]}
    assert_rows(rows_of(cohort, "mutations"), expected)
    assert "mutations: no panel is named for some samples: all genes count as covered there" in facts
    assert "mutations: 5 samples profiled, according to case_lists/cases_sequenced.txt" in facts
    # A panel that the meta file names holds for all of them.
    write(study, "meta_mutations.txt", "stable_id: mutations\ngene_panel: SMALL\n")
    cohort, _ = prepare_cbioportal(study, modalities=["mutations", "clinical"])
    assert cohort.modality("mutations").spec.columns == (KRAS, TP53)


def test_without_matrix_and_case_list_a_sample_with_a_line_was_sequenced(study):
    (study / "data_gene_panel_matrix.txt").unlink()
    cohort, facts = prepare_cbioportal(study)
    assert list(rows_of(cohort, "mutations")) == ["P1", "P2", "P3", "P4", "P6", "P7"]
    assert any("those with a line in the data (no panel matrix, no case list)" in fact for fact in facts)


def test_a_panel_without_definition_counts_as_whole(study, tmp_path):
    panels = tmp_path / "panels"
    panels.mkdir()
    (study / "gene_panels" / "data_gene_panel_small.txt").rename(panels / "small.txt")
    (panels / "README.md").write_text("not a panel")
    cohort, facts = prepare_cbioportal(study, gene_panels=panels)
    np.testing.assert_array_equal(rows_of(cohort, "mutations")["P2"], [NAN, 1, 1])
    assert rows_of(cohort, "mutations")["P1"] == [1, 1, 1]
    assert any("no definition of panel 'BIG' found" in fact for fact in facts)
    # A file that cannot be read matters where it may define what is missing, and nowhere else.
    (panels / "data_gene_panel_other.txt").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="data_gene_panel_other.txt: only the pointer of a large file"):
        prepare_cbioportal(study, gene_panels=panels)
    (study / "gene_panels" / "data_gene_panel_big.txt").rename(panels / "data_gene_panel_big.txt")
    cohort, facts = prepare_cbioportal(study, gene_panels=panels)
    assert "mutations: panels BIG (4 genes), SMALL (2 genes)" in facts


def test_a_study_of_mutations_and_samples_alone(study):
    for name in ("data_cna.txt", "data_sv.txt", "data_timeline_specimen.txt", "data_gene_panel_matrix.txt"):
        (study / name).unlink()
    (study / "data_clinical_patient.txt").unlink()
    lines = SAMPLES.splitlines()
    lines[4:] = [
        f"{line}|{'OS_MONTHS|OS_STATUS' if number == 4 else f'{number}|0:LIVING'}" for number, line in enumerate(lines)
    ][4:]
    write(study, "data_clinical_sample.txt", "\n".join(lines))
    cohort, facts = prepare_cbioportal(study)
    assert list(cohort.modalities) == ["mutations", "clinical"]
    assert "cna: no data_cna.txt in the study" in facts and "sv: no data_sv.txt in the study" in facts
    assert any("the study has no HIGHEST_STAGE_4, CNS_BRAIN, LIVER, LUNG" in fact for fact in facts)
    assert cohort.endpoint("OS").time.tolist()[:6] == [5, 6, 7, 8, 9, 10]


def test_strata(study):
    cohort, facts = prepare_cbioportal(study, strata="cancer_type", name="n")
    assert cohort.name == "n"
    assert cohort.strata[[0, 1, 6]].tolist() == ["Breast Cancer", "Non-Small Cell Lung Cancer", "unknown"]
    assert "strata: CANCER_TYPE, 4 values, 1 patient unknown" in facts


def test_the_command_writes_the_folder(study, tmp_path):
    out = tmp_path / "folder"
    arguments = ["data", "prepare", "cbioportal", str(study), "--out", str(out), "--strata", "CANCER_TYPE"]
    arguments += [
        "--samples",
        "merge",
        "--least-patients",
        "1",
        "--clinical",
        "SEX,CENTER",
        "--modalities",
        "mutations,clinical",
    ]
    result = CliRunner().invoke(main, [*arguments, "--drop-silent", "--leave-out", "LIVER"], catch_exceptions=False)
    assert result.exit_code == 0 and "mutations: panels BIG (4 genes)" in result.output
    made = Cohort.from_folder(out)
    direct, _ = prepare_cbioportal(
        study, strata="CANCER_TYPE", samples="merge", least_patients=1, clinical=["SEX", "CENTER"],
        modalities=["mutations", "clinical"], drop_silent=True, leave_out=["LIVER"],
    )  # fmt: skip
    assert made.fingerprint() == direct.fingerprint()


def replaced(name, old, new):
    """A change of one file, in which ``old`` occurs."""
    assert old in FILES[name]

    def change(folder) -> None:
        for path in (folder / name, folder / f"{name}.gz"):
            path.unlink(missing_ok=True)
        write(folder, name, FILES[name].replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replaced("data_clinical_patient.txt", "20.5|0:LIVING", "soon|0:LIVING"),
            r"patient.txt: line 7, column 'OS_MONTHS': expected a number, got 'soon'",
        ),
        (
            replaced("data_clinical_patient.txt", "|10|1:DECEASED", "|10|2:LOST"),
            "column 'OS_STATUS': expected '0:...' or LIVING.*got '2:LOST' for patient 'P1'",
        ),
        (
            replaced("data_clinical_patient.txt", "|10|1:DECEASED", "|-1|1:DECEASED"),
            "column 'OS_MONTHS': expected months from 0 on, got -1 for patient 'P1'",
        ),
        (
            replaced("data_clinical_patient.txt", "OS_STATUS", "STATE"),
            "expected columns 'OS_MONTHS', 'OS_STATUS'; the endpoints with both are 'PFS'",
        ),
        (
            replaced("data_clinical_patient.txt", "PATIENT_ID", "WHO"),
            "patient.txt: no column 'PATIENT_ID'; the columns are 'WHO', 'SEX'",
        ),
        (
            replaced("data_clinical_patient.txt", "SEX|CURRENT", "SEX|SEX|CURRENT"),
            "patient.txt: duplicate column 'SEX'",
        ),
        (
            replaced("data_clinical_patient.txt", "P8|Female", "P2|Female"),
            r"line 15, column 'CURRENT_AGE_DEID': 'P2' stands in line 7 already, with '60' and not '30'",
        ),
        (
            replaced("data_clinical_patient.txt", "P8|Female", "|Female"),
            "line 15, column 'PATIENT_ID': expected an id, got an empty cell",
        ),
        (
            replaced("data_clinical_patient.txt", "P8|", "P8|x|y|"),
            "line 15: expected 12 cells as in the header, got more",
        ),
        (
            replaced("data_clinical_sample.txt", "|3.5\n", "|few\n"),
            "sample.txt: line 7, column 'TMB_NONSYNONYMOUS': expected a number, got 'few'",
        ),
        (replaced("data_mutations.txt", "Chromosome", "Where"), "mutations.txt: no column 'CHROMOSOME'"),
        (
            replaced(
                "data_mutations.txt",
                "KRAS|MSK|12|Missense_Mutation|SNP|C|T|S2",
                "NA|MSK|12|Missense_Mutation|SNP|C|T|S2",
            ),
            "mutations.txt: line 10, column 'HUGO_SYMBOL': expected a text",
        ),
        (replaced("data_mutations.txt", "GGA|-|S4", "|-|S4"), "line 15, column 'VARIANT_TYPE': expected SNP, DNP"),
        (
            replaced("data_cna.txt", "3845|-2", "3845|deep"),
            "cna.txt: line 3, gene 'KRAS', sample 'S1': expected a level from -2 to 2, got 'deep'",
        ),
        (
            replaced("data_cna.txt", "3845|-2", "3845|5"),
            "gene 'KRAS', sample 'S1': expected a level from -2 to 2, got '5'",
        ),
        (replaced("data_cna.txt", "KRAS", ""), "cna.txt: line 3, column 'Hugo_Symbol': expected a gene"),
        (replaced("data_cna.txt", "S2", "S1"), "cna.txt: duplicate column 'S1'"),
        (replaced("data_cna.txt", "S1|S2|S3|S4|S6|S7b", "A|B|C|D|E|F"), "cna.txt: no column is a sample of the study"),
        (replaced("data_cna.txt", "S1|S2", "Sample_Id|Value"), "cna.txt: the long format"),
        (
            replaced("data_sv.txt", "TP53||DEL", "||DEL"),
            "sv.txt: line 4, column 'SITE1_HUGO_SYMBOL': expected a gene at either site",
        ),
        (
            replaced("data_gene_panel_matrix.txt", "S2|SMALL", "S1|SMALL"),
            "matrix.txt: line 3, column 'MUTATIONS': a second panel 'SMALL' for sample 'S1'",
        ),
        (
            replaced("gene_panels/data_gene_panel_big.txt", "gene_list", "genes"),
            "big.txt: expected lines 'stable_id: ...' and 'gene_list: ...'",
        ),
        (
            replaced("gene_panels/data_gene_panel_small.txt", "SMALL", "BIG"),
            "small.txt: panel 'BIG' has other genes than in .*big.txt",
        ),
        (
            replaced("data_timeline_specimen.txt", "-30", "May"),
            "specimen.txt: line 2, column 'START_DATE': expected a number, got 'May'",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_bad_files_are_named(study, change, message):
    change(study)
    with pytest.raises(DataError, match=message):
        prepare_cbioportal(study)


def test_files_that_cannot_be_read(study):
    path = study / "data_mutations.txt.gz"
    packed = path.read_bytes()
    path.write_bytes(packed[:200])
    with pytest.raises(DataError, match="mutations.txt.gz: cannot be read"):
        prepare_cbioportal(study)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match="only the pointer of a large file"):
        prepare_cbioportal(study)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="no header line"):
        prepare_cbioportal(study)
    path.write_bytes(packed)
    write(study, "data_mutations_extended.txt", MAF)
    with pytest.raises(DataError, match="keep one of 'data_mutations.txt.gz', 'data_mutations_extended.txt'"):
        prepare_cbioportal(study)
    path.unlink()
    (study / "data_clinical_sample.txt").unlink()
    with pytest.raises(DataError, match="expected 'data_clinical_sample.txt' or"):
        prepare_cbioportal(study)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clinical": ["WEIGHT"]}, DataError, "no clinical column 'WEIGHT'"),
        ({"clinical": ["OS_MONTHS"]}, DataError, "column 'OS_MONTHS' is an outcome"),
        ({"clinical": ["PFS_STATUS"]}, DataError, "column 'PFS_STATUS' is an outcome"),
        ({"endpoints": ["DSS"]}, DataError, "expected columns 'DSS_MONTHS', 'DSS_STATUS'"),
        ({"strata": "TISSUE"}, DataError, "strata: no clinical column 'TISSUE'"),
        ({"modalities": ["rna"]}, ValueError, "modalities: expected some of mutations, cna, sv, clinical"),
        ({"samples": "first"}, ValueError, "samples: expected one of primary, merge, drop"),
        ({"leave_out": ["AGE"]}, ValueError, "leave_out: no clinical feature 'AGE'"),
        ({"least_patients": 0}, ValueError, "least_patients"),
        ({"least_gene_share": 1.0}, ValueError, "least_gene_share"),
        ({"modalities": ["mutations"], "least_patients": 9}, DataError, "no patient with an outcome has a modality"),
    ],
)
def test_options_that_fit_nothing(study, options, error, message):
    with pytest.raises(error, match=message):
        prepare_cbioportal(study, **options)


def test_a_modality_that_is_asked_for_must_be_there(study):
    (study / "data_sv.txt").unlink()
    with pytest.raises(DataError, match="modality 'sv' needs the file 'data_sv.txt'"):
        prepare_cbioportal(study, modalities=["sv"])
    with pytest.raises(DataError, match="expected the folder of a study"):
        prepare_cbioportal(study / "nothing")


def test_rare_columns_are_left_out_by_the_training_part(study):
    """The cohort keeps what few patients have; what a model reads is counted on its training rows."""
    cohort, _ = prepare_cbioportal(study)
    training = cohort.select([0, 1, 2])  # EGFR is mutated in P1 alone here, and in P1 and P4 of all
    settings = {"modalities": {"mutations": {"least_active": 2}}}
    preprocessor = Preprocessor.fit(training, settings, endpoint="OS", imputes=False)
    widths = {part.name: part.width for part in preprocessor.inputs}
    assert widths == {"mutations": 2, "cna": 3, "sv": 4, "clinical": 12}
    assert [name for name in cohort.modality("mutations").spec.columns if name != EGFR] == [KRAS, TP53]
    assert dense(preprocessor.transform(cohort).batch().values["mutations"])[3].tolist() == [0, 1]


def with_cells(text, place, values) -> str:
    """The file with other cells in one column, by patient."""
    lines = [line.split("|") for line in text.splitlines()]
    for cells in lines:
        if cells[0] in values:
            cells[place] = values[cells[0]]
    return "\n".join(map("|".join, lines))


def test_stages_and_summaries_as_studies_write_them(study):
    stages = ["STAGE IIIC", "IVB", "Stage 0", "4", "ii", "I/II NOS", "Stage X", "Stage IA2"]
    extents = ["Regional by Direct Extension", "Regional Both 2 and 3", "LOCALIZED", "Distant", "?", "Regional Nos"]
    patients = {f"P{number}": stage for number, stage in enumerate(stages, start=1)}
    samples = {f"P{number}": extent for number, extent in enumerate(extents, start=1)}
    write(study, "data_clinical_patient.txt", with_cells(PATIENTS, 3, patients))
    write(study, "data_clinical_sample.txt", with_cells(SAMPLES, 4, samples))
    cohort, facts = prepare_cbioportal(study, modalities=["clinical"])
    spec, table = cohort.modality("clinical").spec, cohort.modality("clinical").table
    found = [table[:, spec.columns.index(name)] for name in ("HIGHEST_STAGE_4", "REGIONAL", "DISTANT")]
    np.testing.assert_array_equal(found[0], [0, 1, 0, 1, NAN, NAN, 0])
    np.testing.assert_array_equal(found[1][:5], [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(found[2][:5], [0, 0, 0, 1, 0])
    assert any("says nothing definite in 2 patients: 'I/II NOS', 'Stage X'" in fact for fact in facts)


def test_a_gene_in_two_lines_of_copy_numbers_and_no_mutation_at_all(study):
    write(study, "data_cna.txt", CNA + "ERBB2|2064|0|NA|0|2|NA|0|2\n")
    (study / "data_mutations.txt.gz").unlink()
    write(study, "data_mutations.txt", "\n".join(MAF.splitlines()[:2]))
    cohort, facts = prepare_cbioportal(study, least_patients=3)
    assert list(cohort.modalities) == ["cna", "clinical"]
    assert [row for row, values in rows_of(cohort, "cna").items() if values[0] == 1] == ["P1", "P3", "P4"]
    assert "mutations: 0 columns seen in at least 3 patients" in facts


def test_too_many_texts_are_no_categories(study):
    more = "".join(f"Q{number}|Male|50|Stage 4|No|No|No|1|0:LIVING|||C{number}\n" for number in range(21))
    write(study, "data_clinical_patient.txt", PATIENTS + more)
    with pytest.raises(DataError, match="column 'CENTER' holds 23 different texts .*at most 20"):
        prepare_cbioportal(study, clinical=["CENTER"])


def test_no_warning_of_pandas(study):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_cbioportal(study, samples="merge")
