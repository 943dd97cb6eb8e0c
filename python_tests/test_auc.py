"""Areas under ROC curves against scikit-survival, scikit-learn and the definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survcore.metrics import auroc_at_horizon, censoring_survival, cumulative_dynamic_auc, kaplan_meier


def structured(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    outcomes = np.empty(len(time), dtype=[("event", bool), ("time", float)])
    outcomes["event"], outcomes["time"] = event, time
    return outcomes


def patients(seed: int, rows: int, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time, event and a risk that tells something about them; ties where few decimals are kept."""
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=rows)
    time = generator.exponential(10 * np.exp(-0.7 * risk)).round(decimals)
    return time, generator.random(rows) < 0.6, risk.round(decimals)


def area_by_definition(case_weight: np.ndarray, control: np.ndarray, risk: np.ndarray) -> float:
    """All pairs of a case and a control."""
    wins = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    return (case_weight[:, None] * control * wins).sum() / (case_weight.sum() * control.sum())


def areas_by_definition(time, event, risk, times, train, convention="G(T-)") -> np.ndarray:
    weight = 1 / censoring_survival(*train, np.minimum(time, max(times)), before=convention == "G(T-)")
    columns = risk.T if risk.ndim == 2 else [risk] * len(times)
    return np.array(
        [
            area_by_definition(weight * (event & (time <= t)), time > t, own)
            for t, own in zip(times, columns, strict=True)
        ]
    )


# --- other packages and the definition ------------------------------------------------------------------------------


@pytest.mark.parametrize("by_time", [False, True])
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_areas_of_scikit_survival(decimals: int, by_time: bool) -> None:
    theirs = pytest.importorskip("sksurv.metrics").cumulative_dynamic_auc
    train_time, train_event, _ = patients(0, 500, decimals)
    time, event, risk = patients(1, 300, decimals)
    time = np.minimum(time, train_time.max())  # it asks for the weights of later patients too, though it uses none
    times = np.arange(1.0, 16)
    if by_time:
        risk = risk[:, None] * np.random.default_rng(2).normal(1, 0.3, (300, 15)).round(decimals)
    ours = cumulative_dynamic_auc(time, event, risk, times, train=(train_time, train_event), convention="G(T)")
    areas, mean = theirs(structured(train_time, train_event), structured(time, event), risk, times, tied_tol=0)
    np.testing.assert_allclose(ours.auc, areas, rtol=0, atol=1e-12)
    assert ours.mean == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("convention", ["G(T-)", "G(T)"])
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_areas_by_definition(decimals: int, convention: str) -> None:
    train = patients(3, 120, decimals)[:2]
    time, event, risk = patients(4, 90, decimals)
    times = np.array([1.0, 2, 3.5, 7])
    for risks in (risk, np.column_stack([risk, -risk, risk**2, np.zeros(90)])):
        ours = cumulative_dynamic_auc(time, event, risks, times, train=train, convention=convention)
        expected = areas_by_definition(time, event, risks, times, train, convention)
        np.testing.assert_allclose(ours.auc, expected, rtol=0, atol=1e-13)


def test_uncensored_areas_of_scikit_learn() -> None:
    roc_auc_score = pytest.importorskip("sklearn.metrics").roc_auc_score
    time, _, risk = patients(5, 400, 1)
    times = np.array([1.0, 4, 9, 20])
    ours = cumulative_dynamic_auc(time, np.ones(400), risk, times)
    for t, area in zip(times, ours.auc, strict=True):
        assert area == pytest.approx(roc_auc_score(time <= t, risk), abs=1e-13)
        for censoring in ("left out", "weighted"):
            assert auroc_at_horizon(time, np.ones(400), risk, t, censoring=censoring) == pytest.approx(area, abs=1e-15)


def test_mean_by_the_fall_of_survival() -> None:
    time, event, risk = patients(6, 200, 1)
    times = np.array([1.0, 3, 8])
    found = cumulative_dynamic_auc(time, event, risk, times)
    survival = kaplan_meier(time, event).survival_at(times)
    falls = np.array([1 - survival[0], survival[0] - survival[1], survival[1] - survival[2]])
    assert found.mean == pytest.approx((found.auc * falls).sum() / (1 - survival[2]), abs=1e-14)


