"""Mutations of a cBioPortal study as subtypes: gene, mutation type, variant type and chromosome.

``TP53_Missense_Mutation_SNP_chr17`` is one subtype, the definition of Surv-M2AC.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from survcore.data.cbioportal_files import StudyFile, read_study_file
from survcore.data.messages import counted, listed
from survcore.errors import DataError

MAF_NAMES = ("data_mutations.txt", "data_mutations_extended.txt", "data_mutations_mskcc.txt")
# What cBioPortal itself does not load unless a study asks for it; the promoter of TERT stays.
SILENT = ("Silent", "Intron", "IGR", "3'UTR", "5'UTR", "3'Flank", "5'Flank", "RNA")
_NO_MUTATION = {"none", "loh", "wildtype"}
_GERMLINE = "germline"
_REQUIRED = ("HUGO_SYMBOL", "TUMOR_SAMPLE_BARCODE", "VARIANT_CLASSIFICATION", "CHROMOSOME")
_ALLELES = ("REFERENCE_ALLELE", "TUMOR_SEQ_ALLELE1", "TUMOR_SEQ_ALLELE2")
_SUBSTITUTIONS = {1: "SNP", 2: "DNP", 3: "TNP"}


def read_mutations(
    path: Path,
    *,
    drop_silent: bool,
    somatic_only: bool,
    least_gene_share: float,
    facts: list[str],
) -> pd.DataFrame:
    """The mutations of a MAF, one line each.

    Args:
        path: the MAF.
        drop_silent: leave out the classifications of :data:`SILENT`, except those of TERT's 5'Flank.
        somatic_only: leave out germline mutations.
        least_gene_share: leave out genes with a smaller share of all lines.
        facts: what was left out is appended.

    Returns:
        Columns ``sample``, ``column`` (the subtype), ``gene`` and ``partner`` (None).

    Raises:
        DataError: a missing column, an empty cell of gene, sample or classification, an unknown variant type where
            neither the column nor the alleles tell it. The message names file and line.
    """
    maf = read_study_file(path, _REQUIRED, ("VARIANT_TYPE", "MUTATION_STATUS", *_ALLELES))
    table = maf.table
    facts.append(f"{path.name}: {counted(len(table), 'line')}")
    for column in _REQUIRED:
        if (gaps := table[column].isna()).any():
            raise DataError(f"{maf.cell(gaps.idxmax(), column)}: expected a text, got an empty cell")
    if "MUTATION_STATUS" in table:
        status = table["MUTATION_STATUS"].str.lower()
        table = _without(table, status.isin(_NO_MUTATION), "of no mutation (None, LOH, Wildtype)", facts)
        germline = table["MUTATION_STATUS"].str.lower() == _GERMLINE
        if somatic_only:
            table = _without(table, germline, "of germline mutations", facts)
        elif germline.any():
            facts.append(f"mutations: {counted(int(germline.sum()), 'line')} of germline mutations kept")
    if drop_silent:
        promoter = (table["HUGO_SYMBOL"] == "TERT") & (table["VARIANT_CLASSIFICATION"] == "5'Flank")
        silent = table["VARIANT_CLASSIFICATION"].isin(SILENT) & ~promoter
        table = _without(table, silent, "of silent and non-coding mutations", facts)
    if least_gene_share > 0:
        share = table["HUGO_SYMBOL"].value_counts(normalize=True)
        rare = table["HUGO_SYMBOL"].isin(share.index[share < least_gene_share])
        genes = table["HUGO_SYMBOL"][rare].nunique()
        table = _without(table, rare, f"of {counted(genes, 'gene')} with less than {least_gene_share:g} of all", facts)
    names = table["HUGO_SYMBOL"] + "_" + table["VARIANT_CLASSIFICATION"] + "_" + _variant_types(maf, table)
    return pd.DataFrame(
        {
            "sample": table["TUMOR_SAMPLE_BARCODE"],
            "column": names + "_chr" + _chromosomes(table["CHROMOSOME"]),
            "gene": table["HUGO_SYMBOL"],
            "partner": None,
        }
    )


def _without(table: pd.DataFrame, which: pd.Series, what: str, facts: list[str]) -> pd.DataFrame:
    if which.any():
        facts.append(f"mutations: {counted(int(which.sum()), 'line')} {what} left out")
    return table[~which]


def _chromosomes(chromosomes: pd.Series) -> pd.Series:
    """1 to 22, X, Y, MT, without "chr"."""
    bare = chromosomes.str.removeprefix("chr").str.removeprefix("Chr").str.upper().str.removesuffix(".0")
    return bare.replace({"23": "X", "24": "Y", "M": "MT"})


def _variant_types(maf: StudyFile, table: pd.DataFrame) -> pd.Series:
    """SNP, DNP, TNP, ONP, INS or DEL; from the alleles where the cell is empty, for the column is optional."""
    types = table["VARIANT_TYPE"] if "VARIANT_TYPE" in table else pd.Series(None, index=table.index, dtype=object)
    gaps = types.isna()
    if not gaps.any():
        return types
    found = {}
    for line, cells in table.loc[gaps, [name for name in _ALLELES if name in table]].iterrows():
        found[line] = _from_alleles(*(cells.get(name) for name in _ALLELES))
        if found[line] is None:
            raise DataError(
                f"{maf.cell(line, 'VARIANT_TYPE')}: expected SNP, DNP, TNP, ONP, INS or DEL, or the alleles "
                f"{listed(_ALLELES)} to tell it, got an empty cell and {cells.tolist()}"
            )
    return types.where(~gaps, pd.Series(found, dtype=object))


def _from_alleles(reference: str | None, first: str | None, second: str | None) -> str | None:
    changed = next((allele for allele in (second, first) if allele and allele != reference), None)
    if not reference or not changed:
        return None
    before, after = (len(allele.strip("-")) for allele in (reference, changed))
    if before == after:
        return _SUBSTITUTIONS.get(before, "ONP")
    return "INS" if after > before else "DEL"
