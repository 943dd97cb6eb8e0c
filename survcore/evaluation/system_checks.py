"""What a training would stumble over before its first epoch, found before the first of many trainings."""

from __future__ import annotations

import json

import torch

from survcore.data.cohort import Cohort
from survcore.data.preprocessor import Preprocessor
from survcore.errors import DataError
from survcore.models import system_class
from survcore.training.recipe import Recipe


class SystemChecks:
    """Builds systems that are not trained, to see a value that none can be built with before it costs a training.

    Args:
        system: name of the system.
        training: the training rows of a fold, which give the shapes of the inputs.
        endpoint: name of the endpoint.
        where: what errors call these rows.
    """

    def __init__(self, system: str, training: Cohort, endpoint: str, where: str) -> None:
        self.build_system = system_class(system)
        self.training, self.endpoint, self.where = training, endpoint, where
        self.fitted: dict[str, Preprocessor] = {}

    def build(self, recipe: Recipe) -> None:
        """Raises what :func:`survcore.fit` would raise for the recipe before its first epoch."""
        settings = json.dumps(recipe.preprocess, sort_keys=True)
        if settings not in self.fitted:
            imputes = not self.build_system.takes_missing_entries
            try:
                self.fitted[settings] = Preprocessor.fit(
                    self.training, recipe.preprocess, endpoint=self.endpoint, imputes=imputes
                )
            except DataError as error:
                raise DataError(f"{self.where}: {error}") from error
        preprocessor = self.fitted[settings]
        # Some initialisations read values, so the system is built for good, at the cost of its memory.
        with torch.random.fork_rng(devices=[]):
            self.build_system(preprocessor.inputs, len(preprocessor.bins.edges) - 1, recipe.model)
