"""Which modalities are taken away at test time, and how the system fills them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from survcore.data.cohort import Cohort
from survcore.models.base import FILLS


@dataclass(frozen=True)
class Scenario:
    """One way to look at the test rows.

    Attributes:
        name: "complete", "complete, <N> patches", "without <modality>" or "only <modality>".
        absent: the modalities taken away.
        fill: how the system completes them; empty for the complete scenarios.
        max_patches: largest number of patches of a bag; 0 for all.
    """

    name: str
    absent: tuple[str, ...] = ()
    fill: str = ""
    max_patches: int = 0

    def apply(self, cohort: Cohort) -> Cohort | None:
        """The cohort as this scenario shows it, without the rows that are left with nothing; None if that is all."""
        for modality in self.absent:
            cohort = cohort.without(modality)
        left = cohort.availability.any(axis=1)
        if not left.any():
            return None
        return cohort if left.all() else cohort.select(left)


def title(model: str, scenario: str, fill: str) -> str:
    """What reports call a model in a scenario."""
    return model + (f", {scenario}" if scenario != "complete" else "") + (f" ({fill})" if fill else "")


def scenarios(modalities: Sequence[str], *, max_patches: int = 0) -> list[Scenario]:
    """Complete, each modality missing, from three modalities on each one alone; every fill at the same weights.

    With ``max_patches`` also complete with at most so many patches of a bag. Scenarios that show the same rows and
    patches stand together.
    """
    found = [Scenario("complete")]
    if max_patches:
        found.append(Scenario(f"complete, {max_patches} patches", max_patches=max_patches))
    if len(modalities) < 2:
        return found
    for modality in modalities:
        found += [Scenario(f"without {modality}", (modality,), fill) for fill in FILLS]
    if len(modalities) > 2:
        for modality in modalities:
            others = tuple(name for name in modalities if name != modality)
            found += [Scenario(f"only {modality}", others, fill) for fill in FILLS]
    return found
