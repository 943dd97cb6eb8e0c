"""Antolini's time-dependent concordance index, of survival curves that may cross."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from survcore import _metrics
from survcore.metrics.concordance import ConcordancePairs, count_pairs
from survcore.metrics.inputs import outcome, survival_curves


@dataclass(frozen=True)
class TimeDependentConcordance(ConcordancePairs):
    """Antolini's index in the form that was asked for, and the pairs behind it.

    The risk of a pair is what both curves say at the time of its event: higher where survival is lower.
    """


def concordance_index_td(
    time: Any, event: Any, survival: Any, times: Any = None, *, form: Literal["antolini", "adjusted"] = "antolini"
) -> TimeDependentConcordance:
    """Antolini's time-dependent concordance index, in O(n x times x log n) and without an n x n matrix.

    Of two patients, the one with an event at t should have the lower predicted survival at t than the one who outlives
    t. Where curves do not cross it orders patients as Harrell's index does.

    Tie rules, with S_i(t) and S_j(t) the curves of the patient with the event and of the other:

    - "antolini": comparable are an event at t and a patient observed beyond t or censored at t. A pair counts 1 where
      S_i(t) < S_j(t) and 0 otherwise, also where they are equal. Two events at one time are not compared.
    - "adjusted" (pycox's ``adj_antolini``): equal curves count 1/2. Two events at one time are compared too: 1 where
      their curves are equal at that time, 1/2 where they are not. Pairs of one time, be it two events or an event and
      a censoring, weigh 2, pairs of different times 1: pycox meets the former in both orders.

    A third form follows from the counts: (concordant + tied_risk / 2) / (concordant + discordant + tied_risk), ties as
    in Harrell's index.

    Args:
        time: follow-up times [n], non-negative and finite; or scikit-survival's structured array of (event, time), with
            ``event`` None.
        event: [n], True or 1 = event, False or 0 = censored.
        survival: curves [n, K] on the grid ``times``, values in [0, 1]; or a DataFrame, times as index and patients as
            columns, in the order of the outcomes. A curve is a step function: its value at t is that of the last grid
            time <= t, and 1 before the first.
        times: grid [K], rising, in the unit of ``time``; None with a DataFrame.
        form: "antolini" or "adjusted".

    Returns:
        The index and its pair counts; the value is NaN when no pair is comparable.

    Raises:
        ValueError: as ``concordance_index``; for curves outside [0, 1] or with NaN, or times that do not rise.

    Source: Antolini, Boracchi and Biganzoli, A time-dependent discrimination index for survival data, Statistics in
    Medicine 2005; ties of "adjusted" after Ishwaran et al., Random survival forests, 2008, section 5.1.
    """
    if form not in ("antolini", "adjusted"):
        raise ValueError(f"form is 'antolini' or 'adjusted', got {form!r}")
    time, event = outcome(time, event)
    rows = len(time)
    survival, times = survival_curves(survival, times, rows)
    interval = np.searchsorted(times, time, side="right").astype(np.int32) - 1
    own = np.where(interval >= 0, survival[np.arange(rows), interval], 1.0)

    # Within an interval of the grid every curve has one value: Harrell's pairs, the intervals as strata.
    within = count_pairs(time, event, -own, strata=interval + 1)
    concordant, discordant, tied_risk = _metrics.compare_across_intervals(survival, interval, event)
    concordant += within.concordant
    discordant += within.discordant
    tied_risk += within.tied_risk
    comparable = concordant + discordant + tied_risk
    scored = concordant
    if form == "adjusted":
        distinct = np.unique(time, return_inverse=True)[1].astype(np.int32)
        same_time = count_pairs(time, event, -own, strata=distinct)
        both_failed = same_time.tied_time + same_time.tied_both
        scored += tied_risk / 2 + same_time.concordant + same_time.tied_risk / 2
        scored += same_time.tied_time + 2 * same_time.tied_both
        comparable += same_time.concordant + same_time.discordant + same_time.tied_risk + 2 * both_failed
    value = scored / comparable if comparable else float("nan")
    return TimeDependentConcordance(value, concordant, discordant, tied_risk, within.tied_time, within.tied_both)
