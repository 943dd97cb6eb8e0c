"""Structural variants of a cBioPortal study: the genes they touch and the pairs of genes they join."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from survcore.data.cbioportal_files import read_study_file
from survcore.data.messages import counted
from survcore.errors import DataError

SV_NAMES = ("data_sv.txt",)
_SITES = ("SITE1_HUGO_SYMBOL", "SITE2_HUGO_SYMBOL")


def read_structural_variants(path: Path, *, somatic_only: bool, facts: list[str]) -> pd.DataFrame:
    """One line per gene touched (GENE_SV) and per pair of different genes (GENE-GENE_FUSION, in alphabetical order).

    Args:
        path: columns ``Sample_Id``, ``Site1_Hugo_Symbol``, ``Site2_Hugo_Symbol`` and optionally ``SV_Status``.
        somatic_only: leave out germline variants.
        facts: what was read is appended.

    Returns:
        Columns ``sample``, ``column``, ``gene`` and ``partner`` (the other gene of a pair, else None).

    Raises:
        DataError: a missing column, or a line without sample or without both genes. The message names file and line.
    """
    variants = read_study_file(path, ["SAMPLE_ID", *_SITES], ["SV_STATUS"])
    table = variants.table
    facts.append(f"{path.name}: {counted(len(table), 'line')}")
    if (gaps := table["SAMPLE_ID"].isna()).any():
        raise DataError(f"{variants.cell(gaps.idxmax(), 'SAMPLE_ID')}: expected a sample, got an empty cell")
    one, other = table[_SITES[0]], table[_SITES[1]]
    if (gaps := one.isna() & other.isna()).any():
        raise DataError(f"{variants.cell(gaps.idxmax(), _SITES[0])}: expected a gene at either site, got empty cells")
    if "SV_STATUS" in table:
        germline = table["SV_STATUS"].str.lower() == "germline"
        if germline.any():
            done = "left out" if somatic_only else "kept"
            facts.append(f"sv: {counted(int(germline.sum()), 'line')} of germline variants {done}")
        if somatic_only:
            table, one, other = table[~germline], one[~germline], other[~germline]
    touched = [_lines(table["SAMPLE_ID"], genes + "_SV", genes, None)[genes.notna()] for genes in (one, other)]
    both = one.notna() & other.notna() & (one != other)
    first = one[both].where(one[both] < other[both], other[both])
    last = other[both].where(one[both] < other[both], one[both])
    joined = _lines(table["SAMPLE_ID"][both], first + "-" + last + "_FUSION", first, last)
    return pd.concat([*touched, joined], ignore_index=True).astype(object).drop_duplicates()


def _lines(samples: pd.Series, columns: pd.Series, genes: pd.Series, partners: pd.Series | None) -> pd.DataFrame:
    return pd.DataFrame({"sample": samples, "column": columns, "gene": genes, "partner": partners}).astype(object)