def test_patients_censored_before_the_horizon_are_left_out() -> None:
    roc_auc_score = pytest.importorskip("sklearn.metrics").roc_auc_score
    time, event, risk = patients(7, 300, 0)
    known = event | (time >= 5)
    expected = roc_auc_score((event & (time <= 5))[known], risk[known])
    assert auroc_at_horizon(time, event, risk, 5) == pytest.approx(expected, abs=1e-13)
    # Risks 3 (case), 2 (censored early), 1 (censored at the horizon), 4 (event after it).
    assert auroc_at_horizon([2, 3, 5, 6], [1, 0, 0, 1], [3, 2, 1, 4], 5) == 0.5


def test_weighted_area_at_the_horizon() -> None:
    time, event, risk = patients(8, 300, 0)
    train = patients(9, 300, 0)[:2]
    expected = areas_by_definition(time, event, risk, [5.0], train)[0]
    assert auroc_at_horizon(time, event, risk, 5, censoring="weighted", train=train) == pytest.approx(
        expected, abs=1e-13
    )


def test_a_patient_who_stands_for_the_censored() -> None:
    """G falls to 1/2 between the two events, so that the later case counts twice."""
    time, event, risk = [1, 2, 3, 4], [1, 0, 1, 1], [0, 9, 2, 1]
    assert cumulative_dynamic_auc(time, event, risk, 3).auc.tolist() == pytest.approx([(1 * 0 + 1.5 * 1) / 2.5])


# --- properties -----------------------------------------------------------------------------------------------------

risks = st.one_of(st.sampled_from([-1.0, -0.0, 0.0, 2.0, np.inf, -np.inf]), st.floats(-1e300, 1e300))
rows_of_patients = st.lists(st.tuples(st.integers(0, 6), st.booleans(), risks), min_size=1, max_size=40)
TIMES = [0.5, 3, 6]


def areas(rows: list[tuple[int, bool, float]]) -> np.ndarray:
    time, event, risk = (np.array(column) for column in zip(*rows, strict=True))
    found = cumulative_dynamic_auc(time, event, risk, TIMES)
    return np.append(found.auc, [found.mean, auroc_at_horizon(time, event, risk, 3)])


@settings(max_examples=200, deadline=None)
@given(rows_of_patients, st.randoms(use_true_random=False))
def test_order_and_duplicates_of_patients_do_not_matter(rows: list[tuple[int, bool, float]], random) -> None:
    rows.append((7, True, 0.5))
    expected = areas(rows)
    np.testing.assert_allclose(areas(random.sample(rows, len(rows))), expected, rtol=1e-12)
    np.testing.assert_allclose(areas(rows + rows), expected, rtol=1e-12)


@settings(max_examples=200, deadline=None)
@given(rows_of_patients)
def test_only_the_order_of_the_risks_matters(rows: list[tuple[int, bool, float]]) -> None:
    rows.append((7, True, 0.5))
    ranks = np.unique([row[2] for row in rows], return_inverse=True)[1].tolist()
    transformed = [(time, event, 3.0 * rank - 50) for (time, event, _), rank in zip(rows, ranks, strict=True)]
    np.testing.assert_allclose(areas(transformed), areas(rows), rtol=1e-12)
    reversed_ = [(time, event, -rank) for (time, event, _), rank in zip(rows, ranks, strict=True)]
    np.testing.assert_allclose(areas(reversed_), 1 - areas(rows), rtol=1e-12, atol=1e-12)


# --- edges, inputs and errors ---------------------------------------------------------------------------------------


