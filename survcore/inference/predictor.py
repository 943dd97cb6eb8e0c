"""Predictor: one trained system and its preprocessor, asked about patients with whatever modalities are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from survcore.arguments import whole_number
from survcore.batch import Bags, Batch
from survcore.data.prepared import PreparedCohort
from survcore.data.preprocessor import Preprocessor
from survcore.devices import known_device
from survcore.errors import CheckpointError, DataError
from survcore.inference.artifact import load_artifact, save_artifact
from survcore.inference.survival_curve import SurvivalCurves
from survcore.models import system_class
from survcore.models.base import FILLS, Completed, Encoded, System

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort

_BATCH_SIZE = 256
# Columns of quantiles of the risk over draws; the last two say little of fewer draws.
_LEVELS = {"risk_min": 0.0, "risk_max": 1.0, "risk_q025": 0.025, "risk_q975": 0.975}
_DRAWS_FOR_QUANTILES = 40
# Of a made-up bag: more than landmarks, so that the attention of large bags is set up.
_PATCHES = 512


@dataclass(frozen=True)
class Outputs:
    """Raw outputs for n rows.

    Attributes:
        heads: float64 arrays by name, ``risk`` [n] and e.g. ``hazard_logits`` [n, K].
        draw_risks: float64 [n, draws], the risk that each single draw gives; NaN where nothing was drawn.
        completed: bool [n, M], modalities that were filled in.
        imputed: int64 [n], single entries that took training values.
        subsampled: bool [n, M], bags of which ``max_patches`` let only a part be seen.
        dropped_patches: int64 [n], patches that were left out of the bags for a missing entry.
    """

    heads: dict[str, np.ndarray]
    draw_risks: np.ndarray
    completed: np.ndarray
    imputed: np.ndarray
    subsampled: np.ndarray
    dropped_patches: np.ndarray

    @property
    def drawn(self) -> np.ndarray:
        """Rows of which something was drawn, bool [n]."""
        return ~np.isnan(self.draw_risks).all(axis=1)

    @property
    def risk_spread(self) -> np.ndarray:
        """Standard deviation of the risk over single draws, float64 [n]: 0 where nothing was drawn, NaN where there is
        but one draw."""
        spread = np.zeros(len(self.draw_risks))
        risks = self.draw_risks[self.drawn]
        spread[self.drawn] = risks.std(axis=1, ddof=1) if risks.shape[1] > 1 else np.nan
        return spread

    def risk_quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles of the risk over single draws, float64 [n, levels], 0 the least and 1 the largest; the risk itself
        where nothing was drawn."""
        found = np.repeat(self.heads["risk"][:, None], len(levels), axis=1)
        if self.drawn.any():
            found[self.drawn] = np.quantile(self.draw_risks[self.drawn], levels, axis=1).T
        return found


