"""Survival curves from discrete hazards against direct integration."""

from __future__ import annotations

import numpy as np
import pytest

from survcore.inference import SurvivalCurves

EDGES = [0.0, 6.0, 18.0, 30.0, np.inf]
HAZARDS = np.array([[0.1, 0.2, 0.5, 0.4], [0.0, 0.0, 0.0, 0.0], [0.3, 1.0, 0.2, 0.1]])


@pytest.fixture
def curves() -> SurvivalCurves:
    return SurvivalCurves(HAZARDS, EDGES, longest_follow_up=60.0)


def test_edges_hold_the_products_of_one_minus_hazard(curves):
    np.testing.assert_allclose(curves.survival([6, 18, 30, 60]), np.cumprod(1 - HAZARDS, axis=1), atol=1e-15)
    np.testing.assert_array_equal(curves.survival([0])[:, 0], 1.0)


def test_hazard_is_constant_inside_a_bin(curves):
    times = np.linspace(6, 18, 7)
    logs = np.log(curves.survival(times)[0])
    np.testing.assert_allclose(np.diff(logs), np.diff(logs)[0], rtol=1e-12)


def test_beyond_the_longest_follow_up_nothing_is_known(curves):
    assert np.isnan(curves.survival([60.01])).all()
    assert not np.isnan(curves.survival([60.0])).any()
    assert np.isnan(curves.restricted_mean(61)).all()


def test_median_is_where_survival_is_one_half(curves):
    median = curves.median()
    assert curves.survival([median[0]])[0, 0] == pytest.approx(0.5, abs=1e-12)
    assert median[1] == np.inf
    assert 6 <= median[2] <= 18


def test_restricted_mean_is_the_integral(curves):
    grid = np.linspace(0, 45, 200_001)
    survival = curves.survival(grid)[:2]
    integral = ((survival[:, 1:] + survival[:, :-1]) / 2 * np.diff(grid)).sum(axis=1)
    np.testing.assert_allclose(curves.restricted_mean(45)[:2], integral, rtol=1e-8)


def test_certain_death_in_a_bin(curves):
    assert curves.survival([18.0, 40.0])[2].tolist() == [0.0, 0.0]
    # The whole mass of a certain bin goes at once: survival drops right after its start.
    assert curves.survival([6.0])[2, 0] == pytest.approx(0.7)
    assert np.isfinite(curves.restricted_mean(45)[2])


def test_a_first_bin_without_width_acts_at_time_zero():
    curves = SurvivalCurves(HAZARDS[:1], [0, 0, 18, 30, np.inf], 60)
    np.testing.assert_allclose(curves.survival([0, 18])[0], [0.9, 0.9 * 0.8])
    assert np.isfinite(curves.median()[0]) and np.isfinite(curves.restricted_mean(40)[0])


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        SurvivalCurves(HAZARDS[:, :3], EDGES, 60)
    with pytest.raises(ValueError, match="must not fall"):
        SurvivalCurves(HAZARDS, [0, 5, 4, 6, np.inf], 60)
    with pytest.raises(ValueError, match="months >= 0"):
        SurvivalCurves(HAZARDS, EDGES, 60).survival([-1])


def test_an_unknown_curve_has_no_median():
    unknown = SurvivalCurves(np.array([[0.1, np.nan, 0.2, 0.3]]), EDGES, longest_follow_up=60.0)
    assert np.isnan(unknown.median()).all() and np.isnan(unknown.survival([60])).all()
