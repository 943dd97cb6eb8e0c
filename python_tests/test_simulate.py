from __future__ import annotations

import numpy as np
import pytest

from survcore.data import simulate_cohort
from survcore.errors import DataError


def concordance(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Harrell's C by its definition, without ties."""
    comparable = (time[:, None] < time[None, :]) & (event[:, None] == 1)
    return float((risk[:, None] > risk[None, :])[comparable].mean())


def residual(table: np.ndarray, factors: np.ndarray) -> float:
    """Share of the factors' variance that a linear map of the table leaves unexplained."""
    design = np.column_stack((np.ones(len(table)), table))
    fitted = design @ np.linalg.lstsq(design, factors, rcond=None)[0]
    return float(((factors - fitted) ** 2).mean() / factors.var(axis=0).mean())


def test_draws_are_seeded_and_a_small_cohort_begins_a_large_one():
    small, large = simulate_cohort(50, seed=5, missing=0.2), simulate_cohort(120, seed=5, missing=0.2)
    np.testing.assert_array_equal(small.endpoint().time, large.endpoint().time[:50])
    np.testing.assert_array_equal(small.availability, large.availability[:50])
    for name, modality in small.modalities.items():
        np.testing.assert_array_equal(modality.table, large.modalities[name].table[:50])
    assert simulate_cohort(50, seed=5, missing=0.2).fingerprint() == small.fingerprint()
    assert simulate_cohort(50, seed=6, missing=0.2).fingerprint() != small.fingerprint()


def test_truth_is_standardised_and_explains_the_outcome():
    cohort = simulate_cohort(3000, seed=1)
    truth, endpoint = cohort.truth, cohort.endpoint()
    for factors in (truth["shared"], *truth["specific"].values()):
        assert factors.shape == (3000, 4)
        np.testing.assert_allclose(factors.mean(0), 0, atol=0.1)
        np.testing.assert_allclose(factors.var(0), 1, atol=0.25)
    np.testing.assert_array_equal(endpoint.time, np.minimum(truth["time"], truth["censoring"]))
    np.testing.assert_array_equal(endpoint.event, truth["time"] <= truth["censoring"])
    assert 0.5 <= 1 - endpoint.event.mean() <= 0.6
    oracle = concordance(endpoint.time, endpoint.event, truth["log_hazard"])
    assert 0.74 < oracle < 0.86


def test_every_factor_matters_and_a_modality_shows_its_own():
    cohort = simulate_cohort(2000, seed=2)
    truth = cohort.truth
    specific = truth["specific"]
    parts = np.column_stack((truth["shared"], *specific.values()))
    weights, *_ = np.linalg.lstsq(np.column_stack((np.ones(2000), parts)), truth["log_hazard"], rcond=None)
    assert np.abs(weights[1:]).min() > 0.2
    tables = {name: modality.table.astype(np.float64) for name, modality in cohort.modalities.items()}
    for name, other in (("pathology", "genomics"), ("genomics", "pathology")):
        assert residual(tables[name], truth["shared"]) < 0.2
        assert residual(tables[name], specific[name]) < 0.2
        # The specific factors cannot be read linearly from the other modality beyond what both are determined by.
        assert residual(tables[other], specific[name]) > 0.6


def test_half_of_a_missing_modality_can_be_generated_from_the_shared_factors():
    truth = simulate_cohort(2000, seed=3).truth
    shared, specific = truth["shared"], truth["specific"]["genomics"]
    assert residual(shared, specific) > 0.95
    assert residual(shared**2, specific) == pytest.approx(0.5, abs=0.06)
    alone = simulate_cohort(500, seed=3, recoverable=0.0).truth
    assert residual(alone["shared"] ** 2, alone["specific"]["genomics"]) > 0.95


def test_missingness_follows_the_shares_and_leaves_no_row_empty():
    cohort = simulate_cohort(1000, seed=4, missing={"genomics": 0.3})
    np.testing.assert_allclose(1 - cohort.availability.mean(0), [0, 0.3], atol=0.04)
    assert simulate_cohort(300, missing=0.9).availability.any(axis=1).all()
    everyone = simulate_cohort(30, missing={"genomics": 1.0, "pathology": 0.9})
    assert everyone.modalities["pathology"].present.all() and not everyone.modalities["genomics"].present.any()
    gaps = np.isnan(simulate_cohort(200, missing_entries=0.1).modalities["pathology"].table).mean()
    assert gaps == pytest.approx(0.1, abs=0.01)


def test_kinds_of_modalities():
    cohort = simulate_cohort(200, modalities={"slide": "tokens", "rna": "vector", "mutations": "panel"})
    assert [modality.spec.kind for modality in cohort.modalities.values()] == ["tokens", "vector", "panel"]
    assert len(cohort.modalities["slide"].spec.groups) == 6
    panel = cohort.modalities["mutations"].table
    assert set(np.unique(panel)) == {0, 1} and 0.05 < panel.mean() < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"missing": 1.0}, "every modality is missing"),
        ({"missing": {"mri": 0.1}}, "names modality 'mri'"),
        ({"missing": 1.2}, "from 0 to 1"),
        ({"modalities": {"mri": "volume"}}, "not 'volume'"),
        ({"patients": 0}, "at least one patient"),
        ({"censored": 1.0}, "below 1"),
    ],
)
def test_impossible_wishes_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        simulate_cohort(**arguments)
