"""Predictor: one trained system and its preprocessor, asked about patients with whatever modalities are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from survcore.data.preprocessor import Preprocessor
from survcore.errors import CheckpointError
from survcore.inference.artifact import load_artifact, save_artifact
from survcore.inference.survival_curve import SurvivalCurves
from survcore.models import system_class
from survcore.models.base import FILLS, System

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort


class Predictor:
    """A trained system ready to predict.

    Attributes:
        system: the trained :class:`~survcore.models.base.System`, in evaluation mode.
        preprocessor: fitted on the training rows.
        description: JSON-able facts: system, settings, recipe, seed, training rows and events, diagnostics, versions.
    """

    def __init__(self, system: System, preprocessor: Preprocessor, description: dict[str, Any]) -> None:
        self.system = system.eval()
        self.preprocessor = preprocessor
        self.description = description

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the system knows."""
        return self.system.modalities

    def save(self, path: str | Path) -> None:
        """Write the model folder (model.json and model.safetensors), atomically."""
        save_artifact(path, {**self.description, "preprocessor": self.preprocessor.state()}, self.system.state_dict())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Predictor:
        """Read a model folder.

        Raises:
            CheckpointError: foreign, of another version, cut short, or with weights that do not fit its description.
        """
        description, weights = load_artifact(path)
        try:
            preprocessor = Preprocessor.from_state(description.pop("preprocessor"))
            build = system_class(description["system"])
            system = build(preprocessor.inputs, description["time_bins"], description["settings"])
            system.load_state_dict(weights)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} does not hold what its description says: {error}") from error
        return cls(system.to(device), preprocessor, description)

    def hazard_logits(
        self,
        cohort: Cohort,
        *,
        fill: str = "own",
        seed: int = 0,
        draws: int = 5,
        steps: int = 50,
        batch_size: int = 256,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hazard logits [n, K] of a cohort's rows, and which modalities were filled in (bool [n, M])."""
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
        prepared = self.preprocessor.transform(cohort)
        device = next(self.system.parameters()).device
        logits, completed = [], []
        with torch.inference_mode():
            for index in torch.arange(len(prepared)).split(batch_size):
                encoded = self.system.encode(prepared.batch(index).to(device))
                whole = self.system.complete(encoded, fill=fill, seed=seed, draws=draws, steps=steps)
                logits.append(self.system.predict(whole)["hazard_logits"].float().cpu())
                completed.append(whole.completed.cpu())
        return torch.cat(logits).numpy(), torch.cat(completed).numpy()

    def predict(
        self,
        cohort: Cohort,
        *,
        months: Sequence[float] = (12, 36, 60),
        fill: str = "own",
        seed: int = 0,
        **sampling: Any,
    ) -> pd.DataFrame:
        """One row per patient: risk, median survival, survival at the asked months, and what was filled in.

        Args:
            cohort: patients with any subset of the modalities; outcomes are not needed.
            months: times at which survival is reported; NaN beyond the longest follow-up of the training rows.
            fill: "own" (the system completes what is missing), "zeros" or "mean".
            seed: draws of a patient depend on (seed, row id) only.
            sampling: ``draws``, ``steps`` and ``batch_size`` of :meth:`hazard_logits`.

        Returns:
            DataFrame indexed by row id: ``risk`` (minus the summed survival over bins, higher is worse),
            ``median_survival`` (months, infinite where survival stays above one half), ``survival_<m>``,
            ``available``, ``completed``, ``fill``.
        """
        logits, completed = self.hazard_logits(cohort, fill=fill, seed=seed, **sampling)
        curves = self._curves(logits)
        table = {"risk": risk_from_logits(logits), "median_survival": curves.median()}
        for month, column in zip(months, curves.survival(list(months)).T, strict=True):
            table[f"survival_{month:g}"] = column
        names = np.array(self.modalities)
        filled = [names[row] for row in completed]
        table["available"] = ["+".join(name for name in names if name not in row) for row in filled]
        table["completed"] = ["+".join(row) for row in filled]
        table["fill"] = [fill if len(row) else "" for row in filled]
        return pd.DataFrame(table, index=pd.Index(cohort.row_ids, name="row_id"))

    def predict_survival_function(
        self, cohort: Cohort, times: Sequence[float] | None = None, **options: Any
    ) -> pd.DataFrame:
        """Survival curves shaped as lifelines users know them: index = months, one column per row id.

        Args:
            cohort: the patients.
            times: months; default 101 even steps up to the longest follow-up of the training rows.
            options: as :meth:`hazard_logits`.
        """
        logits, _ = self.hazard_logits(cohort, **options)
        curves = self._curves(logits)
        times = np.linspace(0, curves.horizon, 101) if times is None else np.asarray(times, dtype=np.float64)
        return pd.DataFrame(
            curves.survival(times).T, index=pd.Index(times, name="months"), columns=list(cohort.row_ids)
        )

    def _curves(self, logits: np.ndarray) -> SurvivalCurves:
        hazards = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return SurvivalCurves(hazards, self.preprocessor.bins.edges, self.description["longest_follow_up"])


def risk_from_logits(logits: np.ndarray) -> np.ndarray:
    """Risk = - sum over bins of S(k), [n] float64; higher is worse."""
    survival = np.exp(-np.cumsum(np.logaddexp(0, logits.astype(np.float64)), axis=1))
    return -survival.sum(axis=1)


def load(path: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """Read a trained model from its folder (or from the output folder of ``survcore train``)."""
    return Predictor.load(path, device)
