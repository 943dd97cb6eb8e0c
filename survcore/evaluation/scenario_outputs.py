"""A trained model on the rows of its test fold, scenario by scenario; what they share is encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from survcore.data.cohort import Cohort
from survcore.errors import DataError
from survcore.evaluation.scenarios import Scenario
from survcore.inference.outputs import EncodedCohort, Outputs
from survcore.inference.predictor import Predictor


@dataclass(frozen=True)
class ScenarioOutputs:
    """One scenario on one test fold.

    Attributes:
        scenario: the scenario.
        rows: the rows that were predicted.
        outputs: of these rows; None where nothing could be predicted.
        encoded: all rows that the scenario shows, behind the encoders.
        left_out: why rows, or all of it, were left out; empty where they were not.
    """

    scenario: Scenario
    rows: Cohort
    outputs: Outputs | None
    encoded: EncodedCohort
    left_out: str = ""


def scenario_outputs(
    predictor: Predictor, test: Cohort, chosen: Iterable[Scenario], seed: int
) -> Iterator[ScenarioOutputs]:
    """Every scenario that leaves something of the test rows.

    A model may be unable to fill in what is missing, for example where its recipe skips the stage that learns to. Then
    the complete scenarios keep the rows that lack nothing, and others give no outputs.

    Args:
        predictor: the trained model.
        test: the rows of the test fold, with the modalities of the model.
        chosen: the scenarios; those that show the same rows and patches stand together.
        seed: of all draws.
    """
    for (_, max_patches), group in groupby(chosen, key=lambda scenario: (scenario.absent, scenario.max_patches)):
        group = list(group)
        rows = group[0].apply(test)
        if rows is None:
            continue
        encoded = predictor.encode(rows, max_patches=max_patches, seed=seed)
        for scenario in group:
            try:
                outputs = predictor.outputs(encoded, fill=scenario.fill or "own", seed=seed)
                found = ScenarioOutputs(scenario, rows, outputs, encoded)
            except DataError as error:
                found = _in_part(predictor, ScenarioOutputs(scenario, rows, None, encoded, str(error)), seed)
            yield found


def _in_part(predictor: Predictor, found: ScenarioOutputs, seed: int) -> ScenarioOutputs:
    """A complete scenario on the rows that lack nothing; unchanged where there are none, or where it takes away."""
    whole = found.rows.availability.all(axis=1)
    if found.scenario.absent or not whole.any():
        return found
    rows = found.rows.select(whole)
    outputs = predictor.outputs(rows, max_patches=found.scenario.max_patches, seed=seed)
    return replace(found, rows=rows, outputs=outputs)
