from __future__ import annotations

import numpy as np
import pytest

from survcore.data import Cohort, simulate_cohort
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


def test_the_default_cohort_keeps_its_draws():
    cohort = simulate_cohort(3, seed=9)
    np.testing.assert_allclose(cohort.endpoint().time, [6.75376211, 57.25235883, 25.9853557], rtol=1e-6)
    np.testing.assert_allclose(
        cohort.modalities["genomics"].table[:, 7], [0.7354737, -0.41156128, -0.3858533], rtol=1e-5
    )


BAGS = {"slide": "bag", "genomics": "tokens"}


def bag(cohort: Cohort, row: int) -> np.ndarray:
    return cohort.modalities["slide"].value(row).numpy()


def test_bags_are_ragged_seeded_and_a_small_cohort_begins_a_large_one():
    small, large = simulate_cohort(40, seed=5, modalities=BAGS), simulate_cohort(90, seed=5, modalities=BAGS)
    for row in range(40):
        np.testing.assert_array_equal(bag(small, row), bag(large, row))
        np.testing.assert_array_equal(small.modalities["slide"].coords(row), large.modalities["slide"].coords(row))
        np.testing.assert_array_equal(small.truth["signal"]["slide"][row], large.truth["signal"]["slide"][row])
    counts = np.array([len(bag(large, row)) for row in range(90)])
    assert 20 <= counts.min() < 25 and 55 < counts.max() <= 60
    # Uniform in the logarithm: half of the bags lie below the geometric mean of 20 and 60.
    assert 0.35 < (counts < np.sqrt(20 * 60)).mean() < 0.65
    # A bag beside a table changes neither the table nor the outcomes.
    alone = simulate_cohort(40, seed=5, modalities={"slide": "vector", "genomics": "tokens"})
    np.testing.assert_array_equal(alone.modalities["genomics"].table, small.modalities["genomics"].table)
    np.testing.assert_array_equal(alone.endpoint().time, small.endpoint().time)


