"""Plain PyTorch definition of cox_risk_sets, with the op's schema, and how its result is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HEADER = 6
ROWS, GROUPS, EVENTS, FLAGS, ERROR, ERROR_ROW = range(HEADER)
IN_ORDER, TIED, STRATIFIED, TRUNCATED = 1, 2, 4, 8
TIME_ERROR, EVENT_ERROR, ENTRY_ERROR, ENTRY_NOT_BEFORE_TIME = 1, 2, 3, 4


@dataclass(frozen=True)
class CoxPlan:
    """The sections of what cox_risk_sets gives (``csrc/common/cox_plan.h``).

    Positions are the rows by stratum, then falling time, at one time events last. A group is a run of positions that
    ends with the events of one time; rows after the last event of a stratum are a group without events.

    Attributes:
        order: int64 [n], the row at each position.
        group: int64 [n], of each position.
        event: bool [n], of each position.
        start: int64 [groups + 1], first position of each group, and n.
        begins_stratum: bool [groups].
        events: int64 [groups].
        last: int64 [n], last group at whose events the position is at risk.
    """

    order: Tensor
    group: Tensor
    event: Tensor
    start: Tensor
    begins_stratum: Tensor
    events: Tensor
    last: Tensor

    @classmethod
    def read(cls, risk_sets: Tensor) -> CoxPlan:
        """Sections of an int32 tensor of cox_risk_sets."""
        risk_sets = risk_sets.flatten()
        rows, groups = risk_sets[: GROUPS + 1].tolist()
        order, start, events, last = (
            risk_sets[HEADER:].long().split((rows, rows + 2, rows + 1, len(risk_sets) - HEADER - 3 * rows - 3))
        )
        start = start[: groups + 1]
        group = torch.repeat_interleave((start >> 1).diff()) if rows else order
        begins = (start[:-1] & 1).bool()
        if not len(last):
            # The last group of the own stratum.
            ends = torch.cat((begins[1:], begins.new_ones(min(1, groups))))
            last = ends.nonzero().squeeze(1)[begins.cumsum(0)[group] - 1]
        return cls(order >> 1, group, (order & 1).bool(), start >> 1, begins, events[:groups], last)


def cox_risk_sets(time: Tensor, event: Tensor, entry: Tensor, strata: Tensor) -> Tensor:
    """int32 tensor: a header and the sections that :class:`CoxPlan` reads, filled up to a length that n alone gives.

    Args:
        time: [n], floating or integer, at least 0.
        event: [n], 0 or 1.
        entry: [n], below time, or empty.
        strata: int64 [n], or empty.
    """
    rows = len(time)
    plan = torch.zeros(HEADER + 3 * rows + 3 + len(entry), dtype=torch.int32, device=time.device)
    plan[ROWS], plan[HEADER + rows] = rows, 1
    finite = time.isfinite() if time.is_floating_point() else torch.ones_like(time, dtype=torch.bool)
    checks = [(TIME_ERROR, ~finite | (time < 0)), (EVENT_ERROR, (event != 0) & (event != 1))]
    if len(entry):
        checks += [(ENTRY_ERROR, entry != entry), (ENTRY_NOT_BEFORE_TIME, ~(entry < time))]
    wrong = torch.stack([check for _, check in checks]) if rows else torch.zeros(1, 0, dtype=torch.bool)
    for codes in ((0, 1), (2, 3)):
        found = wrong[slice(codes[0], codes[1] + 1)].any(0) if len(wrong) > codes[0] else wrong[0] & False
        if found.any():
            row = int(found.nonzero()[0])
            plan[ERROR] = next(checks[code][0] for code in codes if wrong[code, row])
            plan[ERROR_ROW] = row
            return plan
    if not rows:
        return plan

    strata = strata if len(strata) else torch.zeros(rows, dtype=torch.int64, device=time.device)
    order = torch.argsort((event != 0).long(), stable=True)
    order = order[torch.argsort(time[order], descending=True, stable=True)]
    order = order[torch.argsort(strata[order], stable=True)]
    observed = (event != 0)[order].long()
    change = strata[order][1:] != strata[order][:-1]
    ends = torch.ones(rows, dtype=torch.bool, device=time.device)
    ends[:-1] = change | ((observed[:-1] == 1) & (time[order][1:] != time[order][:-1]))
    group = ends.cumsum(0) - ends.long()
    groups = int(group[-1]) + 1
    stops = ends.nonzero().squeeze(1) + 1
    begins = torch.zeros(groups, dtype=torch.int64, device=time.device)
    begins[1:] = change[stops[:-1] - 1]
    begins[0] = 1
    events = torch.zeros(groups, dtype=torch.int64, device=time.device).index_add(0, group, observed)
    start = torch.cat((stops.new_zeros(1), stops)) * 2
    start[:-1] += begins

    sections = plan[HEADER:]
    sections[:rows] = 2 * order + observed
    sections[rows : rows + groups + 1] = start
    sections[2 * rows + 2 : 2 * rows + 2 + groups] = events
    flags = IN_ORDER * torch.equal(order, torch.arange(rows, device=order.device))
    flags |= TIED * bool(events.max() > 1) | STRATIFIED * bool(change.any())
    if len(entry):
        stratum = begins.cumsum(0) - 1
        moment = time[order][stops - 1]
        last = torch.empty(rows, dtype=torch.int64, device=time.device)
        final = torch.empty_like(last)
        for position in range(rows):
            same = (stratum == stratum[group[position]]).nonzero().squeeze(1)
            happens = same[events[same] > 0]
            at_risk = happens[moment[happens] > entry[order[position]]]
            at_risk = at_risk[at_risk >= group[position]]
            final[position] = same[-1]
            whole = not len(happens) or (len(at_risk) and at_risk[-1] == happens[-1]) or happens[-1] < group[position]
            last[position] = same[-1] if whole else (at_risk[-1] if len(at_risk) else group[position] - 1)
        sections[3 * rows + 3 :] = last
        flags |= TRUNCATED * bool((last != final).any())
    plan[GROUPS], plan[EVENTS], plan[FLAGS] = groups, int(observed.sum()), flags
    return plan
