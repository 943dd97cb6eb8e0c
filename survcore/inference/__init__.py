"""Prediction: a trained system with its preprocessor, on disk and at work."""

from survcore.inference.predictor import Predictor, load
from survcore.inference.survival_curve import SurvivalCurves

__all__ = ["Predictor", "SurvivalCurves", "load"]
