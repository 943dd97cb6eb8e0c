"""Which genes were looked at in which sample: gene panels, the matrix of samples and panels, and case lists."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from survcore.data.cbioportal_files import MISSING, find_file, numbered_lines, read_study_file
from survcore.data.messages import counted, listed
from survcore.errors import DataError

_NAMES_OF_ALL = {"WES", "WXS", "WGS", "EXOME", "GENOME"}


@dataclass(frozen=True, eq=False)
class GeneCoverage:
    """Genes looked at, by sample or by patient (the owners). P patterns, G genes, N owners.

    Attributes:
        owners: ids, N.
        pattern: int64 [N], the pattern of each owner.
        genes: symbols, G.
        covered: bool [P, G].
        elsewhere: bool [P], whether a gene outside ``genes`` was looked at.
    """

    owners: pd.Index
    pattern: np.ndarray
    genes: pd.Index
    covered: np.ndarray
    elsewhere: np.ndarray

    def of_genes(self, symbols: Sequence[str]) -> np.ndarray:
        """bool [P, len(symbols)]: the genes covered in each pattern."""
        places = self.genes.get_indexer(pd.Index(symbols, dtype=object))
        table = np.concatenate((self.covered, self.elsewhere[:, None]), axis=1)
        return table[:, places]  # place -1, a gene outside, is the last column

    def looked_at(self, owners: pd.Series, symbols: pd.Series) -> np.ndarray:
        """bool [n]: whether each gene was looked at in the owner beside it; False for unknown owners."""
        unique = pd.Index(symbols.unique(), dtype=object)
        places = self.owners.get_indexer(pd.Index(owners))
        table = self.of_genes(unique)
        if not len(self.owners) or not len(unique):
            return np.zeros(len(owners), dtype=bool)
        return table[self.pattern[places], unique.get_indexer(symbols)] & (places >= 0)

    def by_patient(self, samples: pd.DataFrame) -> GeneCoverage:
        """Coverage of the patients of ``samples`` (columns sample, patient): what any of their samples covers."""
        places = self.owners.get_indexer(pd.Index(samples["sample"]))
        sets: dict[str, set[int]] = {}
        for patient, place in zip(samples["patient"], places.tolist(), strict=True):
            if place >= 0:
                sets.setdefault(patient, set()).add(int(self.pattern[place]))
        unions: dict[tuple[int, ...], int] = {}
        codes = [unions.setdefault(tuple(sorted(patterns)), len(unions)) for patterns in sets.values()]
        members = [list(union) for union in unions]
        return replace(
            self,
            owners=pd.Index(list(sets), dtype=object),
            pattern=np.array(codes, dtype=np.int64),
            covered=_any_of(self.covered, members),
            elsewhere=_any_of(self.elsewhere[:, None], members)[:, 0],
        )

    def without(self, owners: Collection[str]) -> GeneCoverage:
        """The other owners."""
        kept = ~self.owners.isin(list(owners))
        return replace(self, owners=self.owners[kept], pattern=self.pattern[kept])

    def within(self, other: GeneCoverage) -> GeneCoverage:
        """The same owners; a gene counts where ``other`` covers it too. Owners that ``other`` lacks keep theirs."""
        places = other.owners.get_indexer(self.owners)
        pairs = np.stack((self.pattern, np.where(places >= 0, other.pattern[places] if len(other.owners) else -1, -1)))
        both, codes = np.unique(pairs, axis=1, return_inverse=True)
        mine, theirs = both
        known = theirs >= 0
        covered, elsewhere = self.covered[mine], self.elsewhere[mine].copy()
        if known.any():
            covered[known] &= other.of_genes(list(self.genes))[theirs[known]]
            elsewhere[known] &= other.elsewhere[theirs[known]]
        return replace(self, pattern=codes.reshape(-1).astype(np.int64), covered=covered, elsewhere=elsewhere)


def unprofiled_samples(folder: Path, columns: Sequence[str]) -> list[str]:
    """Samples that the panel matrix names without a panel in the first of the columns that it has."""
    panel_of, _ = _matrix(folder, columns)
    return [sample for sample, panel in (panel_of or {}).items() if panel is None]


def profiled_samples(
    folder: Path,
    what: str,
    *,
    columns: Sequence[str],
    case_list: str,
    meta: str,
    panels_folder: Path | None,
    listed_samples: Sequence[str],
    facts: list[str],
) -> GeneCoverage:
    """The samples profiled for one kind of alteration, with the genes of their panels.

    The panel matrix decides about the samples that it names, else the case list, else whether the sample has any line
    in the data. The panel is the matrix's, else the one that the meta file names; without one, or where its definition
    is not found, all genes count as looked at.

    Args:
        folder: of the study.
        what: name of the modality, for the facts.
        columns: names of the matrix's column in capitals, the first one there is taken.
        case_list: name of the file in ``case_lists``.
        meta: name of the meta file.
        panels_folder: where gene panels are defined; by default the study and its ``gene_panels``.
        listed_samples: samples with a line in the data file.
        facts: how it was decided is appended.

    Raises:
        DataError: a panel defined twice with different genes, a matrix that gives a sample two panels, a damaged file.
    """
    panel_of, said = _matrix(folder, columns)
    cases = _case_list(folder, case_list)
    whole = _meta_value(folder, meta, "gene_panel")
    if panel_of is None:
        panel_of = {}
        if cases is not None:
            said = f"case_lists/{case_list}"
            panel_of = dict.fromkeys(cases, whole or "")
        else:
            said = "those with a line in the data (no panel matrix, no case list)"
            panel_of = dict.fromkeys(listed_samples, whole or "")
    elif cases is not None:
        panel_of |= {sample: whole or "" for sample in cases if sample not in panel_of}
    profiled = {sample: panel for sample, panel in panel_of.items() if panel is not None}
    names = sorted(set(profiled.values()))
    panels = [name for name in names if name and name.upper() not in _NAMES_OF_ALL]
    definitions = read_gene_panels(panels_folder, folder, panels)
    facts.append(f"{what}: {counted(len(profiled), 'sample')} profiled, according to {said}")
    if undefined := [name for name in panels if name not in definitions]:
        facts.append(
            f"{what}: no definition of panel {listed(undefined)} found: all genes count as covered there, so a gene "
            "that such a panel lacks reads 0 (cBioPortal keeps data_gene_panel_*.txt with its reference data)"
        )
    if "" in names:
        facts.append(f"{what}: no panel is named for some samples: all genes count as covered there")
    if defined := [name for name in names if name in definitions]:
        facts.append(
            f"{what}: panels " + ", ".join(f"{name} ({counted(len(definitions[name]), 'gene')})" for name in defined)
        )
    genes = pd.Index(sorted(set().union(*(definitions[name] for name in defined))), dtype=object)
    covered = np.ones((len(names), len(genes)), dtype=bool)
    for place, name in enumerate(names):
        if name in definitions:
            covered[place] = genes.isin(definitions[name])
    return GeneCoverage(
        pd.Index(list(profiled), dtype=object),
        pd.Index(names, dtype=object).get_indexer(pd.Index(list(profiled.values()), dtype=object)).astype(np.int64),
        genes,
        covered,
        np.array([name not in definitions for name in names], dtype=bool),
    )


def read_gene_panels(panels_folder: Path | None, folder: Path, needed: Collection[str]) -> dict[str, frozenset[str]]:
    """Genes of those of the panels that are defined, by files with lines ``stable_id: NAME``, ``gene_list: GENE ...``.

    Files called ``data_gene_panel_*.txt`` come first; others in a folder of panels tell what is still missing.

    Raises:
        DataError: a needed panel with different genes in two files, or without definition where a file of a panel
            cannot be read.
    """
    panels: dict[str, tuple[Path, frozenset[str]]] = {}
    problems: list[DataError] = []
    for path, named in _panel_files(panels_folder, folder):
        try:
            found = _panel(path, named)
        except DataError as error:
            problems.append(error)
            continue
        name, genes = found or ("", frozenset())
        if name not in needed or (not named and name in panels):
            continue
        if name in panels and panels[name][1] != genes:
            raise DataError(f"{path}: panel {name!r} has other genes than in {panels[name][0]}")
        panels[name] = (path, genes)
    if problems and set(needed) - set(panels):
        raise problems[0]
    return {name: genes for name, (_, genes) in panels.items()}


def _panel_files(panels_folder: Path | None, folder: Path) -> list[tuple[Path, bool]]:
    """Files that may define a panel, those whose name says so first."""
    places = [folder, folder / "gene_panels"] if panels_folder is None else [panels_folder]
    files = []
    for place in places:
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            name = path.name.lower()
            named = name.startswith("data_gene_panel_") and not name.startswith("data_gene_panel_matrix")
            if name.removesuffix(".gz").endswith(".txt") and path.is_file() and (named or place != folder):
                files.append((path, named))
    return sorted(files, key=lambda found: not found[1])


def _panel(path: Path, named: bool) -> tuple[str, frozenset[str]] | None:
    """Name and genes; None for a file that is no definition and is not called one."""
    fields = _fields(path)
    if {"stable_id", "gene_list"} <= set(fields):
        if genes := frozenset(fields["gene_list"].replace(",", " ").split()):
            return fields["stable_id"], genes
        raise DataError(f"{path}: panel {fields['stable_id']!r} has no genes")
    if named:
        raise DataError(f"{path}: expected lines 'stable_id: ...' and 'gene_list: ...', got {listed(fields)}")
    return None


def matrix_columns(folder: Path) -> list[str]:
    """Columns of the panel matrix in capitals, the id left out; empty without a matrix."""
    path = find_file(folder, "data_gene_panel_matrix.txt")
    return [] if path is None else [name for name in read_study_file(path, ["SAMPLE_ID"]).table if name != "SAMPLE_ID"]


def _matrix(folder: Path, columns: Sequence[str]) -> tuple[dict[str, str | None] | None, str]:
    """Panel of each sample, None where it was not profiled; None without a matrix or its column."""
    path = find_file(folder, "data_gene_panel_matrix.txt")
    if path is None:
        return None, ""
    matrix = read_study_file(path, ["SAMPLE_ID"])
    column = next((name for name in columns if name in matrix.table), None)
    if column is None:
        return None, ""
    lines = matrix.table[["SAMPLE_ID", column]].dropna(subset="SAMPLE_ID").drop_duplicates()
    if (twice := lines["SAMPLE_ID"].duplicated()).any():
        line = twice.idxmax()
        raise DataError(
            f"{matrix.cell(line, column)}: a second panel {lines[column][line]!r} for sample "
            f"{lines['SAMPLE_ID'][line]!r}; expected one line each"
        )
    return dict(zip(lines["SAMPLE_ID"], lines[column], strict=True)), f"column {column.lower()!r} of {path.name}"


def _case_list(folder: Path, name: str) -> list[str] | None:
    path = find_file(folder / "case_lists", name) if (folder / "case_lists").is_dir() else None
    if path is None:
        return None
    ids = _fields(path).get("case_list_ids")
    if ids is None:
        raise DataError(f"{path}: expected a line 'case_list_ids: ...'")
    return ids.split()


def _meta_value(folder: Path, name: str, key: str) -> str | None:
    path = find_file(folder, name)
    value = None if path is None else _fields(path).get(key, "")
    return value if value and value.lower() not in MISSING else None


def _fields(path: Path) -> dict[str, str]:
    """Lines ``key: value``; lines without a key continue the one before."""
    fields: dict[str, str] = {}
    key = ""
    for _, line in numbered_lines(path):
        name, colon, value = line.partition(":")
        if colon and "\t" not in name.strip():
            key = name.strip().lower()
            fields[key] = value.strip()
        elif key:
            fields[key] += "\t" + line.strip()
    return fields


def _any_of(rows: np.ndarray, members: list[list[int]]) -> np.ndarray:
    """bool [len(members), width]: the union of the rows that each list names."""
    union = np.zeros((len(members), rows.shape[1]), dtype=bool)
    for place, names in enumerate(members):
        union[place] = rows[names].any(axis=0)
    return union
