"""Risk sets of a cohort: times sorted once, for every later evaluation of the Cox partial likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from survcore import _library
from survcore.reference.cox_risk_sets import (
    ENTRY_ERROR,
    ENTRY_NOT_BEFORE_TIME,
    ERROR,
    ERROR_ROW,
    EVENT_ERROR,
    FLAGS,
    HEADER,
    STRATIFIED,
    TIME_ERROR,
    TRUNCATED,
    CoxPlan,
)


class RiskSets:
    """Who is at risk at each event time, from times that are sorted once.

    Survival times do not change between epochs: build the risk sets of a cohort once with :meth:`from_times`, give them
    to :func:`survcore.cox_ph_loss` as often as needed, and take those of a mini-batch with :meth:`take`. They are built
    on the processor: of tensors on a GPU, which is waited for, too.

    Attributes:
        plan: int32 tensor of ``torch.ops.survcore.cox_risk_sets``, which the op reads.
    """

    def __init__(self, plan: Tensor, rows: int, truncated: bool) -> None:
        self.plan = plan
        self._rows, self._truncated = rows, truncated
        self._codes: tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None = None

    @classmethod
    def from_times(
        cls, time: Tensor, event: Tensor, entry: Tensor | None = None, strata: Tensor | None = None
    ) -> RiskSets:
        """Sort the rows.

        Args:
            time: [n], floating or integer, in any unit, at least 0.
            event: [n], bool or 0 (censored) and 1 (event).
            entry: [n], time from which a row is under observation (left truncation): it is at risk at times t with
                entry < t <= time. None means from the beginning, time 0 included.
            strata: integers [n]; rows are at risk for the events of their own stratum only.

        Raises:
            ValueError: lengths, devices or shapes differ; a time that is NaN, infinite or negative, an event other than
                0 and 1, an entry that is NaN or not before the time. The message names argument and row.
            TypeError: strata are not integers, or a time is complex or bool.
        """
        entry = _checked(time, event, entry, strata)
        none = time.new_empty(0)
        plan = torch.ops.survcore.cox_risk_sets(
            time, event, none if entry is None else entry, none if strata is None else strata
        )
        truncated = entry is not None
        if not torch.compiler.is_compiling():
            _raise_errors(plan, time, event, entry)
            if truncated and not int(plan[FLAGS]) & TRUNCATED:
                # Nobody enters late: without the section that says when, the loss is the cheaper one.
                truncated, plan = False, plan[: len(plan) - len(entry)]
        return cls(plan, time.shape[0], truncated)

    def __len__(self) -> int:
        """Rows."""
        return self._rows

    def __repr__(self) -> str:
        return f"RiskSets({self._rows} rows, {int(self.plan[1])} risk sets, {int(self.plan[2])} events)"

    def to(self, device: torch.device | str) -> RiskSets:
        """The same risk sets on a device."""
        return RiskSets(self.plan.to(device), self._rows, self._truncated)

    def take(self, index: Tensor) -> RiskSets:
        """Risk sets of the rows ``index`` among themselves, [b] int64 or bool [n]; their times are not sorted again.

        Raises:
            ValueError: an index of another type or out of range.
        """
        check_tensors(index=index)
        if index.dtype == torch.bool:
            if index.shape != (self._rows,):
                raise ValueError(f"index must have one entry per row, [{self._rows}], got shape {tuple(index.shape)}")
            index = index.nonzero().squeeze(1)
        if index.dtype != torch.int64 or index.dim() != 1:
            raise ValueError(f"index must be int64 [b] or bool [n], got {index.dtype} {tuple(index.shape)}")
        codes = self._row_codes()
        if not index.is_cpu:  # a kernel there does not report what is out of range
            self._check_range(index)
        try:
            rank, event, entry, stratum = (None if code is None else code.index_select(0, index) for code in codes)
        except (IndexError, RuntimeError):
            self._check_range(index)
            raise
        none = rank.new_empty(0)
        plan = torch.ops.survcore.cox_risk_sets(
            rank, event, none if entry is None else entry, none if stratum is None else stratum
        )
        return RiskSets(plan, len(index), self._truncated)

    def _check_range(self, index: Tensor) -> None:
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self._rows:
            raise ValueError(f"index must lie in 0..{self._rows - 1}, got {int(index.min())} to {int(index.max())}")

    def _row_codes(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Per row: rank of the time, event, rank of the entry, stratum; whole numbers that sort as the times do.

        The last two are None without left truncation, and with one stratum.
        """
        if self._codes is None:
            plan = CoxPlan.read(self.plan)
            groups = len(plan.events)
            flags = int(self.plan.flatten()[FLAGS])

            def of_rows(code: Tensor) -> Tensor:
                return torch.empty_like(code).index_copy(0, plan.order, code)

            self._codes = (
                # Even for events; a censored row comes after the events that it is at risk for.
                of_rows(2 * (groups - plan.group) + ~plan.event),
                of_rows(plan.event),
                # The events after the last group that it is at risk for.
                of_rows(2 * (groups - 1 - plan.last)) if self._truncated else None,
                of_rows(plan.begins_stratum.cumsum(0)[plan.group]) if flags & STRATIFIED else None,
            )
        return self._codes


