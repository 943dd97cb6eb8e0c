"""Uno's concordance index, weighted by the inverse probability of censoring."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from survcore.arguments import common_index, to_numpy
from survcore.metrics.censoring import censoring_survival, inverse_censoring_weights, refuse_entry, training_outcome
from survcore.metrics.concordance import Concordance, count_pairs
from survcore.metrics.inputs import outcome, risks, strata_codes


def concordance_index_ipcw(
    time: Any,
    event: Any,
    risk: Any,
    *,
    train: Any = None,
    tau: float | None = None,
    strata: Any = None,
    train_strata: Any = None,
    convention: Literal["G(T-)", "G(T)"] = "G(T-)",
    entry: None = None,
) -> Concordance:
    """Uno's concordance index, in O(n log n): its limit does not depend on how patients were censored.

    Each pair of Harrell's index weighs 1 / G(t)^2, with t the time of its event and G the probability of being
    uncensored, by Kaplan-Meier's estimate in the training outcomes, where events precede censorings of the same time.
    It holds where censoring depends neither on the outcome nor, within a stratum, on the risk.

    Args:
        time: follow-up times [n], non-negative and finite, any unit; or scikit-survival's structured array of (event,
            time), with ``event`` None.
        event: [n], True or 1 = event, False or 0 = censored.
        risk: [n], higher = earlier failure expected; ties where exactly equal.
        train: outcomes from which G is estimated: a pair (time, event) or a structured array; None = the evaluated
            rows. Evaluate several models, or several test sets, with one G.
        tau: only events before this time are compared; patients followed longer still take part as those who outlive.
            None = all events.
        strata: labels [n]; only pairs within a stratum are compared, and each stratum has a G of its own.
        train_strata: labels of the training outcomes, where both ``strata`` and ``train`` are given.
        convention: "G(T-)" takes G just before the event, as Uno and R (timewt = "n/G2") do: a patient is seen to fail
            at t if uncensored until then. "G(T)" takes G at the event's time, as scikit-survival does; they differ
            where a training censoring shares the time of an event.
        entry: not available; late entries (left truncation) raise.

    Returns:
        The index with its weighted counts (float) and the standard error of R, in which G is taken as known; the value
        is NaN when no pair is comparable. Events that nobody outlives are in no comparable pair; without a weight they
        are left out of tied_time and tied_both too.

    Raises:
        ValueError: as ``concordance_index``; where an event that somebody outlives needs a weight that the training
            outcomes do not give, since G = 0 or the event is later than the longest training follow-up: choose a
            smaller ``tau``; with ``entry``; for strata with comparable pairs and without training outcomes.

    Source: Uno et al., On the C-statistics for evaluating overall adequacy of risk prediction procedures with censored
    survival data, Statistics in Medicine 2011, equation 6.
    """
    refuse_entry("concordance_index_ipcw", entry)
    if convention not in ("G(T-)", "G(T)"):
        raise ValueError(f"expected convention 'G(T-)' or 'G(T)', got {convention!r}")
    if tau is not None and not tau > 0:
        raise ValueError(f"expected tau above 0, got {tau!r}")
    common_index(time=time, event=event, risk=risk, strata=strata)
    time, event = outcome(time, event)
    rows = len(time)
    risk = risks(risk, rows)
    codes = None if strata is None else strata_codes(strata, rows)
    compared = event if tau is None else event & (time < tau)
    needed = compared & _outlived(time, event, codes)

    train_time, train_event = training_outcome(train, time, event)
    labels = _strata_of_training(strata, train_strata, train)
    probability = np.full(rows, np.nan)
    if len(train_time) or needed.any():
        # Where nobody outlives an event its weight serves the counts of tied times only, if there is one.
        asked = compared if labels is None else needed | (compared & _trained(codes, *labels))
        probability[asked] = censoring_survival(
            train_time,
            train_event,
            time[asked],
            before=convention == "G(T-)",
            strata=None if labels is None else (labels[0], labels[1][asked]),
        )
    remedy = "choose a smaller tau: only events before it are compared"
    inverse = inverse_censoring_weights(probability, time, needed | (compared & (probability > 0)), remedy)
    return count_pairs(time, event, risk, strata=codes, event_weights=inverse * inverse)


def _outlived(time: np.ndarray, event: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
    """Whether anybody of the stratum is observed longer than each row [n], or censored at its time."""
    if codes is None:
        codes = np.zeros(len(time), dtype=np.int32)
    last = np.full(int(codes.max(initial=0)) + 1, -np.inf)
    last_censored = last.copy()
    np.maximum.at(last, codes, time)
    np.maximum.at(last_censored, codes[~event], time[~event])
    return (time < last[codes]) | (time <= last_censored[codes])


def _trained(codes: np.ndarray, train_strata: Any, strata: np.ndarray) -> np.ndarray:
    """Whether there are training outcomes of the stratum of each row [n]."""
    known = set(to_numpy(train_strata).tolist())
    first = np.unique(codes, return_index=True)[1]
    return np.array([label in known for label in strata[first].tolist()], dtype=bool)[codes]


def _strata_of_training(strata: Any, train_strata: Any, train: Any) -> tuple[Any, np.ndarray] | None:
    """Labels of the training outcomes and of the rows."""
    if strata is None:
        if train_strata is not None:
            raise ValueError("train_strata are given without strata")
        return None
    if train is None:
        if train_strata is not None:
            raise ValueError("train_strata are given without train")
        train_strata = strata
    elif train_strata is None:
        raise ValueError("expected train_strata, the labels of train, where strata are given")
    return train_strata, to_numpy(strata)
