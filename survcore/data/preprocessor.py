"""From a cohort to model input, with everything that is learned from data learned on the training part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from survcore.arguments import whole_number
from survcore.batch import ModalityInput, SparsePanel, Target
from survcore.data.bag_reader import ORDERS, BagReader
from survcore.data.endpoint import Endpoint
from survcore.data.messages import listed, nearest_listed
from survcore.data.modality import TRANSFORMS, Modality, ModalitySpec
from survcore.data.prepared import ArrayReader, PreparedCohort
from survcore.data.sparse_coverage import Coverage
from survcore.data.sparse_values import PanelValues
from survcore.data.table_scaler import IMPUTATIONS, SCALES, TableScaler
from survcore.data.time_bins import TimeBins
from survcore.draws import row_keys
from survcore.errors import DataError

if TYPE_CHECKING:
    from survcore.data.cohort import Cohort

BINNINGS = ("uncensored_quantiles", "equidistant")
DEFAULTS: dict[str, Any] = {
    "bins": 4,
    "binning": "uncensored_quantiles",
    "scale": "standard",
    "clip": 5.0,
    "impute": "median",
    "order": "file",
    "least_active": 0,
    "modalities": {},
}
_TABLE_SETTINGS = ("transform", "scale", "clip", "impute")
_BAG_SETTINGS = ("transform", "order")


@dataclass(frozen=True)
class Preprocessor:
    """Fitted preparation of cohorts for one model; it is stored with the model.

    Tables go through: columns by name, transform, scale, clip, imputation. A panel that stays of zeros and ones stays
    held by its ones; its columns that are 1 in too few training rows are left out. Arrays and bags are read row by row
    when a batch asks for them; only their transform and the order of a bag's instances apply. Text is left to the
    systems that read it.

    Attributes:
        settings: the complete settings, defaults filled in.
        inputs: the modalities as the model sees them, in the order of the columns of ``availability``.
        tables: fitted statistics of every table by modality name.
        transforms: transform of every modality that is not a table.
        orders: order of the instances of every modality that is a bag: "file" or "coords" (by y, then x).
        endpoint: name of the endpoint that gives the targets, or None.
        bins: time bins fitted on that endpoint, or None.
        imputes: missing entries get training values; otherwise they become 0 and are masked out in ``Batch.observed``.
        strata: labels of the strata of the training rows in rising order; empty without strata.
    """

    settings: dict[str, Any]
    inputs: tuple[ModalityInput, ...]
    tables: dict[str, TableScaler]
    transforms: dict[str, str]
    orders: dict[str, str]
    endpoint: str | None
    bins: TimeBins | None
    imputes: bool
    strata: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        settings: Mapping[str, Any] | None = None,
        *,
        endpoint: str | None = None,
        imputes: bool = True,
    ) -> Preprocessor:
        """Learn scalers, imputation values and time bins from ``cohort``, which must be the training part alone.

        Args:
            settings: any of ``bins`` (count), ``binning`` ("uncensored_quantiles", "equidistant"), ``scale``
                ("standard", "minmax", "none"), ``clip`` (standard deviations, or None), ``impute`` ("median", "mean"),
                ``order`` of a bag's instances ("file", or "coords": by y, then x), and ``modalities``: per modality
                name any of ``transform`` ("none", "signed_log"; by default what the modality declares), ``scale``,
                ``clip``, ``impute``, for bags ``order``, and for panels ``least_active``. Panels are not scaled unless
                their entry says so. ``least_active`` leaves columns of panels out that are 1 in fewer training rows
                (0 keeps all); tables to predict from may have them, and a row with nothing else in a panel lacks it.
            endpoint: name of the endpoint to train on; None takes the only one. A cohort without outcomes has no bins.
            imputes: False for systems that take missing entries.

        Raises:
            ValueError: unknown setting or value.
            DataError: a modality that no training row has, or a panel with no column that is 1 in ``least_active``
                rows; outcomes that allow no bins.
        """
        settings = _complete(settings, cohort)
        specs: list[ModalitySpec] = []
        tables: dict[str, TableScaler] = {}
        transforms: dict[str, str] = {}
        orders: dict[str, str] = {}
        for name, modality in cohort.modalities.items():
            if not modality.present.any():
                raise DataError(
                    f"modality {name!r}: none of the {len(cohort)} training rows has it; leave it out of the cohort"
                )
            if modality.held is not None:
                own = {"transform": modality.spec.transform, **_table_settings(settings, modality.spec)}
                kept, ignored = _frequent(modality, own.pop("least_active"))
                tables[name] = replace(TableScaler.fit(kept, **own), ignored=ignored)
                specs.append(kept.spec)
                continue
            specs.append(modality.spec)
            own = settings["modalities"].get(name, {})
            transforms[name] = own.get("transform", modality.spec.transform)
            if modality.spec.kind == "bag":
                orders[name] = own.get("order", settings["order"])
        target = cohort.endpoint(endpoint) if cohort.endpoints else None
        if target is None and endpoint is not None:
            raise DataError(f"endpoint {endpoint!r}: the cohort has no outcomes")
        inputs = tuple(_model_input(spec) for spec in specs)
        name = None if target is None else target.name
        strata = () if cohort.strata is None else tuple(sorted(set(cohort.strata.tolist())))
        return cls(settings, inputs, tables, transforms, orders, name, _fit_bins(target, settings), imputes, strata)

    @cached_property
    def specs(self) -> dict[str, ModalitySpec]:
        """The modalities as a cohort for this model declares them, by name."""
        return {modality.name: self._spec(modality) for modality in self.inputs}

    def transform(self, cohort: Cohort) -> PreparedCohort:
        """Model input for any cohort with the same modalities or fewer.

        Columns that a table lacks are missing entries where the model takes such (``imputes`` is False).

        Raises:
            DataError: a modality or a column that the model never saw, a missing column, another width.
        """
        names = [modality.name for modality in self.inputs]
        unknown = [name for name in cohort.modalities if name not in names]
        if unknown:
            raise DataError(
                f"the model never saw modality {nearest_listed(unknown, names)}; it was trained on {listed(names)}"
            )
        availability = torch.zeros(len(cohort), len(names), dtype=torch.bool)
        values, observed, readers, imputed = {}, {}, {}, {}
        extreme: dict[int, str] = {}
        for column, declared in enumerate(self.inputs):
            modality = cohort.modalities.get(declared.name)
            if declared.name in self.tables:
                table, mask, present, missing, far = self._table(declared, modality, len(cohort))
                values[declared.name], imputed[declared.name] = table, missing
                for row, told in far.items():
                    said = f"{declared.name}: {told}"
                    extreme[row] = f"{extreme[row]}; {said}" if row in extreme else said
                if mask is not None:
                    observed[declared.name] = mask
            else:
                if modality is None:
                    modality = _nowhere(declared, len(cohort))
                _check_arrays(declared, modality)
                present = modality.present
                transform, order = self.transforms[declared.name], self.orders.get(declared.name)
                readers[declared.name] = (
                    ArrayReader(modality, transform, cohort.row_ids)
                    if order is None
                    else BagReader(modality, transform, order, cohort.row_ids)
                )
            availability[:, column] = torch.from_numpy(present)
        return PreparedCohort(
            row_ids=cohort.row_ids,
            row_key=torch.from_numpy(row_keys(cohort.row_ids)),
            availability=availability,
            inputs=self.inputs,
            tables=values,
            observed=observed,
            readers=readers,
            targets=self._targets(cohort),
            weights=None if cohort.weights is None else torch.as_tensor(cohort.weights, dtype=torch.float32),
            imputed=imputed if self.imputes else {name: np.zeros_like(counts) for name, counts in imputed.items()},
            extreme=extreme,
            strata=self._numbered_strata(cohort),
        )

    def state(self) -> dict[str, Any]:
        """A JSON-able description, exact to the last bit; :meth:`from_state` reads it."""
        return {
            "settings": self.settings,
            "inputs": [modality.state() for modality in self.inputs],
            "tables": {name: table.state() for name, table in self.tables.items()},
            "transforms": self.transforms,
            "orders": self.orders,
            "endpoint": self.endpoint,
            "bins": None if self.bins is None else self.bins.state(),
            "imputes": self.imputes,
            "strata": list(self.strata),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Preprocessor:
        inputs = tuple(ModalityInput.from_state(modality) for modality in state["inputs"])
        # States written before bags had an order took the file's.
        orders = {modality.name: "file" for modality in inputs if modality.kind == "bag"}
        return cls(
            settings=state["settings"],
            inputs=inputs,
            tables={name: TableScaler.from_state(table) for name, table in state["tables"].items()},
            transforms=state["transforms"],
            orders=state.get("orders", orders),
            endpoint=state["endpoint"],
            bins=None if state["bins"] is None else TimeBins.from_state(state["bins"]),
            imputes=state["imputes"],
            strata=tuple(state.get("strata", ())),
        )

    def _spec(self, declared: ModalityInput) -> ModalitySpec:
        scaler = self.tables.get(declared.name)
        if scaler is None:
            return ModalitySpec(declared.name, declared.kind, declared.width, transform=self.transforms[declared.name])
        columns = scaler.columns
        groups = tuple((token, tuple(columns[place] for place in places)) for token, places in declared.groups)
        return ModalitySpec(declared.name, declared.kind, declared.width, columns, groups, scaler.transform)

    def _table(
        self, declared: ModalityInput, modality: Modality | None, rows: int
    ) -> tuple[torch.Tensor | SparsePanel, torch.Tensor | Coverage | None, np.ndarray, np.ndarray, dict[int, str]]:
        """Values [rows, width] without NaN, a mask of observed entries if it is needed, the rows that have the table,
        missing entries per row, and what is told of rows with absurd entries."""
        scaler = self.tables[declared.name]
        if modality is None:
            sparse = declared.kind == "panel" and scaler.is_identity
            nothing = PanelValues.nowhere(rows, declared.width).ones if sparse else torch.zeros(rows, declared.width)
            return nothing, None, np.zeros(rows, dtype=bool), np.zeros(rows, dtype=np.int64), {}
        held, present = scaler.aligned(modality, gaps=not self.imputes), modality.present
        if isinstance(held, PanelValues):
            # A row may have nothing but columns that the model does not read.
            present = present & held.present
            ones = self._ones(scaler, held) if declared.kind == "panel" else None
            if ones is not None:
                counts = np.where(present, declared.width - held.coverage.counts, 0)
                return ones, held.coverage if counts.any() and not self.imputes else None, present, counts, {}
            held = held.table()
        values = scaler.apply(held)
        extreme = scaler.extreme(held, values) if self._is_standard(declared) else {}
        values[~present] = 0.0
        missing = np.isnan(values)
        counts = missing.sum(axis=1)
        if counts.any() and self.imputes:
            values = np.where(missing, scaler.fill.astype(np.float32), values)
        elif counts.any():
            values[missing] = 0.0
        mask = torch.from_numpy(~missing & present[:, None]) if counts.any() and not self.imputes else None
        return torch.from_numpy(values), mask, present, counts, extreme

    def _ones(self, scaler: TableScaler, panel: PanelValues) -> SparsePanel | None:
        """A panel as the model takes it, or None where that is not of zeros and ones."""
        if not scaler.is_identity:
            return None
        return panel.filled(scaler.fill.astype(np.float32)) if self.imputes else panel.ones

    def _is_standard(self, declared: ModalityInput) -> bool:
        """Whether a table is scaled by the standard deviations of its training values."""
        return _table_settings(self.settings, declared)["scale"] == "standard"

    def _numbered_strata(self, cohort: Cohort) -> torch.Tensor | None:
        if cohort.strata is None or not self.strata:
            return None
        numbers = {label: number for number, label in enumerate(self.strata)}
        return torch.tensor([numbers.get(label, -1) for label in cohort.strata.tolist()], dtype=torch.int64)

    def _targets(self, cohort: Cohort) -> Target | None:
        if self.bins is None or self.endpoint not in cohort.endpoints:
            return None
        endpoint = cohort.endpoints[self.endpoint]
        return Target(
            time=torch.as_tensor(endpoint.time, dtype=torch.float32),
            event=torch.as_tensor(endpoint.event, dtype=torch.int64),
            time_bin=torch.from_numpy(self.bins.index(endpoint.time, endpoint.event)),
            entry=None if endpoint.entry is None else torch.as_tensor(endpoint.entry, dtype=torch.float32),
        )


def _fit_bins(endpoint: Endpoint | None, settings: dict[str, Any]) -> TimeBins | None:
    if endpoint is None:
        return None
    if settings["binning"] == "equidistant":
        return TimeBins.equidistant(float(endpoint.time.max()), settings["bins"])
    return TimeBins.uncensored_quantiles(endpoint.time, endpoint.event, settings["bins"])


def _frequent(modality: Modality, least_active: int) -> tuple[Modality, tuple[str, ...]]:
    """The modality with the columns that are 1 in so many rows, and the names of the others; what is no panel whole."""
    if modality.panel is None or not least_active:
        return modality, ()
    often = modality.panel.column_ones() >= least_active
    if not often.any():
        raise DataError(
            f"modality {modality.spec.name!r}: none of its {modality.spec.width} columns is 1 in least_active = "
            f"{least_active} of the training rows"
        )
    names = np.array(modality.spec.columns, dtype=object)
    spec = replace(modality.spec, width=int(often.sum()), columns=tuple(names[often]))
    held = modality.panel.columns(np.flatnonzero(often))
    return replace(modality, spec=spec, present=modality.present & held.present, held=held), tuple(names[~often])


def _model_input(spec: ModalitySpec) -> ModalityInput:
    position = {column: index for index, column in enumerate(spec.columns)}
    groups = tuple((token, tuple(position[column] for column in columns)) for token, columns in spec.groups)
    return ModalityInput(spec.name, spec.kind, spec.width, groups)


def _nowhere(declared: ModalityInput, rows: int) -> Modality:
    """The arrays of a modality that a cohort does not declare: absent in every row."""
    spec = ModalitySpec(declared.name, declared.kind, declared.width)
    return Modality(spec, np.zeros(rows, dtype=bool), items=np.full(rows, None, dtype=object))


def _check_arrays(declared: ModalityInput, modality: Modality) -> None:
    spec = modality.spec
    if spec.kind != declared.kind or modality.held is not None:
        raise DataError(
            f"modality {spec.name!r}: the model takes kind {declared.kind!r} as arrays, the cohort has a {spec.kind!r}"
        )
    if spec.width != declared.width:
        raise DataError(
            f"modality {spec.name!r}: the model takes width {declared.width}, the cohort has width {spec.width}"
        )


def _complete(settings: Mapping[str, Any] | None, cohort: Cohort) -> dict[str, Any]:
    """Settings with the defaults filled in, every name and value checked."""
    given = dict(settings or {})
    _known("preprocessing setting", given, DEFAULTS)
    complete = {**DEFAULTS, **given}
    complete["modalities"] = {name: dict(own) for name, own in complete["modalities"].items()}
    _known("modality in the preprocessing settings", complete["modalities"], cohort.modalities)
    _known("binning", [complete["binning"]], BINNINGS)
    if not isinstance(complete["bins"], int) or complete["bins"] < 1:
        raise ValueError(f"bins: expected a whole number of at least 1, got {complete['bins']!r}")
    for name, own in complete["modalities"].items():
        _known(f"setting of modality {name!r}", own, (*_TABLE_SETTINGS, "order", "least_active"))
        modality = cohort.modalities[name]
        what, takes = "a table", _TABLE_SETTINGS
        if modality.spec.kind == "panel":
            what, takes = "a panel", (*_TABLE_SETTINGS, "least_active")
        elif modality.held is None:
            what, takes = ("bags", _BAG_SETTINGS) if modality.spec.kind == "bag" else ("arrays", ("transform",))
        if given_in_vain := [setting for setting in own if setting not in takes]:
            raise ValueError(
                f"modality {name!r} holds {what} and takes the settings {', '.join(takes)}; got {listed(given_in_vain)}"
            )
    for part in (complete, *complete["modalities"].values()):
        _known("scale", [part.get("scale", "none")], SCALES)
        _known("impute", [part.get("impute", "median")], IMPUTATIONS)
        _known("transform", [part.get("transform", "none")], TRANSFORMS)
        _known("order", [part.get("order", "file")], ORDERS)
        whole_number("least_active", part.get("least_active", 0), 0)
        clip = part.get("clip")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip: expected a positive number of standard deviations or None, got {clip!r}")
    return complete


def _known(what: str, given: Any, choices: Any) -> None:
    unknown = [name for name in given if name not in choices]
    if unknown:
        raise ValueError(f"unknown {what}: {listed(unknown)}; expected one of {', '.join(choices) or 'none'}")


def _table_settings(settings: dict[str, Any], spec: ModalitySpec | ModalityInput) -> dict[str, Any]:
    default = {name: settings[name] for name in ("scale", "clip", "impute")}
    default["least_active"] = settings.get("least_active", 0)
    if spec.kind == "panel":
        default["scale"] = "none"
    return {**default, **settings["modalities"].get(spec.name, {})}
