"""The cohort: rows of patients with any of several modalities, their outcomes, folds and splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from survcore.data import checks, frames, labels
from survcore.data.endpoint import Endpoint, find_endpoints, read_endpoint
from survcore.data.fingerprint import fingerprint
from survcore.data.make_modality import make_modality
from survcore.data.messages import counted, listed
from survcore.data.modality import Modality
from survcore.data.selection import row_index, rows_where
from survcore.data.summary import headline, summary
from survcore.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame

    from survcore.data.sparse_panel import Panel


@dataclass(frozen=True, eq=False, repr=False)
class Cohort:
    """Rows (patients, or several rows of a patient), each with any of the modalities. N rows, M modalities.

    Made by :meth:`from_frames` or :meth:`from_folder`, which check everything; every selection gives a new cohort.

    Attributes:
        row_ids: str [N], unique.
        patient_ids: str [N]; rows that share one belong to one patient and never fall into different folds.
        modalities: by name, in order; the columns of :attr:`availability` follow it.
        endpoints: by name; empty in a cohort for prediction only.
        fold: int64 [N], -1 = in no fold; or None.
        split: str [N], "" = in no split; or None.
        strata: str [N], strata of a stratified partial likelihood; or None.
        weights: case weights, float64 [N]; or None.
        name: what reports call it.
        simulated: whether the patients are made up, which reports say.
        truth: what a simulator knows of the rows (arrays [N, ...] by name, dicts of such arrays allowed); or None.
    """

    row_ids: np.ndarray
    patient_ids: np.ndarray
    modalities: dict[str, Modality]
    endpoints: dict[str, Endpoint]
    fold: np.ndarray | None = None
    split: np.ndarray | None = None
    strata: np.ndarray | None = None
    weights: np.ndarray | None = None
    name: str = "cohort"
    simulated: bool = False
    truth: dict[str, Any] | None = None

    @classmethod
    def from_frames(
        cls,
        modalities: Mapping[str, DataFrame | Mapping[Any, Any] | Panel],
        outcomes: DataFrame | None,
        *,
        time_unit: str | Mapping[str, str] | None = None,
        id: str = "row_id",
        patient: str | None = None,
        kinds: Mapping[str, str] | None = None,
        groups: Mapping[str, Any] | None = None,
        transforms: Mapping[str, str] | None = None,
        endpoints: Sequence[str] | None = None,
        causes: int | Mapping[str, int] = 1,
        time_column: str | Mapping[str, str] | None = None,
        event_column: str | Mapping[str, str] | None = None,
        entry_column: str | Mapping[str, str] | None = None,
        censored_value: Any = None,
        fold: Any = None,
        split: Any = None,
        strata: str | None = None,
        weights: str | None = None,
        widths: Mapping[str, int] | None = None,
        rows_without_modality: bool = False,
        keep_broken_files: bool = False,
        name: str = "cohort",
    ) -> Cohort:
        """Makes a cohort from tables, with every check.

        Args:
            modalities: by name a DataFrame (row id in the column ``id`` or the index; NaN = missing entry, a row of
                nothing but NaN lacks the modality), or a dict by row id of arrays, tensors, dicts of ``features`` and
                ``coords``, array files (:class:`pathlib.Path`, read when asked for) or texts; or a
                :class:`~survcore.data.Panel`, which gives a table of zeros and ones by its ones. A row that is not
                there, or has an empty text, lacks the modality. A table of kind "panel" is held by its ones, and is
                never written out where its columns have pandas' sparse dtype.
            outcomes: one line per row, which fixes the rows and their order; or None for prediction only, with the rows
                of all modalities. Columns ``time``, ``event`` and optionally ``entry`` make the endpoint "primary";
                ``NAME_time``, ``NAME_event``, ``NAME_entry`` make NAME.
            time_unit: "days", "weeks", "months" or "years", or a dict by endpoint; times are kept in months of 30.4375
                days.
            id, patient: columns of the row id and the patient id (default ``patient_id`` where there is one, else the
                row id).
            kinds: by modality; default "vector" for tables, "tokens" where groups are given, "bag" for 2-D arrays,
                "text" for texts, "panel" for a Panel. Other kinds are declared.
            groups: by modality, for tokens given as a table: a dict from token to columns, or a frame (token, column).
            transforms: by modality, the preprocessing it asks for ("none" or "signed_log").
            endpoints: the endpoints to read; default all that the columns show; [] reads none.
            causes: kinds of events, 1 unless declared, or a dict by endpoint.
            time_column, event_column, entry_column: columns of other names; a dict where there are several endpoints.
            censored_value: the event column's value that means censored, for columns that mark censoring or hold words.
            fold, split: a column, or a dict, Series or frame by row id; default the columns ``fold`` and ``split``, if
                there are such. A missing value means in no fold or split.
            strata, weights: columns; default those of that name where there are such.
            widths: by modality, the expected width; needed only for arrays that no row has.
            rows_without_modality: accept rows that have no modality at all.
            keep_broken_files: an array file that is damaged or of another width raises when its row is read, so that
                the others can be predicted, and not at once.
            name: what reports call the cohort.

        Raises:
            DataError: duplicate or missing row ids; a modality, fold or split row that the outcomes lack; a row with no
                modality; columns that are duplicate, not numeric, infinite or the outcome itself; arrays of different
                width; unknown kinds or columns of groups; an endpoint without unit, with impossible times, codes or
                entries, or whose event column is named like censoring. The message names modality, column and rows.
                An event rate above 90 % only warns.
        """
        checks.check_names(modalities, kinds=kinds, groups=groups, transforms=transforms, widths=widths)
        if outcomes is None:
            row_ids, table = labels.union_of_rows(modalities, id), None
            found = []
        else:
            row_ids, table = frames.split_ids(outcomes, id, "outcomes")
            if not len(row_ids):
                raise DataError("outcomes: the table has no rows")
            found = find_endpoints(
                list(table.columns),
                endpoints=endpoints,
                time_column=time_column,
                event_column=event_column,
                entry_column=entry_column,
                censored_value=censored_value,
            )
        made = {
            key: make_modality(
                key,
                data,
                row_ids,
                id=id,
                kind=(kinds or {}).get(key),
                groups=(groups or {}).get(key),
                transform=(transforms or {}).get(key, "none"),
                width=(widths or {}).get(key),
                keep_broken=keep_broken_files,
            )
            for key, data in modalities.items()
        }
        checks.refuse_outcomes_as_features(
            made, {column for columns in found for column in (columns.time, columns.event)}
        )
        cohort = cls(
            row_ids,
            labels.patient_ids(table, patient, row_ids),
            made,
            {
                columns.name: read_endpoint(table, columns, row_ids, time_unit=time_unit, causes=causes)
                for columns in found
            },
            fold=labels.fold(table, fold, row_ids, id),
            split=labels.split(table, split, row_ids, id),
            strata=labels.strata(table, strata, row_ids),
            weights=labels.weights(table, weights, row_ids),
            name=name,
        )
        if not rows_without_modality:
            cohort.require_some_modality()
        if cohort.fold is not None:
            # A row in no fold is trained on in every fold, so it counts as one more part here.
            checks.refuse_divided_patients(cohort.patient_ids, cohort.fold, "folds")
        if cohort.split is not None:
            marked = cohort.split != ""
            checks.refuse_divided_patients(cohort.patient_ids[marked], cohort.split[marked], "splits")
        return cohort

    @classmethod
    def from_folder(cls, path: str | Path, *, keep_broken_files: bool = False) -> Cohort:
        """Reads a cohort folder: see :mod:`survcore.data.folder` for its layout and for what is raised.

        Args:
            path: the folder.
            keep_broken_files: as :meth:`from_frames`.
        """
        from survcore.data.folder import read_folder

        return read_folder(Path(path), keep_broken_files=keep_broken_files)

    def to_folder(
        self, path: str | Path, *, tables: str = "parquet", arrays: str | None = None, overwrite: bool = False
    ) -> None:
        """Writes a folder that :meth:`from_folder` reads back value for value (times in months); all of it or nothing.

        Args:
            path: the folder to make; DataError where it exists, unless it is a cohort folder and ``overwrite`` is set.
            tables: "parquet", in which panels are written by their ones, or "csv".
            arrays: "safetensors", "h5", "npy" or "pt"; None copies array files as they are, and writes arrays in memory
                as safetensors.
        """
        from survcore.data.folder import write_folder

        write_folder(self, Path(path), tables=tables, arrays=arrays, overwrite=overwrite)

    def __len__(self) -> int:
        return len(self.row_ids)

    def __repr__(self) -> str:
        return headline(self)

    def summary(self) -> str:
        """Modalities, availability patterns, events, follow-up (reverse Kaplan-Meier), folds and splits as text."""
        return summary(self)

    @property
    def availability(self) -> np.ndarray:
        """bool [N, M]: which rows have which modality."""
        return np.stack([modality.present for modality in self.modalities.values()], axis=1)

    def modality(self, name: str) -> Modality:
        """The modality of that name; DataError naming the others where there is none."""
        if name not in self.modalities:
            raise DataError(f"no modality {name!r} in {self.name!r}; it has {listed(self.modalities, 20)}")
        return self.modalities[name]

    def endpoint(self, name: str | None = None) -> Endpoint:
        """The endpoint of that name, or the only one; DataError naming the choices where that is not one."""
        if name is None and len(self.endpoints) == 1:
            return next(iter(self.endpoints.values()))
        if not self.endpoints:
            raise DataError(f"{self.name!r} has no outcomes (it was made for prediction only)")
        if name not in self.endpoints:
            problem = "has several endpoints; name one of them" if name is None else f"has no endpoint {name!r}; it has"
            raise DataError(f"{self.name!r} {problem}: {listed(self.endpoints, 20)}")
        return self.endpoints[name]

    def select(self, index: np.ndarray | Sequence[int] | Sequence[bool]) -> Cohort:
        """The rows of an integer index (in its order, none twice) or of a bool mask [N]."""
        return self._take(row_index(index, len(self), f"the selection of {self.name!r}"))

    def where(
        self,
        *,
        fold: int | Sequence[int] | None = None,
        not_fold: int | Sequence[int] | None = None,
        split: str | Sequence[str] | None = None,
        has: Iterable[str] = (),
        lacks: Iterable[str] = (),
    ) -> Cohort:
        """The rows that meet every condition; DataError where there are none.

        Args:
            fold, not_fold: in, or not in, these folds. Rows in no fold are in every ``not_fold`` part.
            split: in these splits.
            has, lacks: names of modalities that a row has, or lacks.
        """
        keep, said = rows_where(self, fold=fold, not_fold=not_fold, split=split, has=has, lacks=lacks)
        return self._take(row_index(keep, len(self), f"the selection ({said}) of {self.name!r}"))

    def only(self, names: Sequence[str]) -> Cohort:
        """The same rows with these modalities alone, in this order; a row may be left with none."""
        names = [names] if isinstance(names, str) else list(names)
        if not names or len(set(names)) != len(names):
            raise DataError(f"expected different names of modalities, got {names}")
        return replace(self, modalities={name: self.modality(name) for name in names})

    def without(self, name: str, rows: np.ndarray | None = None) -> Cohort:
        """The same rows with a modality absent in all of them, or where the bool mask ``rows`` [N] is set.

        The modality stays declared, so a model trained with it still knows its place; a row may be left with none.
        """
        modality = self.modality(name)
        rows = np.ones(len(self), dtype=bool) if rows is None else np.asarray(rows)
        if rows.dtype != bool or rows.shape != (len(self),):
            raise DataError(
                f"rows must be a bool mask of {len(self)} rows, got {rows.dtype} of shape {list(rows.shape)}"
            )
        return replace(self, modalities={**self.modalities, name: modality.without(rows)})

    def require_events(self, endpoint: str | None = None, what: str | None = None) -> None:
        """Raises DataError where no row has an event of the endpoint: such rows can neither teach nor test a model."""
        chosen = self.endpoint(endpoint)
        if not (chosen.event > 0).any():
            raise DataError(
                f"{what or repr(self.name)}: none of {counted(len(self), 'row')} has an event of endpoint "
                f"{chosen.name!r}"
            )

    def require_some_modality(self) -> None:
        """Raises DataError naming the rows that have no modality at all."""
        if (bare := ~self.availability.any(axis=1)).any():
            raise DataError(
                f"{counted(int(bare.sum()), 'row')} with no modality: {listed(self.row_ids[bare])}. "
                "Drop them from the outcomes"
            )

    def fingerprint(self) -> str:
        """16 hex digits that change with ids, outcomes, folds, splits, weights or values.

        Of large arrays a few rows at the start, the middle and the end count; DataError where a file is damaged.
        """
        return fingerprint(self)

    def _take(self, index: np.ndarray) -> Cohort:
        def take(part: Any) -> Any:
            if isinstance(part, Mapping):
                return {name: take(value) for name, value in part.items()}
            return None if part is None else part[index]

        return replace(
            self,
            modalities={name: modality.select(index) for name, modality in self.modalities.items()},
            endpoints={name: endpoint.select(index) for name, endpoint in self.endpoints.items()},
            **{
                part: take(getattr(self, part))
                for part in ("row_ids", "patient_ids", "fold", "split", "strata", "weights", "truth")
            },
        )
