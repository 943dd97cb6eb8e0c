"""What all metrics share: outcomes, curves and labels as users have them, and errors in words where they cannot be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from survcore.metrics import (
    auroc_at_horizon,
    brier_score,
    concordance_index,
    concordance_index_ipcw,
    concordance_index_td,
    cumulative_dynamic_auc,
    d_calibration,
    integrated_brier_score,
    kaplan_meier,
)

TIME, EVENT, RISK = [5.0, 1.0, 3.0, 2.0], [1, 1, 0, 1], [0.1, 2.0, 0.5, 0.3]
OF_RISKS: list[Callable[..., object]] = [
    concordance_index,
    concordance_index_ipcw,
    lambda *rows: cumulative_dynamic_auc(*rows, [2.5]),
    lambda *rows: auroc_at_horizon(*rows, 2.5),
]
OF_CURVES: list[Callable[..., object]] = [concordance_index_td, brier_score, integrated_brier_score, d_calibration]


@pytest.mark.parametrize("metric", OF_RISKS)
def test_series_in_different_orders_are_refused(metric: Callable[..., object]) -> None:
    patients = list("abcd")
    time, event, risk = (pd.Series(values, index=patients) for values in (TIME, EVENT, RISK))
    metric(time, event, risk)
    metric(time, event, RISK)
    with pytest.raises(ValueError, match="risk and time have different indexes: bring them into one order"):
        metric(time, event, risk[::-1])
    with pytest.raises(ValueError, match="event and time have different indexes"):
        metric(time, event[::-1], RISK)


# As many times as patients, so that shapes do not tell which is which.
GRID = np.array([0.5, 1.5, 2.5, 4.0])
CURVES = np.exp(-np.outer([0.2, 1.0, 0.4, 0.5], GRID))


@pytest.mark.parametrize("metric", OF_CURVES)
def test_curves_as_arrays_and_data_frames(metric: Callable[..., object]) -> None:
    expected = metric(TIME, EVENT, CURVES, GRID)
    of_lifelines = pd.DataFrame(CURVES.T, index=GRID)
    by_patient = pd.DataFrame(CURVES, columns=GRID)
    for found in (
        metric(TIME, EVENT, of_lifelines),
        metric(TIME, EVENT, of_lifelines, GRID),
        metric(TIME, EVENT, by_patient, GRID),
    ):
        np.testing.assert_equal(
            getattr(found, "value", getattr(found, "counts", found)),
            getattr(expected, "value", getattr(expected, "counts", expected)),
        )
    with pytest.raises(ValueError, match="curves of survival rise: expected a DataFrame with times as index"):
        metric(TIME, EVENT, pd.DataFrame(CURVES[:, ::-1].T, index=GRID))
    with pytest.raises(ValueError, match="expected times as its index, and no times beside it"):
        metric(TIME, EVENT, of_lifelines.reset_index(drop=True), GRID)
    with pytest.raises(ValueError, match=r"times to rise and to be finite, got 1.0 after 2.5 at place 3"):
        metric(TIME, EVENT, CURVES, [0.5, 1.5, 2.5, 1.0])
    with pytest.raises(ValueError, match="got 1.00000.* at row 0, time 0.5; clip what rounding"):
        metric(TIME, EVENT, np.vstack(([[1.000001, 1, 1, 1]], CURVES[1:])), GRID)


def test_messages_stay_short() -> None:
    times = np.arange(100_000.0)[::-1]
    with pytest.raises(ValueError) as error:
        brier_score(TIME, EVENT, np.ones((4, len(times))), times)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("metric", [brier_score, integrated_brier_score])
def test_scores_with_censoring_weights_refuse_late_entries(metric: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=f"{metric.__name__} takes no entry: under left truncation"):
        metric(TIME, EVENT, CURVES, GRID, entry=[0.0] * 4)
    with pytest.raises(ValueError, match="cumulative_dynamic_auc takes no entry"):
        cumulative_dynamic_auc(TIME, EVENT, RISK, [2.5], entry=[0.0] * 4)


def test_labels_of_strata() -> None:
    expected = concordance_index(TIME, EVENT, RISK, strata=[1, 1, 2, 2])
    for labels in (["b", "b", "a", "a"], np.array(["b", "b", 7, 7], dtype=object), pd.Categorical(list("bbaa"))):
        assert concordance_index(TIME, EVENT, RISK, strata=labels).value == expected.value
    for labels in ([1.0, 1.0, np.nan, 2.0], ["a", None, "b", "b"]):
        for metric in (concordance_index, concordance_index_ipcw):
            with pytest.raises(ValueError, match="expected a stratum for every row, got (nan|None) at row"):
                metric(TIME, EVENT, RISK, strata=labels)


OUTCOME = np.array(list(zip(np.array(EVENT, dtype=bool), TIME, strict=True)), dtype=[("event", "?"), ("time", "f8")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ma.masked_array(TIME, mask=[1, 0, 0, 0]), EVENT), "without masked entries"),
        ((np.array([3, 1, 2, 5]).astype("timedelta64[D]"), EVENT), "expected time as numbers, got timedelta64"),
        ((["a", "b", "c", "d"], EVENT), "expected time as numbers, got <U1"),
        ((np.array([2**53 + 1, 2**53, 1, 2]), EVENT), "expected time within 2\\^53"),
        ((np.array([1j, 2, 3, 4]), EVENT), "expected time as numbers, got complex128"),
        ((TIME, [1, None, 0, 1]), "expected event to be bool, or 0 .* got missing or other values"),
        ((TIME, pd.array([True, None, False, True], dtype="boolean")), "got missing or other values"),
        ((TIME, ["1", "0", "1", "0"]), "expected event to be 0 .censored. or 1"),
        ((OUTCOME, EVENT), "time is a structured array .* expected event as None then"),
        ((TIME,), "event is missing: give time and event, or a structured array"),
    ],
)
def test_outcomes_that_cannot_be(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kaplan_meier(*arguments)


def test_outcomes_of_every_kind() -> None:
    expected = kaplan_meier(TIME, EVENT).survival
    for arguments in (
        (OUTCOME,),
        (pd.Series(TIME), pd.Series(EVENT, dtype="Int64")),
        (TIME, pd.array(EVENT, dtype="boolean")),
        (TIME, np.array(EVENT, dtype=object)),
        (np.ma.masked_array(TIME), EVENT),
    ):
        np.testing.assert_array_equal(kaplan_meier(*arguments).survival, expected)
