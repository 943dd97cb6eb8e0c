"""A panel out of single alterations, with genes that nobody looked at as missing entries."""

from __future__ import annotations

import numpy as np
import pandas as pd

from survcore.data.cbioportal_coverage import GeneCoverage
from survcore.data.messages import counted, listed
from survcore.data.sparse_panel import Panel


def alteration_panel(
    alterations: pd.DataFrame,
    samples: pd.DataFrame,
    patients: pd.Index,
    coverage: GeneCoverage,
    *,
    least_patients: int,
    what: str,
    facts: list[str],
) -> Panel | None:
    """The patients profiled, one column per alteration seen in at least ``least_patients`` of them.

    Args:
        alterations: columns ``sample``, ``column`` (its name in the panel), ``gene`` and ``partner`` (a second gene, or
            None); lines may repeat. A column is looked at where one of its genes is.
        samples: columns ``sample`` and ``patient``, those that stand for their patients.
        patients: ids that may have a row.
        coverage: by sample.
        least_patients: columns of fewer patients are left out.
        what: name of the modality, for the facts.
        facts: what was left out is appended.

    Returns:
        1 = altered, 0 = looked at and not altered, missing = not looked at; None where no column is left.
    """
    seen = alterations[alterations["sample"].isin(samples["sample"])]
    here = coverage.looked_at(seen["sample"], seen["gene"])
    paired = seen["partner"].notna().to_numpy()
    here[paired] |= coverage.looked_at(seen["sample"][paired], seen["partner"][paired])
    if not here.all():
        outside = seen[~here]
        profiled = outside["sample"].isin(coverage.owners)
        if unprofiled := int((~profiled).sum()):
            facts.append(f"{what}: {counted(unprofiled, 'alteration')} of samples that were not profiled left out")
        if profiled.any():
            genes = listed(sorted(outside["gene"][profiled].unique()))
            lines = counted(int(profiled.sum()), "alteration")
            facts.append(f"{what}: {lines} in genes outside the sample's panel left out: {genes}")
        seen = seen[here]
    by_patient = coverage.by_patient(samples)
    rows = patients[patients.isin(by_patient.owners)]
    pairs = seen.assign(row=rows.get_indexer(seen["sample"].map(samples.set_index("sample")["patient"])))
    pairs = pairs[pairs["row"] >= 0].drop_duplicates(["row", "column"])
    counts = pairs["column"].value_counts()
    kept = pd.Index(sorted(counts.index[counts >= least_patients]), dtype=object)
    rare = len(counts) - len(kept)
    facts.append(
        f"{what}: {counted(len(kept), 'column')} seen in at least {counted(least_patients, 'patient')}"
        + (f", {counted(rare, 'rarer one')} left out" if rare else "")
    )
    if kept.empty:
        return None
    pairs = pairs[pairs["column"].isin(kept)]
    genes = pairs.drop_duplicates("column").set_index("column").loc[kept, ["gene", "partner"]]
    observed = by_patient.of_genes(genes["gene"].tolist())
    two = genes["partner"].notna().to_numpy()
    if two.any():
        observed[:, two] |= by_patient.of_genes(genes["partner"][two].tolist())
    pattern = by_patient.pattern[by_patient.owners.get_indexer(rows)]
    some = observed[pattern].any(axis=1)
    places = np.cumsum(some) - 1
    return Panel(
        rows[some],
        list(kept),
        np.stack((places[pairs["row"]], kept.get_indexer(pairs["column"])), axis=1),
        assays=pattern[some],
        covered=dict(enumerate(observed)),
    )
