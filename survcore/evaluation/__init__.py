"""Evaluation: folds x scenarios of missing modalities, beside retrained unimodal versions and ridge Cox."""

from survcore.evaluation.run import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