def test_one_class_is_nan() -> None:
    found = cumulative_dynamic_auc([2, 3, 4], [1, 1, 1], [3, 1, 2], [1, 2.5, 4])
    assert np.isnan(found.auc).tolist() == [True, False, True]
    assert np.isnan(found.mean)  # survival falls where there is no control
    early = cumulative_dynamic_auc([2, 3, 4], [1, 1, 1], [3, 1, 2], [1, 2.5])
    assert early.mean == early.auc[1] == 1
    censored = cumulative_dynamic_auc([2, 3, 4], [0, 0, 0], [3, 1, 2], [1, 2.5])
    assert np.isnan(censored.auc).all() and np.isnan(censored.mean)
    assert np.isnan(auroc_at_horizon([2, 3, 4], [1, 1, 1], [3, 1, 2], 1))
    assert np.isnan(auroc_at_horizon([2, 3, 4], [1, 1, 1], [3, 1, 2], 4))
    assert np.isnan(auroc_at_horizon([], [], [], 4))


def test_input_types() -> None:
    (time, event, risk), times = patients(10, 60, 1), [2.0, 5.0]
    expected = cumulative_dynamic_auc(time, event, risk, times)
    for kind in (pd.Series, torch.tensor, list):
        found = cumulative_dynamic_auc(kind(time), kind(event), kind(risk), kind(times))
        np.testing.assert_array_equal(found.auc, expected.auc)
    outcomes = structured(time, event)
    np.testing.assert_array_equal(cumulative_dynamic_auc(outcomes, None, risk, times, train=outcomes).auc, expected.auc)
    tensor = torch.tensor(np.column_stack([risk, risk])).requires_grad_()
    np.testing.assert_array_equal(cumulative_dynamic_auc(time, event, tensor, times).auc, expected.auc)
    assert auroc_at_horizon(outcomes, None, risk, 5, censoring="weighted") == expected.auc[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": [1, 6]}, "within the training follow-up, 0 to 5.0, got 6.0; evaluate at earlier times"),
        ({"times": [-1, 2]}, "within the training follow-up, 0 to 5.0, got -1.0"),
        ({"times": [2, 2]}, "times to rise"),
        ({"times": []}, "at least one time in times, got none"),
        ({"risk": [1, np.nan, 3, 4, 5]}, "risk is NaN at row 1"),
        ({"risk": np.array([[1, 2], [1, np.nan], [1, 2], [1, 2], [1, 2.0]])}, "risk is NaN at row 1, column 1"),
        ({"risk": np.ones((5, 3))}, "risk \\[patients, times\\] = \\[5, 2\\], got shape \\(5, 3\\)"),
        ({"risk": [1, 2]}, "expected 5 values of risk"),
        ({"time": [], "event": [], "risk": []}, "expected training outcomes, got none"),
        ({"convention": "before"}, "convention 'G\\(T-\\)' or 'G\\(T\\)', got 'before'"),
        (
            {"train": ([1, 3, 3], [1, 0, 0]), "convention": "G(T)"},
            "no censoring weight for row 2, time 3.0: every training patient .* \\(G = 0\\); evaluate at earlier times",
        ),
    ],
)
def test_errors_name_what_is_wrong(changes: dict, message: str) -> None:
    arguments = {"time": [1, 2, 3, 4, 5], "event": [1, 0, 1, 1, 1], "risk": [5, 4, 3, 2, 1], "times": [1, 3]}
    with pytest.raises(ValueError, match=message):
        cumulative_dynamic_auc(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": np.nan}, "finite horizon of at least 0, got nan"),
        ({"horizon": -1}, "finite horizon of at least 0, got -1"),
        ({"censoring": "ignored"}, "censoring 'left out' or 'weighted', got 'ignored'"),
        ({"train": ([1], [1])}, "drop one of them"),
        ({"horizon": 6, "censoring": "weighted"}, "within the training follow-up, 0 to 3.0, got 6.0"),
        ({"risk": [1, np.nan, 2]}, "risk is NaN at row 1"),
    ],
)
def test_errors_at_a_horizon(changes: dict, message: str) -> None:
    arguments = {"time": [1, 2, 3], "event": [1, 0, 1], "risk": [3, 2, 1], "horizon": 2}
    with pytest.raises(ValueError, match=message):
        auroc_at_horizon(**(arguments | changes))