def test_signal_patches_are_one_region_of_the_asked_share():
    cohort = simulate_cohort(60, seed=6, modalities=BAGS, signal_patches=0.3, patches=(1, 90))
    centres = []
    for row, signal in enumerate(cohort.truth["signal"]["slide"]):
        coords = cohort.modalities["slide"].coords(row).numpy()
        assert signal.dtype == bool and len(signal) == len(bag(cohort, row)) == len(coords)
        assert signal.sum() == max(1, round(0.3 * len(signal)))
        assert len(np.unique(coords, axis=0)) == len(coords)
        places = {tuple(place) for place in coords[signal] // 256}
        reached, left = set(), {next(iter(places))}
        while left:
            x, y = left.pop()
            reached.add((x, y))
            left |= ({(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)} & places) - reached
        assert reached == places
        if len(signal) > 20:
            centres.append(coords[signal].mean(0) / coords.max(0))
    assert np.std(centres, axis=0).min() > 0.1


def test_signal_patches_show_the_factors_and_the_others_do_not():
    cohort = simulate_cohort(600, seed=7, modalities=BAGS)
    truth = cohort.truth
    signal = truth["signal"]["slide"]
    patches, marked = np.concatenate([bag(cohort, row) for row in range(600)]), np.concatenate(signal)
    shown = np.stack([bag(cohort, row)[signal[row]].mean(0) for row in range(600)])
    others = np.stack([bag(cohort, row)[~signal[row]].mean(0) for row in range(600)])
    factors = np.concatenate((truth["shared"], truth["specific"]["slide"]), axis=1)
    assert residual(shown, factors) < 0.1
    assert residual(others, factors) > 0.9
    assert residual(others, truth["log_hazard"][:, None]) > 0.9
    # A linear score tells the signal patches apart.
    score = (
        np.column_stack((np.ones(len(patches)), patches))
        @ np.linalg.lstsq(np.column_stack((np.ones(len(patches)), patches)), marked.astype(float), rcond=None)[0]
    )
    assert concordance(marked[::7].astype(float), ~marked[::7], -score[::7]) > 0.99


def test_truth_of_bags_follows_a_selection_and_absent_bags_keep_theirs():
    cohort = simulate_cohort(30, seed=8, modalities=BAGS, missing={"slide": 0.5}, bag_dtype="float16", bag_width=13)
    some = cohort.select([20, 3, 11])
    for position, row in enumerate([20, 3, 11]):
        np.testing.assert_array_equal(some.truth["signal"]["slide"][position], cohort.truth["signal"]["slide"][row])
    full = simulate_cohort(30, seed=8, modalities=BAGS, bag_width=13)
    for row in range(30):
        np.testing.assert_array_equal(cohort.truth["signal"]["slide"][row], full.truth["signal"]["slide"][row])
        if cohort.modalities["slide"].present[row]:
            assert bag(cohort, row).dtype == np.float16
            np.testing.assert_allclose(bag(cohort, row), bag(full, row), rtol=1e-3, atol=1e-3)
    assert 5 < cohort.modalities["slide"].present.sum() < 25
    assert not simulate_cohort(5, seed=8, modalities=BAGS, missing={"slide": 1.0}).modalities["slide"].present.any()


@pytest.mark.parametrize("kind", ["tokens", "bag"])
def test_redraw_changes_one_modality_given_the_shared_factors(kind):
    def draw(number: int) -> Cohort:
        modalities = {"slide": kind, "genomics": "tokens"}
        return simulate_cohort(300, seed=2, modalities=modalities, missing=0.1, redraw={"slide": number})

    def values(cohort: Cohort, row: int) -> np.ndarray:
        return cohort.modalities["slide"].value(row).numpy()

    plain, first, second = draw(0), draw(1), draw(2)
    assert (
        plain.fingerprint()
        == simulate_cohort(300, seed=2, modalities={"slide": kind, "genomics": "tokens"}, missing=0.1).fingerprint()
    )
    np.testing.assert_array_equal(plain.availability, first.availability)
    np.testing.assert_array_equal(plain.endpoint().time, first.endpoint().time)
    np.testing.assert_array_equal(plain.truth["log_hazard"], first.truth["log_hazard"])
    np.testing.assert_array_equal(plain.truth["shared"], first.truth["shared"])
    np.testing.assert_array_equal(plain.truth["specific"]["genomics"], first.truth["specific"]["genomics"])
    np.testing.assert_array_equal(plain.modalities["genomics"].table, first.modalities["genomics"].table)
    rows = np.flatnonzero(plain.modalities["slide"].present)
    for one, other in ((plain, first), (first, second)):
        assert not any(np.array_equal(values(one, row), values(other, row)) for row in rows)
        # Half of the variance of the specific factors is determined by the shared ones, and only that half stays.
        left, right = one.truth["specific"]["slide"], other.truth["specific"]["slide"]
        determined = (one.truth["shared"] ** 2 - 1) / np.sqrt(2)
        assert np.corrcoef(left.ravel(), right.ravel())[0, 1] == pytest.approx(0.5, abs=0.1)
        assert residual(determined, left - right) > 0.95
    for row in rows[:5]:
        np.testing.assert_array_equal(values(first, row), values(draw(1), row))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"missing": 1.0}, "every modality is missing"),
        ({"missing": {"mri": 0.1}}, "names modality 'mri'"),
        ({"missing": 1.2}, "from 0 to 1"),
        ({"modalities": {"mri": "volume"}}, "not 'volume'"),
        ({"patients": 0}, "at least one patient"),
        ({"censored": 1.0}, "below 1"),
        ({"redraw": {"mri": 1}}, "redraw names modality 'mri'"),
        ({"redraw": {"genomics": -1}}, "redraw of modality 'genomics'"),
        ({"redraw": {"genomics": True}}, "whole number"),
        ({"patches": (5, 2)}, "patches"),
        ({"patches": (0, 2)}, "patches"),
        ({"patches": 20}, "patches"),
        ({"patches": (2.5, 4)}, "whole numbers"),
        ({"signal_patches": 1.0}, "signal_patches"),
        ({"bag_dtype": "int8"}, "float32, float16, got 'int8'"),
        ({"modalities": BAGS, "bag_width": 12}, "at least 13"),
    ],
)
def test_impossible_wishes_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        simulate_cohort(**arguments)
