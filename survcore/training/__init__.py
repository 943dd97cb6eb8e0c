"""Training: recipes, the stage loop, checkpoints."""

from survcore.training.changes import read_changes
from survcore.training.fit import fit
from survcore.training.recipe import Recipe, load_recipe

__all__ = ["Recipe", "fit", "load_recipe", "read_changes"]
