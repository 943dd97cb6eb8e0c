"""Evaluation: folds x scenarios of missing modalities, beside retrained unimodal versions and ridge Cox; ablations."""

from survcore.evaluation.ablation import ablate
from survcore.evaluation.run import Evaluation, evaluate
from survcore.evaluation.training_missing import read_training_missing

__all__ = ["Evaluation", "ablate", "evaluate", "read_training_missing"]
