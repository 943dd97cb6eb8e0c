"""Amplifications and deep deletions out of a matrix of discrete copy numbers, genes x samples."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.cbioportal_coverage import GeneCoverage
from survcore.data.cbioportal_files import MISSING, numbered_lines
from survcore.data.messages import counted, listed
from survcore.errors import DataError

CNA_NAMES = ("data_cna.txt",)
_DESCRIPTIONS = {"HUGO_SYMBOL", "ENTREZ_GENE_ID", "CYTOBAND", "GENE_SYMBOL", "LOCUS_ID", "GENE_ID"}
# The code of a missing entry lies outside the levels -2 to 2.
_UNKNOWN = -9
_AMPLIFIED, _DELETED = 2, -2


def read_copy_numbers(path: Path, samples: Collection[str], facts: list[str]) -> tuple[pd.DataFrame, GeneCoverage]:
    """Amplified (2) and deeply deleted (-2) genes of the given samples; other levels are no alteration.

    A gene in several lines is altered where one of them says so, and known where one of them holds a level.

    Args:
        path: header ``Hugo_Symbol``, further columns that describe the gene, and a column per sample; cells -2 to 2 or
            missing.
        samples: those to read; columns of others are counted in the facts.
        facts: what was read is appended.

    Returns:
        (alterations, coverage): columns ``sample``, ``column`` (GENE_AMP or GENE_HOMDEL), ``gene``, ``partner`` (None);
        and by sample the genes with a level.

    Raises:
        DataError: no column of genes or of any known sample, a sample in two columns, a level that is no number from -2
            to 2. The message names file, line, gene and sample.
    """
    lines = numbered_lines(path)
    header = next((line.split("\t") for _, line in lines if not line.startswith("#")), [])
    header = [name.strip().strip('"') for name in header]
    places = _sample_places(header, set(samples), path, facts)
    gene_place = [name.upper() for name in header].index("HUGO_SYMBOL")
    levels = _Levels()
    genes: list[str] = []
    known: list[np.ndarray] = []
    found: list[tuple[str, np.ndarray, int]] = []
    order = list(places.values())
    for number, line in lines:
        cells = line.split("\t")
        gene = cells[gene_place].strip().strip('"') if len(cells) > gene_place else ""
        if not line.strip():
            continue
        if gene.lower() in MISSING:
            raise DataError(f"{path}: line {number}, column 'Hugo_Symbol': expected a gene, got an empty cell")
        cells += [""] * (len(header) - len(cells))
        try:
            codes = np.array([levels[cells[place]] for place in order], dtype=np.int8)
        except ValueError as error:
            sample, cell = next((name, cells[at]) for name, at in places.items() if not levels.accepts(cells[at]))
            raise DataError(
                f"{path}: line {number}, gene {gene!r}, sample {sample!r}: expected a level from -2 to 2, got {cell!r}"
            ) from error
        genes.append(gene)
        known.append(codes != _UNKNOWN)
        found += [(gene, np.flatnonzero(codes == level), level) for level in (_AMPLIFIED, _DELETED)]
    if not genes:
        raise DataError(f"{path}: the file has no lines below its header")
    owners = pd.Index(list(places), dtype=object)
    facts.append(f"{path.name}: {counted(len(genes), 'gene')}, {counted(len(places), 'sample')}")
    return _alterations(found, owners), _coverage(genes, known, owners)


def _sample_places(header: list[str], samples: set[str], path: Path, facts: list[str]) -> dict[str, int]:
    capitals = [name.upper() for name in header]
    if "HUGO_SYMBOL" not in capitals:
        raise DataError(f"{path}: no column 'Hugo_Symbol'; the columns are {listed(header)}")
    if {"SAMPLE_ID", "VALUE"} <= set(capitals):
        raise DataError(f"{path}: the long format (one line per gene and sample); expected one column per sample")
    named = [name for name in header if name and name.upper() not in _DESCRIPTIONS]
    unique = pd.Index(named, dtype=object)
    if not unique.is_unique:
        raise DataError(f"{path}: duplicate column {listed(unique[unique.duplicated()].unique())}")
    wanted = samples.intersection(named)
    places = {name: place for place, name in enumerate(header) if name in wanted}
    if not places:
        raise DataError(f"{path}: no column is a sample of the study; the columns are {listed(header)}")
    if others := len(named) - len(places):
        facts.append(f"{path.name}: {counted(others, 'column')} of other samples not read")
    return places


class _Levels(dict[str, int]):
    """Cell -> level rounded towards 0 (-1.5 is a single-copy loss), or the code of a missing entry."""

    def __missing__(self, cell: str) -> int:
        text = cell.strip().strip('"')
        level = float("nan") if text.lower() in MISSING else float(text)
        if abs(level) > 2:
            raise ValueError(text)
        self[cell] = _UNKNOWN if np.isnan(level) else int(level)
        return self[cell]

    def accepts(self, cell: str) -> bool:
        try:
            return self[cell] >= _UNKNOWN
        except ValueError:
            return False


def _alterations(found: list[tuple[str, np.ndarray, int]], owners: pd.Index) -> pd.DataFrame:
    sizes = [len(places) for _, places, _ in found]
    names = [f"{gene}_{'AMP' if level == _AMPLIFIED else 'HOMDEL'}" for gene, _, level in found]
    where = np.concatenate([places for _, places, _ in found])
    return pd.DataFrame(
        {
            "sample": owners[where],
            "column": np.repeat(np.array(names, dtype=object), sizes),
            "gene": np.repeat(np.array([gene for gene, _, _ in found], dtype=object), sizes),
            "partner": None,
        }
    )


def _coverage(genes: list[str], known: list[np.ndarray], owners: pd.Index) -> GeneCoverage:
    symbols = pd.Index(pd.unique(pd.Series(genes)), dtype=object)
    table = np.zeros((len(symbols), len(owners)), dtype=bool)
    for place, line in zip(symbols.get_indexer(pd.Index(genes, dtype=object)), known, strict=True):
        table[place] |= line
    packed, pattern = np.unique(np.packbits(table.T, axis=1), axis=0, return_inverse=True)
    covered = np.unpackbits(packed, axis=1, count=len(symbols)).astype(bool)
    return GeneCoverage(
        owners, pattern.reshape(-1).astype(np.int64), symbols, covered, np.zeros(len(covered), dtype=bool)
    )