@dataclass(frozen=True)
class EncodedCohort:
    """Rows of a cohort behind the encoders, to be completed and predicted in several ways.

    Attributes:
        prepared: the rows before the encoders.
        max_patches: largest number of patches of a bag that was let be seen; 0 for all.
        batches: the encoded rows in order, on the device of the model.
    """

    prepared: PreparedCohort
    max_patches: int
    batches: Iterable[Encoded]

    @property
    def row_ids(self) -> np.ndarray:
        """str [n]."""
        return self.prepared.row_ids

    @property
    def imputed(self) -> np.ndarray:
        """Single entries that took training values, int64 [n]."""
        return sum(self.prepared.imputed.values(), np.zeros(len(self.prepared), dtype=np.int64))

    @property
    def subsampled(self) -> np.ndarray:
        """Bags of which ``max_patches`` let only a part be seen, bool [n, M]."""
        return self.prepared.subsampled(self.max_patches)


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

    @property
    def _device(self) -> torch.device:
        return next(self.system.parameters()).device

    def save(self, path: str | Path) -> None:
        """Write the model folder (model.json and model.safetensors), atomically."""
        save_artifact(path, {**self.description, "preprocessor": self.preprocessor.state()}, self.system.state_dict())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "auto") -> Predictor:
        """Read a model folder.

        Args:
            path: of the model folder.
            device: where to predict: "cpu", "cuda:N", or "auto", a GPU where there is one.

        Raises:
            ValueError: a device that is not there.
            CheckpointError: foreign, of another version, cut short, or with weights that do not fit its description.
        """
        device = known_device(device)
        description, weights = load_artifact(path)
        try:
            preprocessor = Preprocessor.from_state(description.pop("preprocessor"))
            build = system_class(description["system"])
            system = build(preprocessor.inputs, description["time_bins"], description["settings"])
            system.load_state_dict(weights)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} does not hold what its description says: {error}") from error
        return cls(system.to(device), preprocessor, description)

    def warmup(self, **options: Any) -> None:
        """Predict for made-up patients, one with all modalities and one without each, so that the first real one does
        not wait for what is set up once: packed weights of samplers, threads, compiled kernels.

        Args:
            options: ``fill``, ``draws``, ``steps``, ``solver`` and ``precision``, as :meth:`outputs` will be given.

        Raises:
            ValueError: as :meth:`outputs`.
        """
        count = len(self.modalities)
        for missing in range(count + 1 if count > 1 else 1):
            batch = _made_up(self.system, missing - 1).to(self._device)
            with torch.inference_mode():
                try:
                    whole = self.system.complete(self.system.encode(batch), **options)
                except DataError:  # a modality that this system cannot fill in
                    continue
                self.system.predict(whole)
                self.system.predict_draws(whole)

    def encode(
        self, cohort: Cohort, *, max_patches: int = 0, seed: int = 0, batch_size: int = _BATCH_SIZE
    ) -> EncodedCohort:
        """A cohort's rows behind the encoders, which is where the time of large bags goes.

        :meth:`outputs`, :meth:`predict` and :meth:`part_cosines` take the result in place of the cohort, as often as
        asked, and give what they give for the cohort.

        Args:
            cohort: patients with any subset of the modalities; outcomes are not needed.
            max_patches, batch_size: as in :meth:`outputs`.
            seed: of the choice of patches.

        Raises:
            DataError: a row with no modality, or a modality the model never saw.
            ValueError: ``max_patches`` is no whole number of at least 0.
        """
        encoding = self._encoding(cohort, max_patches, seed, batch_size)
        return replace(encoding, batches=tuple(encoding.batches))

    def outputs(
        self,
        cohort: Cohort | EncodedCohort,
        *,
        fill: str = "own",
        seed: int = 0,
        draws: int = 5,
        steps: int = 50,
        solver: str = "ddim",
        precision: str = "full",
        max_patches: int = 0,
        batch_size: int | None = None,
    ) -> Outputs:
        """What the task head says of a cohort's rows, and what was filled in on the way.

        Args:
            cohort: patients with any subset of the modalities; outcomes are not needed. Or what :meth:`encode` made of
                them, which has its ``max_patches`` and ``batch_size`` already.
            fill: "own" (the system completes what is missing), "zeros" or "mean".
            seed: draws of a patient depend on (seed, row id) only.
            draws, steps: of systems that sample.
            solver: "ddim", or "dpm_solver++", which comes as close with 15 to 20 steps as "ddim" with 50.
            precision: of sampling on the CPU: "full", or "bfloat16", which reads half as much memory.
            max_patches: largest number of patches of a bag; a larger bag gives a subsample that depends on (seed, row
                id) only, which is faster and less accurate. 0 for all.
            batch_size: rows at a time, default 256; it does not change the result.

        Raises:
            DataError: a row with no modality, a modality the model never saw, or a missing one that it cannot complete;
                features so large that a row's risk is not a number.
            ValueError: unknown fill, solver or precision; a number that is not whole or too small; ``max_patches`` or
                ``batch_size`` is given for rows that are encoded.
        """
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
        seed = whole_number("seed", seed)
        if isinstance(cohort, EncodedCohort):
            for name, value, default in (("max_patches", max_patches, 0), ("batch_size", batch_size, None)):
                if value != default:
                    raise ValueError(f"{name} is an option of encode; these rows are encoded, got {value!r}")
            encoding = cohort
        else:
            encoding = self._encoding(cohort, max_patches, seed, _BATCH_SIZE if batch_size is None else batch_size)
        sampling: dict[str, Any] = {"draws": draws, "steps": steps, "solver": solver, "precision": precision}
        heads: list[dict[str, Tensor]] = []
        completed, draw_risks = [], []
        with torch.inference_mode():
            for encoded in encoding.batches:
                whole = self.system.complete(encoded, fill=fill, seed=seed, **sampling)
                heads.append({name: value.cpu() for name, value in self.system.predict(whole).items()})
                completed.append(whole.completed.cpu())
                draw_risks.append(self._draw_risks(whole, draws))
        values = {name: torch.cat([head[name] for head in heads]).double().numpy() for name in heads[0]}
        for name, value in values.items():
            broken = np.isnan(value).any(axis=tuple(range(1, value.ndim)))
            if broken.any():
                raise DataError(
                    f"{name} is not a number for {broken.sum()} rows, first {str(cohort.row_ids[broken][0])!r}: are "
                    "their features as large as those of the training rows?"
                )
        return Outputs(
            values,
            torch.cat(draw_risks).numpy(),
            torch.cat(completed).numpy(),
            encoding.imputed,
            encoding.subsampled,
            encoding.prepared.dropped_patches(),
        )

    def predict(
        self,
        cohort: Cohort | EncodedCohort,
        *,
        months: Sequence[float] = (12, 36, 60),
        restricted_mean_to: float | None = None,
        **options: Any,
    ) -> pd.DataFrame:
        """One row per patient: risk, median survival, survival at the asked months, and what was filled in.

        Args:
            cohort: patients with any subset of the modalities, or what :meth:`encode` made of them; outcomes are not
                needed.
            months: times at which survival is reported; NaN beyond the longest follow-up of the training rows.
            restricted_mean_to: also report the restricted mean survival time up to this month.
            options: ``fill``, ``seed``, ``draws``, ``steps``, ``solver``, ``precision``, ``max_patches`` and
                ``batch_size`` of :meth:`outputs`.

        Returns:
            DataFrame indexed by row id: ``risk`` (higher is worse; of discrete hazards minus the summed survival over
            bins), ``risk_spread`` (standard deviation of the risk over single draws; 0 where nothing was drawn, NaN
            where there is but one draw), ``risk_min`` and ``risk_max`` (of single draws), from 40 draws on
            ``risk_q025`` and ``risk_q975`` (between which 95 % of them lie), ``median_survival`` (months, infinite
            where survival stays above one half),
            ``survival_<m>``, ``restricted_mean`` if asked for, ``available`` and ``completed`` (modalities joined by
            +), ``fill``, ``imputed_entries`` (single missing entries that took training values), ``subsampled``
            (modalities, joined by +, of whose bag ``max_patches`` let only a part be seen), and ``dropped_patches``
            (patches left out of the row's bags for a missing entry; with ``max_patches``, of those that were drawn).
        """
        outputs = self.outputs(cohort, **options)
        curves = self._curves(outputs)
        table: dict[str, Any] = {
            "risk": outputs.heads["risk"],
            "risk_spread": outputs.risk_spread,
        }
        levels = _LEVELS if outputs.draw_risks.shape[1] >= _DRAWS_FOR_QUANTILES else dict(list(_LEVELS.items())[:2])
        table |= dict(zip(levels, outputs.risk_quantiles(list(levels.values())).T, strict=True))
        table["median_survival"] = curves.median()
        for month, column in zip(months, curves.survival(list(months)).T, strict=True):
            table[f"survival_{month:g}"] = column
        if restricted_mean_to is not None:
            table["restricted_mean"] = curves.restricted_mean(restricted_mean_to)
        names = np.array(self.modalities)
        filled, cut = ([names[row] for row in mask] for mask in (outputs.completed, outputs.subsampled))
        table["available"] = ["+".join(name for name in names if name not in row) for row in filled]
        table["completed"] = ["+".join(row) for row in filled]
        table["fill"] = [options.get("fill", "own") if len(row) else "" for row in filled]
        table["imputed_entries"] = outputs.imputed
        table["subsampled"] = ["+".join(row) for row in cut]
        table["dropped_patches"] = outputs.dropped_patches
        return pd.DataFrame(table, index=pd.Index(cohort.row_ids, name="row_id"))

    def predict_survival_function(
        self, cohort: Cohort, times: Sequence[float] | None = None, **options: Any
    ) -> pd.DataFrame:
        """Survival curves shaped as lifelines users know them: index = months, one column per row id.

        Args:
            cohort: the patients.
            times: months; default 101 even steps up to the longest follow-up of the training rows.
            options: as :meth:`outputs`.
        """
        curves = self._curves(self.outputs(cohort, **options))
        times = np.linspace(0, curves.horizon, 101) if times is None else np.asarray(times, dtype=np.float64)
        return pd.DataFrame(
            curves.survival(times).T, index=pd.Index(times, name="months"), columns=list(cohort.row_ids)
        )

    def part_cosines(self, cohort: Cohort | EncodedCohort) -> pd.DataFrame:
        """Mean cosines between the parts into which the system takes rows apart, over the rows that own both parts.

        Args:
            cohort: patients with any subset of the modalities, or what :meth:`encode` made of them; outcomes are not
                needed.

        Returns:
            Square DataFrame labelled by part, NaN where no row owns both; empty where the system knows no parts.
        """
        encoding = cohort if isinstance(cohort, EncodedCohort) else self._encoding(cohort)
        labels: list[str] = []
        total, count = 0.0, 0
        with torch.inference_mode():
            for encoded in encoding.batches:
                found = self.system.part_cosines(encoded)
                if found is None:
                    return pd.DataFrame()
                labels, cosines = found[0], found[1].double().cpu()
                total, count = total + cosines.nansum(0), count + (~cosines.isnan()).sum(0)
        return pd.DataFrame((total / count).numpy(), index=labels, columns=labels)

    def _encoding(
        self, cohort: Cohort, max_patches: int = 0, seed: int = 0, batch_size: int = _BATCH_SIZE
    ) -> EncodedCohort:
        """What :meth:`encode` gives, with batches that are encoded as they are asked for, once."""
        max_patches, batch_size = whole_number("max_patches", max_patches, 0), whole_number("batch_size", batch_size, 1)
        cohort.require_some_modality()
        prepared = self.preprocessor.transform(cohort)
        return EncodedCohort(prepared, max_patches, self._batches(prepared, max_patches, seed, batch_size))

    def _batches(self, prepared: PreparedCohort, max_patches: int, seed: int, batch_size: int) -> Iterator[Encoded]:
        for index in torch.arange(len(prepared)).split(batch_size):
            batch = prepared.batch(index, max_patches=max_patches, seed=seed).to(self._device)
            # The mode would hold on in the caller between two batches if it enclosed the yield.
            with torch.inference_mode():
                encoded = self.system.encode(batch)
            yield encoded

    def _draw_risks(self, completed: Completed, draws: int) -> Tensor:
        """[B, draws] float64, NaN where nothing was drawn."""
        drawn = completed.completed.any(1).cpu()
        found = torch.full((len(drawn), draws), torch.nan, dtype=torch.float64)
        if drawn.any() and (risks := self.system.predict_draws(completed)) is not None:
            found[drawn] = risks.double().cpu()[drawn]
        return found

    def _curves(self, outputs: Outputs) -> SurvivalCurves:
        with np.errstate(over="ignore"):
            hazards = 1 / (1 + np.exp(-outputs.heads["hazard_logits"]))
        return SurvivalCurves(hazards, self.preprocessor.bins.edges, self.description["longest_follow_up"])


def _made_up(system: System, missing: int) -> Batch:
    """One row of zeros without the modality of this index; below 0, with all."""
    availability = torch.ones(1, len(system.inputs), dtype=torch.bool)
    values: dict[str, Tensor | Bags] = {}
    for index, modality in enumerate(system.inputs):
        availability[0, index] = there = index != missing
        if modality.kind == "bag":
            values[modality.name] = Bags.of([torch.zeros(_PATCHES, modality.width) if there else None])
        elif modality.kind == "tokens" and not modality.groups:
            values[modality.name] = torch.zeros(1, 1, modality.width)
        else:
            values[modality.name] = torch.zeros(1, modality.width)
    return Batch(torch.zeros(1, dtype=torch.int64), availability, values)


def load(path: str | Path, device: torch.device | str = "auto") -> Predictor:
    """Read a trained model from its folder (or from the output folder of ``survcore train``); see
    :meth:`Predictor.load`."""
    return Predictor.load(path, device)
