"""Predictor: one trained system and its preprocessor, asked about patients with whatever modalities are there."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from survcore.arguments import whole_number
from survcore.batch import Batch
from survcore.data.cohort import Cohort
from survcore.data.prepared import PreparedCohort
from survcore.data.preprocessor import Preprocessor
from survcore.devices import known_device
from survcore.errors import CheckpointError, DataError
from survcore.inference.artifact import load_artifact, save_artifact
from survcore.inference.encoder_dtype import Encoder, chosen_dtype
from survcore.inference.encoding_cache import EncodingCache
from survcore.inference.isolation import in_parts
from survcore.inference.made_up import made_up_patients
from survcore.inference.outputs import EncodedCohort, Outputs, prediction_table, with_unread
from survcore.inference.patients import Patients, read_records, read_table
from survcore.inference.survival_curve import SurvivalCurves
from survcore.models import system_class
from survcore.models.base import FILLS, Encoded, System

_BATCH_SIZE = 256
_KEPT_ENCODINGS = 64
_NOBODY = Cohort(np.empty(0, dtype=str), np.empty(0, dtype=str), {}, {})


class Predictor:
    """A trained system ready to predict; safe to use from several threads at once.

    What is made of the weights is kept from call to call, so they are not to be changed any more.

    Args:
        system: the trained :class:`~survcore.models.base.System`.
        preprocessor: fitted on the training rows.
        description: JSON-able facts: system, settings, recipe, seed, training rows and events, diagnostics, versions.
        dtype, threads, kept_encodings: as :meth:`load`.

    Attributes:
        system, preprocessor, description: as given, the system in evaluation mode.
        dtype: torch.float32 or torch.bfloat16, in which the encoders compute.
    """

    def __init__(
        self,
        system: System,
        preprocessor: Preprocessor,
        description: dict[str, Any],
        *,
        dtype: str = "float32",
        threads: int | None = None,
        kept_encodings: int = 0,
    ) -> None:
        self.system = system.eval()
        self.preprocessor = preprocessor
        self.description = description
        self._threads = None if threads is None else whole_number("threads", threads, 1)
        kept = whole_number("kept_encodings", kept_encodings, 0)
        self._cache = EncodingCache(kept) if kept and any(entry.kind == "bag" for entry in system.inputs) else None
        with self._computing():
            self.dtype = chosen_dtype(dtype, self.system, self._device)
        # Sampling reads its weights once per step: in half the bytes it is faster on any CPU.
        lower = dtype != "float32" and self._device.type == "cpu"
        self._sampling_precision = "bfloat16" if lower else "full"
        self._encode = Encoder(self.system, self.dtype)

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
    def load(
        cls,
        path: str | Path,
        device: torch.device | str = "auto",
        dtype: str = "auto",
        *,
        threads: int | None = None,
        kept_encodings: int = _KEPT_ENCODINGS,
    ) -> Predictor:
        """Read a model folder.

        Args:
            path: of the model folder, or of the output folder of ``survcore train``.
            device: where to predict: "cpu", "cuda:N", or "auto", a GPU where there is one.
            dtype: "float32"; "bfloat16", in which the encoders multiply matrices and, on a CPU, the weights that
                sampling reads are stored; or "auto": on a CPU such weights, and bfloat16 encoders where the CPU
                multiplies them natively, made-up patients are predicted faster, and no risk moves by 1 % or more.
            threads: of the CPU while predicting; None leaves PyTorch's number. Results of different numbers agree to
                1e-5.
            kept_encodings: rows with a bag whose encodings are kept, so that the same row, known by its content, is
                not encoded again; 0 keeps none.

        Raises:
            ValueError: a device that is not there, an unknown dtype, a number that is not whole or too small.
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
        return cls(
            system.to(device), preprocessor, description, dtype=dtype, threads=threads, kept_encodings=kept_encodings
        )

    def warmup(self, **options: Any) -> None:
        """Predict for made-up patients, one with all modalities and one without each, so that the first real one does
        not wait for what is set up once: packed weights of samplers, threads, compiled kernels.

        Args:
            options: ``fill``, ``draws``, ``steps``, ``solver`` and ``precision``, as :meth:`outputs` will be given.

        Raises:
            ValueError: as :meth:`outputs`.
        """
        options["precision"] = self._precision(options.get("precision"))
        with self._computing():
            for batch in made_up_patients(self.system):
                try:
                    whole = self.system.complete(self._encode(batch.to(self._device)), **options)
                except DataError:  # a modality that this system cannot fill in
                    continue
                self.system.predict(whole)
                self.system.predict_draws(whole)

    def encode(
        self,
        cohort: Cohort,
        *,
        max_patches: int = 0,
        seed: int = 0,
        batch_size: int = _BATCH_SIZE,
        errors: str = "raise",
    ) -> EncodedCohort:
        """A cohort's rows behind the encoders, which is where the time of large bags goes.

        :meth:`outputs`, :meth:`predict` and :meth:`part_cosines` take the result in place of the cohort, as often as
        asked, and give what they give for the cohort.

        Args:
            cohort: patients with any subset of the modalities; outcomes are not needed.
            max_patches, batch_size, errors: as in :meth:`outputs`.
            seed: of the choice of patches.

        Raises:
            DataError: a modality the model never saw; with ``errors`` "raise" a row that fails.
            ValueError: ``max_patches`` is no whole number of at least 0, or ``errors`` unknown.
        """
        with self._computing():
            encoding = self._encoding(cohort, max_patches, seed, batch_size, _reported(errors))
            return replace(encoding, parts=tuple(encoding.parts))

    def outputs(
        self,
        cohort: Cohort | EncodedCohort,
        *,
        fill: str = "own",
        seed: int = 0,
        draws: int = 5,
        steps: int = 50,
        solver: str = "ddim",
        precision: str | None = None,
        max_patches: int = 0,
        batch_size: int | None = None,
        errors: str = "raise",
    ) -> Outputs:
        """What the task head says of a cohort's rows, and what was filled in on the way.

        Args:
            cohort: patients with any subset of the modalities; outcomes are not needed. Or what :meth:`encode` made of
                them, which has its ``max_patches`` and ``batch_size`` already.
            fill: "own" (the system completes what is missing), "zeros" or "mean".
            seed: draws of a patient depend on (seed, row id) only.
            draws, steps: of systems that sample.
            solver: "ddim", or "dpm_solver++", which comes as close with 15 to 20 steps as "ddim" with 50.
            precision: of the weights that sampling reads on the CPU: "full", or "bfloat16", half as much memory; None
                goes with the ``dtype`` of :meth:`load`.
            max_patches: largest number of patches of a bag; a larger bag gives a subsample that depends on (seed, row
                id) only, which is faster and less accurate. 0 for all.
            batch_size: rows at a time, default 256, in one sampler call per missing modality; it does not change the
                result.
            errors: "raise" the first error of a row, or "report" them all in the result.

        Raises:
            DataError: a modality the model never saw, or other columns; with ``errors`` "raise" a row that fails: with
                no modality, a damaged file, a missing modality that the model cannot complete, or features so large
                that its risk is not a number.
            ValueError: unknown fill, solver, precision or errors; a number that is not whole or too small;
                ``max_patches`` or ``batch_size`` is given for rows that are encoded.
        """
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
        report, seed = _reported(errors), whole_number("seed", seed)
        completing: dict[str, Any] = {"fill": fill, "seed": seed, "draws": whole_number("draws", draws, 1)}
        completing |= {"steps": steps, "solver": solver, "precision": self._precision(precision)}
        with self._computing():
            if isinstance(cohort, EncodedCohort):
                for name, value, default in (("max_patches", max_patches, 0), ("batch_size", batch_size, None)):
                    if value != default:
                        raise ValueError(f"{name} is an option of encode; these rows are encoded, got {value!r}")
                encoding = cohort
            else:
                size = _BATCH_SIZE if batch_size is None else batch_size
                encoding = self._encoding(cohort, max_patches, seed, size, report)
            return self._finished(encoding, completing, report)

    def predict(
        self,
        patients: Cohort | EncodedCohort | Patients | pd.DataFrame | Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        months: Sequence[float] = (12, 36, 60),
        restricted_mean_to: float | None = None,
        errors: str = "report",
        **options: Any,
    ) -> pd.DataFrame:
        """One row per patient: risk, median survival, survival at the asked months, and what was filled in.

        Args:
            patients: a cohort with any subset of the modalities, or what :meth:`encode` made of one; outcomes are not
                needed. Or records, as :func:`survcore.inference.patients.read_records` takes them: one, or several; or
                a table with one line per patient (:func:`~survcore.inference.patients.read_table`).
            months: times at which survival is reported; NaN beyond the longest follow-up of the training rows.
            restricted_mean_to: also report the restricted mean survival time up to this month.
            errors: "report" (a patient who fails gets NaN and a text in the column ``error``, and the others their
                predictions) or "raise" the first one.
            options: ``fill``, ``seed``, ``draws``, ``steps``, ``solver``, ``precision``, ``max_patches`` and
                ``batch_size`` of :meth:`outputs`.

        Returns:
            DataFrame indexed by row id: ``risk`` (higher is worse; of discrete hazards minus the summed survival over
            bins; with a modality drawn, that of the mean of the draws), ``risk_spread`` (standard deviation of the risk
            over single draws; 0 where nothing was drawn, NaN where there is but one draw), ``risk_min`` and
            ``risk_max`` (of single draws), from 40 draws on ``risk_q025`` and ``risk_q975`` (between which 95 % of them
            lie), ``median_survival`` (months, infinite where survival stays above one half), ``survival_<m>``,
            ``restricted_mean`` if asked for, ``available`` and ``completed`` (modalities joined by +), ``fill`` (how),
            ``imputed_entries`` (single missing entries that took training values), ``subsampled`` (modalities, joined
            by +, of whose bag ``max_patches`` let only a part be seen), ``dropped_patches`` (patches left out of the
            row's bags for a missing entry; with ``max_patches``, of those that were drawn), ``warning`` (entries more
            than 20 standard deviations from the training mean) and ``error``. Its ``attrs["latency_ms"]`` says how many
            milliseconds the call took. Patients who failed, and warnings, are also told in a UserWarning.

        Raises:
            DataError, ValueError: as :meth:`outputs`.
        """
        start = time.perf_counter()
        report = _reported(errors)
        given = self._given(patients)
        if isinstance(given, Patients):
            if given.errors and not report:
                raise DataError(next(iter(given.errors.values())))
            row_ids, unread, cohort = given.row_ids, given.errors, given.cohort or _NOBODY
        else:
            row_ids, unread, cohort = given.row_ids, {}, given
        outputs = self.outputs(cohort, errors=errors, **options)
        table = prediction_table(
            outputs,
            self._curves(outputs),
            self.modalities,
            months=months,
            restricted_mean_to=restricted_mean_to,
            fill=options.get("fill", "own"),
        )
        table = with_unread(table, row_ids, unread)
        _warn(table)
        table.attrs["latency_ms"] = 1e3 * (time.perf_counter() - start)
        return table

    def predict_survival_function(
        self, cohort: Cohort, times: Sequence[float] | None = None, **options: Any
    ) -> pd.DataFrame:
        """Survival curves shaped as lifelines users know them: index = months, one column per row id.

        Args:
            cohort: the patients.
            times: months; default 101 even steps up to the longest follow-up of the training rows.
            options: as :meth:`outputs`; with ``errors`` "report" the curve of a row that fails is NaN.
        """
        outputs = self.outputs(cohort, **options)
        curves = self._curves(outputs)
        times = np.linspace(0, curves.horizon, 101) if times is None else np.asarray(times, dtype=np.float64)
        return pd.DataFrame(
            curves.survival(times).T, index=pd.Index(times, name="months"), columns=list(outputs.row_ids)
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
        with self._computing():
            for encoded in encoding.batches:
                found = self.system.part_cosines(encoded)
                if found is None:
                    return pd.DataFrame()
                labels, cosines = found[0], found[1].double().cpu()
                total, count = total + cosines.nansum(0), count + (~cosines.isnan()).sum(0)
        return pd.DataFrame((total / count).numpy(), index=labels, columns=labels)

    def _given(self, patients: Any) -> Cohort | EncodedCohort | Patients:
        if isinstance(patients, Cohort | EncodedCohort | Patients):
            return patients
        if isinstance(patients, pd.DataFrame):
            return read_table(self.preprocessor, patients)
        return read_records(self.preprocessor, [patients] if isinstance(patients, Mapping) else patients)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients, on as many threads as were asked for."""
        before = torch.get_num_threads()
        with torch.inference_mode():
            if self._threads in (None, before):
                yield
                return
            torch.set_num_threads(self._threads)
            try:
                yield
            finally:
                torch.set_num_threads(before)

    def _precision(self, precision: str | None) -> str:
        return self._sampling_precision if precision is None else precision

    def _encoding(
        self, cohort: Cohort, max_patches: int = 0, seed: int = 0, batch_size: int = _BATCH_SIZE, report: bool = False
    ) -> EncodedCohort:
        """What :meth:`encode` gives, with parts that are encoded as they are asked for, once."""
        max_patches, batch_size = whole_number("max_patches", max_patches, 0), whole_number("batch_size", batch_size, 1)
        if not report:
            cohort.require_some_modality()
        prepared = self.preprocessor.transform(cohort)
        bare = (~prepared.availability.any(dim=1)).nonzero().squeeze(1)
        errors = {row: f"row {str(prepared.row_ids[row])!r} has no modality" for row in bare.tolist()}
        parts = self._parts(prepared, max_patches, seed, batch_size, errors if report else None)
        return EncodedCohort(prepared, max_patches, parts, errors)

    def _parts(
        self, prepared: PreparedCohort, max_patches: int, seed: int, batch_size: int, errors: dict[int, str] | None
    ) -> Iterator[tuple[Tensor, Encoded]]:
        def encoded(rows: Tensor) -> Encoded:
            batch = prepared.batch(rows, max_patches=max_patches, seed=seed)
            if self._cache is None:
                return self._on_device(batch)
            return self._cache.encode(batch, self._on_device, self._weights())

        rows = prepared.availability.any(dim=1).nonzero().squeeze(1)
        for chunk in rows.split(batch_size) if len(rows) else ():
            yield from in_parts(encoded, chunk, errors)

    def _on_device(self, batch: Batch) -> Encoded:
        return self._encode(batch.to(self._device))

    def _weights(self) -> list[tuple[int, int]]:
        """What changes with the weights."""
        return [
            (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
            for parameter in self.system.parameters()
        ]

    def _finished(self, encoding: EncodedCohort, completing: dict[str, Any], report: bool) -> Outputs:
        """Completed and predicted, with every row in its place."""
        prepared, draws = encoding.prepared, completing["draws"]
        count = len(prepared)
        heads = {"risk": np.full(count, np.nan), "hazard_logits": np.full((count, self.system.bins), np.nan)}
        draw_risks = np.full((count, draws), np.nan)
        completed = np.zeros(prepared.availability.shape, dtype=bool)
        errors: dict[int, str] = {}
        for rows, encoded in encoding.parts:
            failed: dict[int, str] = {}
            parts = in_parts(
                partial(self._predicted, encoded, completing), torch.arange(len(rows)), failed if report else None
            )
            for places, (values, filled, risks) in parts:
                index = rows[places].numpy()
                for name, value in values.items():
                    found = value.double().cpu().numpy()
                    heads.setdefault(name, np.full((count, *found.shape[1:]), np.nan))[index] = found
                completed[index] = filled.cpu().numpy()
                if risks is not None:
                    drawn = completed[index].any(axis=1)
                    draw_risks[index[drawn]] = risks.double().cpu().numpy()[drawn]
            errors |= {int(rows[place]): problem for place, problem in failed.items()}
        errors |= encoding.errors
        if errors and not report:
            raise DataError(next(iter(errors.values())))
        self._refuse_broken(prepared.row_ids, heads, errors, report)
        for values in (*heads.values(), draw_risks):
            values[list(errors)] = np.nan
        completed[list(errors)] = False
        return Outputs(
            prepared.row_ids,
            prepared.availability.numpy(),
            heads,
            draw_risks,
            completed,
            encoding.imputed,
            encoding.subsampled,
            encoding.prepared.dropped_patches(),
            prepared.extreme,
            dict(sorted(errors.items())),
        )

    def _predicted(
        self, encoded: Encoded, completing: dict[str, Any], places: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Outputs of the heads, what was filled in, and the risks of single draws, of some of the encoded rows."""
        own = encoded if len(places) == len(encoded) else encoded.take(places)
        whole = self.system.complete(own, **completing)
        return self.system.predict(whole), whole.completed, self.system.predict_draws(whole)

    def _refuse_broken(
        self, row_ids: np.ndarray, heads: dict[str, np.ndarray], errors: dict[int, str], report: bool
    ) -> None:
        """Note, or raise, rows that came through and yet hold something that is not a number."""
        for name, value in heads.items():
            broken = np.isnan(value).any(axis=tuple(range(1, value.ndim)))
            for row in np.flatnonzero(broken).tolist():
                if row in errors:
                    continue
                errors[row] = (
                    f"{name} of row {str(row_ids[row])!r} is not a number: are its features as large as those of the "
                    "training rows?"
                )
                if not report:
                    raise DataError(errors[row])

    def _curves(self, outputs: Outputs) -> SurvivalCurves:
        with np.errstate(over="ignore"):
            hazards = 1 / (1 + np.exp(-outputs.heads["hazard_logits"]))
        return SurvivalCurves(hazards, self.preprocessor.bins.edges, self.description["longest_follow_up"])


def _reported(errors: str) -> bool:
    if errors not in ("raise", "report"):
        raise ValueError(f"errors must be raise or report, got {errors!r}")
    return errors == "report"


def _warn(table: pd.DataFrame) -> None:
    for column, told in (("error", "could not be predicted"), ("warning", "with extreme values")):
        if (rows := table[column] != "").any():
            first = table[column][rows].iloc[0]
            warnings.warn(f"{rows.sum()} of {len(table)} patients {told} (column {column}); {first}", stacklevel=3)


def load(path: str | Path, device: torch.device | str = "auto", dtype: str = "auto", **options: Any) -> Predictor:
    """Read a trained model from its folder (or from the output folder of ``survcore train``); see
    :meth:`Predictor.load`."""
    return Predictor.load(path, device, dtype, **options)