def check_tensors(**arguments: Tensor | None) -> None:
    """TypeError that names the first argument that is given and no tensor."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}: torch.as_tensor makes one")


def _checked(time: Tensor, event: Tensor, entry: Tensor | None, strata: Tensor | None) -> Tensor | None:
    """The entries, comparable with the times."""
    if time is None or event is None:
        raise TypeError("time and event are required")
    check_tensors(time=time, event=event, entry=entry, strata=strata)
    if time.dim() != 1:
        raise ValueError(f"time must be [n], got shape {tuple(time.shape)}")
    if time.is_complex() or time.dtype in (torch.bool, torch.uint64):
        hint = "; were time and event swapped?" if time.dtype == torch.bool else ""
        raise TypeError(f"time must be floating or a signed integer, got {time.dtype}{hint}")
    rows, device = time.shape[0], time.device
    for name, value in (("event", event), ("entry", entry), ("strata", strata)):
        if value is None:
            continue
        if value.dim() != 1 or value.shape[0] != rows:
            raise ValueError(f"{name} must have one entry per row of time, [{rows}], got shape {tuple(value.shape)}")
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}, time on {device}: expected one device")
        if value.is_complex():
            raise TypeError(f"{name} must not be complex")
    if strata is not None and (strata.is_floating_point() or strata.dtype == torch.bool):
        raise TypeError(f"strata must be integers, got {strata.dtype}")
    if entry is None or entry.dtype == time.dtype:
        return entry
    if entry.is_floating_point() and time.is_floating_point():
        # 0.1 in one type lies before 0.1 in another: rows would be at risk at their own entry.
        raise TypeError(f"entry is {entry.dtype}, time {time.dtype}: expected one floating type")
    if entry.is_floating_point():
        # A whole time comes after an entry if it comes after the entry's whole part; NaN and what no integer holds
        # stay, to be named or, before all times, to mean from the beginning.
        whole = entry.floor().clamp(min=-1)
        return entry if whole.isnan().any() or (whole >= 2.0**62).any() else whole.long()
    return entry


def _raise_errors(plan: Tensor, time: Tensor, event: Tensor, entry: Tensor | None) -> None:
    code = int(plan[ERROR])
    if not code:
        return
    row = int(plan[ERROR_ROW])
    if code == TIME_ERROR:
        raise ValueError(f"time must be finite and at least 0, got {time[row].item()} in row {row}")
    if code == EVENT_ERROR:
        swapped = bool(((time == 0) | (time == 1)).all())
        hint = "; were time and event swapped?" if swapped else ""
        raise ValueError(f"event must be 0 (censored) or 1, got {event[row].item()} in row {row}{hint}")
    if code == ENTRY_ERROR:
        raise ValueError(f"entry must not be NaN, got one in row {row}")
    assert code == ENTRY_NOT_BEFORE_TIME and entry is not None
    raise ValueError(
        f"entry must be before time, got entry {entry[row].item()} and time {time[row].item()} in row {row}"
    )


@torch.library.register_fake("survcore::cox_risk_sets")
def _fake(time: Tensor, event: Tensor, entry: Tensor, strata: Tensor) -> Tensor:
    return time.new_empty(HEADER + 3 * time.shape[0] + 3 + entry.shape[0], dtype=torch.int32)


def _by_the_processor(*given: Tensor) -> Tensor:
    """Times are sorted once, and their errors are read by the processor anyway."""
    return torch.ops.survcore.cox_risk_sets(*(value.cpu() for value in given)).to(given[0].device)


_library.serve_cuda("cox_risk_sets", _by_the_processor)
