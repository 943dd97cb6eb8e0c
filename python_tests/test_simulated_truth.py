"""Recovery of simulated truth: fakes whose answer is known, the statistics on their own, and a small MUST."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import survcore
from survcore.data import Cohort, Preprocessor
from survcore.draws import row_keys
from survcore.errors import DataError
from survcore.evaluation import sample_agreement as agree
from survcore.evaluation.simulated_truth import conditional_agreement, shared_recovery
from survcore.inference.predictor import Predictor
from survcore.models.base import Completed, Encoded

ROWS, TRAINING, DRAWS, WIDTH = 320, 200, 20, 6


class FakeSystem(torch.nn.Module):
    """Shared parts and draws are looked up by row; the specific part of a modality is its first columns."""

    modalities = ("pathology", "genomics")

    def __init__(self, shared: dict[str, np.ndarray], draws: np.ndarray | None = None) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))
        self.row = {key: row for row, key in enumerate(row_keys([f"patient-{n:06d}" for n in range(ROWS)]).tolist())}
        self.shared, self.draws = shared, draws

    def encode(self, batch) -> Encoded:
        rows = [self.row[key] for key in batch.row_key.tolist()]
        owned = batch.availability
        complete = bool(owned.all())
        table = self.shared["complete" if complete else f"without {self.modalities[int(owned[0, 0])]}"]
        specific = torch.stack([batch.values[name][:, :WIDTH] for name in self.modalities], dim=1)
        parts = {"shared": torch.as_tensor(table[rows]), "specific": specific, "row": torch.tensor(rows)}
        return Encoded(parts, owned, batch.row_key)

    def complete(self, encoded: Encoded, *, seed: int, draws: int, **options) -> Completed:
        drawn = torch.as_tensor(self.draws[encoded.parts["row"].numpy(), :draws])
        return Completed({"draws": torch.stack((drawn, drawn), dim=2)}, ~encoded.availability, "own")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return survcore.simulate_cohort(ROWS, seed=3)


def redraw(number: int) -> Cohort:
    return survcore.simulate_cohort(ROWS, seed=3, redraw={"genomics": number})


def fake(cohort: Cohort, shared: dict[str, np.ndarray] | None = None, draws: np.ndarray | None = None) -> Predictor:
    preprocessor = Preprocessor.fit(cohort.select(range(TRAINING)))
    return Predictor(FakeSystem(shared or {}, draws), preprocessor, {})


@pytest.fixture(scope="module")
def conditional(cohort) -> np.ndarray:
    """Specific parts of the fake from redraws that the comparison does not use: the true conditional, [N, DRAWS, D]."""
    predictor = fake(cohort)
    tables = [predictor.preprocessor.transform(redraw(1000 + k)).tables["genomics"][:, :WIDTH] for k in range(DRAWS)]
    return torch.stack(tables, dim=1).numpy()


def compare(cohort: Cohort, draws: np.ndarray, **options):
    training, patients = cohort.select(range(TRAINING)), cohort.select(range(TRAINING, ROWS))
    return conditional_agreement(
        fake(cohort, {"without genomics": np.zeros((ROWS, 3)), "complete": np.zeros((ROWS, 3))}, draws),
        training, patients, redraw, "genomics", **{"draws": DRAWS, "redraws": 15, **options},
    )  # fmt: skip


def test_shared_recovery_is_one_for_the_truth_and_none_for_noise(cohort):
    truth, noise = cohort.truth["shared"], np.random.default_rng(0)
    half = np.column_stack((truth[:, :2], noise.standard_normal((ROWS, 2))))
    tables = {
        "complete": truth @ noise.standard_normal((4, 40)) + 3.0,
        "without pathology": half @ noise.standard_normal((4, 40)),
        "without genomics": noise.standard_normal((ROWS, 40)),
    }
    found = shared_recovery(fake(cohort, tables), cohort.select(range(TRAINING)), cohort.select(range(TRAINING, ROWS)))
    assert list(found["scenario"]) == ["complete", "without pathology", "without genomics"]
    assert list(found.columns) == ["scenario", "rows", *[f"canonical_{n}" for n in range(1, 5)], "mean"]
    assert (found["rows"] == ROWS - TRAINING).all()
    values = found.set_index("scenario").filter(like="canonical")
    assert values.loc["complete"].min() > 0.999
    known, unknown = values.loc["without pathology"].iloc[:2], values.loc["without pathology"].iloc[2:]
    assert known.min() > 0.999 and unknown.abs().max() < 0.3
    # On the training rows 32 noise components of 200 rows reach about 0.5: only held-out rows tell.
    assert values.loc["without genomics"].abs().max() < 0.3
    np.testing.assert_allclose(found["mean"], values.mean(axis=1))


def test_shared_recovery_takes_rows_that_have_what_a_scenario_shows(cohort):
    tables = {name: cohort.truth["shared"] for name in ("complete", "without pathology", "without genomics")}
    gone = np.arange(ROWS) >= ROWS - 20
    some = cohort.without("genomics", gone)
    found = shared_recovery(fake(cohort, tables), some.select(range(TRAINING)), some.select(range(TRAINING, ROWS)))
    assert found["rows"].tolist() == [100, 100, 120]
    with pytest.raises(DataError, match="does not know its shared factors"):
        shared_recovery(fake(cohort, tables), cohort, Cohort(**{**vars(cohort), "truth": None}))


def test_the_true_conditional_passes_and_the_marginal_does_not(cohort, conditional):
    right = compare(cohort, conditional)
    directions, energy = right.directions.set_index("direction"), right.energy.set_index("fill_in")
    assert list(directions.index) == ["1", "2", "3", "4", "all"]
    assert list(energy.index) == ["generated", "training rows", "gaussian"]
    assert (directions["rank_p"] > 0.01).all()
    assert directions.loc["all", "correlation"] > 0.85
    assert directions["variance_ratio"].between(0.8, 1.25).all()
    assert abs(energy.loc["generated", "energy_distance"]) < 0.03
    assert energy.loc["training rows", "energy_distance"] > 0.2 and energy.loc["gaussian", "energy_distance"] > 0.2
    # Draws of other patients: the right marginal, and nothing of the patient.
    others = np.random.default_rng(1).integers(ROWS, size=(ROWS, DRAWS))
    marginal = compare(cohort, conditional[others, np.arange(DRAWS)])
    directions = marginal.directions.set_index("direction")
    assert abs(directions.loc["all", "correlation"]) < 0.25 and directions.loc["all", "variance_ratio"] > 1.5
    distances = marginal.energy["energy_distance"]
    assert distances[0] > 0.2 and distances[0] == pytest.approx(distances[1], abs=0.08)


def test_a_generator_that_is_too_sure_or_off_fails_the_calibration(cohort, conditional):
    middle = conditional.mean(axis=1, keepdims=True)
    sure = compare(cohort, (middle + 0.3 * (conditional - middle)).astype(np.float32)).directions.set_index("direction")
    assert sure["variance_ratio"].between(0.05, 0.15).all()
    assert sure.loc["all", "rank_p"] < 1e-6 and sure.loc["1", "rank_p"] < 1e-2
    off = compare(cohort, conditional + np.float32(1.0)).directions.set_index("direction")
    assert off.loc["all", "rank_p"] < 1e-6
    assert off.loc["all", "correlation"] > 0.85


def test_agreement_is_seeded_and_says_itself_in_one_line(cohort, conditional):
    first, again = (compare(cohort, conditional, redraws=3, directions=2) for _ in range(2))
    pd.testing.assert_frame_equal(first.directions, again.directions)
    pd.testing.assert_frame_equal(first.energy, again.energy)
    assert list(first.directions["direction"]) == ["1", "2", "all"]
    assert "energy distance: generated" in str(first) and "\n" not in str(first)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"draws": 1}, ValueError, "draws: expected at least 2"),
        ({"redraws": 1}, ValueError, "redraws: expected at least 2"),
        ({"directions": 0}, ValueError, "directions: expected at least 1"),
        ({"modality": "mri"}, DataError, "never saw modality 'mri'"),
        ({"make_redraw": lambda k: redraw(k).select(range(250))}, DataError, "without patient 'patient-000250'"),
    ],
)
def test_impossible_comparisons_are_refused(cohort, conditional, arguments, error, message):
    given = {"make_redraw": redraw, "modality": "genomics", "draws": 5, "redraws": 2, **arguments}
    predictor = fake(cohort, {"without genomics": np.zeros((ROWS, 3)), "complete": np.zeros((ROWS, 3))}, conditional)
    with pytest.raises(error, match=message):
        conditional_agreement(predictor, cohort.select(range(TRAINING)), cohort.select(range(TRAINING, ROWS)), **given)


def test_sample_statistics_against_their_definitions():
    generator = np.random.default_rng(4)
    uniform = generator.uniform(size=150) ** 1.2
    expected = stats.kstest(uniform, "uniform")
    distance, p_value = agree.uniformity(uniform)
    assert distance == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=0.05)
    assert agree.uniformity((np.arange(400) + 0.5) / 400)[1] == 1.0
    # In one dimension the energy distance is twice the integrated squared difference of the distribution functions.
    left, right = generator.standard_normal((1, 4000, 1)), 1.0 + generator.standard_normal((1, 3000, 1))
    grid = np.linspace(-6, 7, 4001)
    exact = 2 * ((stats.norm.cdf(grid) - stats.norm.cdf(grid - 1)) ** 2).sum() * (grid[1] - grid[0])
    assert agree.energy_distances(left, right)[0] == pytest.approx(exact, abs=0.03)
    samples = generator.standard_normal((50, 12, 3))
    assert abs(agree.energy_distances(samples, generator.standard_normal((50, 7, 3))).mean()) < 0.05
    assert agree.central_ranks(np.zeros((50, 3)), samples).mean() < 2
    assert (agree.central_ranks(np.full((50, 3), 9.0), samples) == 12).all()
    assert agree.ranks(np.array([0.0]), np.array([[-1.0, 2.0, -3.0]])).tolist() == [2]
    assert np.isnan(agree.correlation(np.zeros((5, 2)), np.ones((5, 2))))


def test_a_trained_must_is_measured(cohort, one_thread):
    tiny = {
        "model": {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1},
        "stages": {"warm_up": {"epochs": 1}, "joint": {"epochs": 1}, "diffusion": {"epochs": 1, "steps_per_epoch": 3}},
    }
    training, test = cohort.select(range(TRAINING)), cohort.select(range(TRAINING, ROWS))
    predictor = survcore.fit("must", training, changes=tiny)
    found = shared_recovery(predictor, training, test)
    assert found["mean"].between(0.2, 1).all()
    agreement = conditional_agreement(predictor, training, test, redraw, "genomics", draws=4, redraws=3, steps=3)
    assert np.isfinite(agreement.directions.drop(columns="direction").to_numpy(float)).all()
    assert np.isfinite(agreement.energy["energy_distance"]).all()


@pytest.mark.parametrize(
    ("weights", "bar"),
    [
        ({"decomposition_weight": 0.1, "shared_weight": 0.1}, 0.8),
        # The recipe's own, far smaller weights leave the specific parts little but the risk, which is harder to draw.
        ({}, 0.95),
    ],
    ids=["decomposed", "default"],
)
def test_must_recovers_the_shared_factors_and_draws_from_the_conditional(one_thread, weights, bar) -> None:
    """A small MUST on 400 patients: without a scaled condition the correlation is about 0 and the distance as wide."""
    cohort = survcore.simulate_cohort(500, seed=0)
    training, test = cohort.select(range(400)), cohort.select(range(400, 500))
    rate = {"learning_rate": 1e-3}
    stages = {"warm_up": {"epochs": 4}, "joint": {"epochs": 10, **rate}, "diffusion": {"epochs": 6, **rate}}
    model = {"width": 64, "rank": 16, "denoiser_layers": 2, **weights}
    predictor = survcore.fit("must", training, changes={"model": model, "stages": stages})
    recovered = shared_recovery(predictor, training, test).set_index("scenario")["mean"]
    assert recovered["complete"] > 0.6 and recovered.min() > 0.5
    found = conditional_agreement(
        predictor,
        training,
        test,
        lambda number: survcore.simulate_cohort(500, seed=0, redraw={"genomics": number}),
        "genomics",
        draws=12,
        redraws=12,
        steps=8,
        solver="dpm_solver++",
    )
    distance = found.energy.set_index("fill_in")["energy_distance"]
    assert distance["generated"] < bar * distance["training rows"]
    assert found.directions["correlation"].iloc[-1] > 0.4
