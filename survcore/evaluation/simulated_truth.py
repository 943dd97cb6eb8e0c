"""How well a trained MUST recovers what the simulator knows: the shared factors, and the conditional of a modality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from survcore.data.cohort import Cohort
from survcore.data.messages import listed
from survcore.draws import row_keys, row_normal, row_uniform, stream_seed
from survcore.errors import DataError
from survcore.evaluation import sample_agreement as agree
from survcore.evaluation.scenarios import scenarios
from survcore.inference.predictor import Predictor


def shared_recovery(
    predictor: Predictor, training: Cohort, test: Cohort, *, components: int = 32, ridge: float = 1e-3
) -> pd.DataFrame:
    """Canonical correlations between the model's shared part and the true shared factors, per scenario.

    The part "shared" [N, D] of :meth:`System.encode` is reduced to its leading principal components. Canonical
    directions of both sides are fitted on the training rows under the same scenario and correlated on the test rows,
    so a direction that fits noise earns nothing.

    Args:
        predictor: a trained system with a part "shared", such as MUST.
        training: simulated patients on which the directions are fitted; they may be those of the predictor's training.
        test: simulated patients that the predictor has not seen. Of both, a scenario takes the rows that have every
            modality it shows.
        components: principal components kept, at most.
        ridge: added to each component's variance, as a share of the mean variance over components.

    Returns:
        One line per scenario ("complete", "without <modality>", from three modalities "only <modality>"): ``rows`` of
        the test, ``canonical_1`` ... ``canonical_F`` in the order of the training rows, and their ``mean``.

    Raises:
        DataError: a cohort without truth, or without rows for a scenario.
    """
    lines = []
    for scenario in scenarios(predictor.modalities):
        # A fill-in changes the specific parts only.
        if scenario.fill not in ("", "own"):
            continue
        shown_modalities = [name for name in predictor.modalities if name not in scenario.absent]
        sides = []
        for cohort in (training, test):
            shown = scenario.apply(cohort.where(has=shown_modalities))
            parts = [encoded.parts["shared"].cpu() for encoded in predictor.encode(shown).batches]
            sides.append((torch.cat(parts).double().numpy(), _true_shared(shown)))
        values = _canonical_correlations(*sides, components, ridge)
        named = {f"canonical_{number}": value for number, value in enumerate(values, 1)}
        lines.append({"scenario": scenario.name, "rows": len(sides[1][0]), **named, "mean": values.mean()})
    return pd.DataFrame(lines)


@dataclass(frozen=True)
class ConditionalAgreement:
    """Generated against true specific parts of one modality; see :func:`conditional_agreement`.

    Attributes:
        directions: one line per principal direction ("1", "2", ...) and one for "all" of them together:
            ``variance_share`` of the training rows' u_hat; ``correlation`` over patients between the means of generated
            and of true samples; ``variance_ratio``, generated over true variance within a patient; ``rank_distance``
            and ``rank_p``, the Kolmogorov-Smirnov distance from uniform of the actual u_hat's rank among its draws
            (for "all": how central it is among them).
        energy: one line per ``fill_in`` ("generated", "training rows", "gaussian"): ``energy_distance`` to the true
            samples, a mean over patients, and its ``standard_error``.
    """

    directions: pd.DataFrame
    energy: pd.DataFrame

    def __str__(self) -> str:
        whole = self.directions.iloc[-1]
        distances = [f"{line.fill_in} {line.energy_distance:.2f}" for line in self.energy.itertuples()]
        return (
            f"means correlate at {whole['correlation']:.2f}, variance {whole['variance_ratio']:.2f} times the true "
            f"one, energy distance: {', '.join(distances)}"
        )


def conditional_agreement(
    predictor: Predictor,
    training: Cohort,
    patients: Cohort,
    make_redraw: Callable[[int], Cohort],
    modality: str,
    *,
    draws: int = 50,
    redraws: int = 50,
    directions: int = 4,
    seed: int = 0,
    steps: int = 50,
    solver: str = "ddim",
) -> ConditionalAgreement:
    """Does the system generate a missing modality's specific part u~ from the true conditional distribution?

    The true samples of a patient are the u_hat of the same patient with the modality drawn anew from its distribution
    given the shared factors z. All is compared in the leading principal directions of the training rows' u_hat, in
    units of their standard deviation (root of the variance summed over the directions).

    The system sees the other modalities, which know z only through noise: what it should draw from is the mixture,
    over the z that they leave possible, of the true samples' distributions. So the spread of the true samples is a
    lower bound, and a perfect generator has a variance ratio above 1, correlations below 1 and an energy distance above
    0. Two figures are fair all the same. The actual u_hat is a draw from that mixture, so the ranks of a perfect
    generator are uniform. And the expected energy distance is twice the energy score (a proper score; Gneiting and
    Raftery 2007) up to a constant that the true samples alone fix: a perfect generator has the smallest one.

    Args:
        predictor: a trained MUST, or a system with the same parts "specific" and "draws".
        training: rows whose u_hat give the principal directions and two reference fill-ins: "training rows" (u_hat of
            rows drawn at random: the marginal distribution) and "gaussian" (with the mean and covariance of the same).
        patients: held-out rows. Those that have every modality take part, with ``modality`` taken away.
        make_redraw: for k = 1, 2, ... a cohort that holds the patients with the modality of stream k, for example
            ``lambda k: simulate_cohort(1000, seed=1, redraw={"genomics": k})``.
        modality: the one taken away.
        draws, redraws: generated and true samples per patient.
        directions: principal directions kept.
        seed: of all draws; those of a patient depend on (seed, row id) only.
        steps, solver: of the sampler.

    Raises:
        DataError: a modality that the model never saw, no rows that have every modality, or a redraw that lacks a
            patient.
        ValueError: fewer than two draws or redraws, or no direction.
    """
    for name, value, least in (("draws", draws, 2), ("redraws", redraws, 2), ("directions", directions, 1)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if modality not in predictor.modalities:
        raise DataError(f"the model never saw modality {modality!r}; it was trained on {listed(predictor.modalities)}")
    column = predictor.modalities.index(modality)
    patients = patients.where(has=predictor.modalities)
    space = _Space.fit(_specific(predictor, training.where(has=[modality]), column), directions)
    actual = space.scores(_specific(predictor, patients, column))
    anew = (_rows_of(make_redraw(number), patients) for number in range(1, redraws + 1))
    true = np.stack([space.scores(_specific(predictor, cohort, column)) for cohort in anew], axis=1)
    drawn = []
    for encoded in predictor.encode(patients.without(modality), batch_size=64).batches:
        with torch.inference_mode():
            whole = predictor.system.complete(encoded, seed=seed, draws=draws, steps=steps, solver=solver)
        drawn.append(whole.parts["draws"][:, :, column].cpu())
    generated = space.scores(torch.cat(drawn).double().numpy())

    keys, kept = row_keys(patients.row_ids), generated.shape[2]
    # A rank stands for an interval of width 1 / (draws + 1); the place in it is drawn.
    within = row_uniform(stream_seed(seed, "rank", modality), keys, kept + 1).numpy().astype(np.float64)
    lines = []
    for name in (*range(kept), "all"):
        part = slice(None) if name == "all" else slice(name, name + 1)
        found = (
            agree.central_ranks(actual, generated)
            if name == "all"
            else agree.ranks(actual[:, name], generated[:, :, name])
        )
        distance, p_value = agree.uniformity((found + within[:, len(lines)]) / (draws + 1))
        lines.append(
            {
                "direction": name if name == "all" else str(name + 1),
                "variance_share": space.shares[part].sum(),
                "correlation": agree.correlation(generated.mean(axis=1)[:, part], true.mean(axis=1)[:, part]),
                "variance_ratio": agree.variance_ratio(generated[:, :, part], true[:, :, part]),
                "rank_distance": distance,
                "rank_p": p_value,
            }
        )
    rows = row_uniform(stream_seed(seed, "training rows", modality), keys, draws).numpy()
    normal = row_normal(stream_seed(seed, "gaussian", modality), keys, draws, kept).numpy()
    fill_ins = {
        "generated": generated,
        "training rows": space.training[(rows * len(space.training)).astype(np.int64)],
        # The scores are centred and uncorrelated on the training rows.
        "gaussian": space.training.std(axis=0) * normal,
    }
    energy = []
    for name, samples in fill_ins.items():
        values = agree.energy_distances(samples, true)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        energy.append({"fill_in": name, "energy_distance": values.mean(), "standard_error": error})
    return ConditionalAgreement(pd.DataFrame(lines), pd.DataFrame(energy))


@dataclass(frozen=True)
class _Space:
    """Leading principal directions of the training rows' u_hat; scores share one scale.

    Attributes:
        centre, axes, scale: a score is (u_hat - centre) axes / scale.
        shares: of the variance, per direction.
        training: scores of the training rows.
    """

    centre: np.ndarray
    axes: np.ndarray
    scale: float
    shares: np.ndarray
    training: np.ndarray

    @classmethod
    def fit(cls, specific: np.ndarray, directions: int) -> _Space:
        centre = specific.mean(axis=0)
        _, values, axes = np.linalg.svd(specific - centre, full_matrices=False)
        variance = values**2 / len(specific)
        axes, scale = axes[:directions].T, float(np.sqrt(variance[:directions].sum()))
        shares = variance[:directions] / variance.sum()
        return cls(centre, axes, scale, shares, (specific - centre) @ axes / scale)

    def scores(self, specific: np.ndarray) -> np.ndarray:
        return (specific - self.centre) @ self.axes / self.scale


def _specific(predictor: Predictor, cohort: Cohort, column: int) -> np.ndarray:
    """u_hat of one modality, float64 [N, D]."""
    parts = [encoded.parts["specific"][:, column].cpu() for encoded in predictor.encode(cohort).batches]
    return torch.cat(parts).double().numpy()


def _true_shared(cohort: Cohort) -> np.ndarray:
    if cohort.truth is None or "shared" not in cohort.truth:
        raise DataError(f"{cohort.name!r} does not know its shared factors; expected a simulated cohort")
    return cohort.truth["shared"]


def _rows_of(redrawn: Cohort, patients: Cohort) -> Cohort:
    """The patients in their own order, as a redraw holds them."""
    position = {row: number for number, row in enumerate(redrawn.row_ids)}
    absent = [row for row in patients.row_ids if row not in position]
    if absent:
        raise DataError(f"make_redraw gave a cohort without patient {listed(absent)}")
    return redrawn.select([position[row] for row in patients.row_ids])


def _canonical_correlations(
    training: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], components: int, ridge: float
) -> np.ndarray:
    """Test correlations [F] of the canonical pairs that the training rows give for parts [N, D] and factors [N, F]."""
    (parts, factors), count = training, len(training[0])
    centre, middle = parts.mean(axis=0), factors.mean(axis=0)
    _, values, axes = np.linalg.svd(parts - centre, full_matrices=False)
    kept = min(components, len(values))
    variance = values[:kept] ** 2 / count
    whiten = axes[:kept].T / np.sqrt(variance + ridge * variance.mean() + np.finfo(float).tiny)
    spread, turn = np.linalg.eigh((factors - middle).T @ (factors - middle) / count)
    unmix = turn / np.sqrt(spread)
    first, _, second = np.linalg.svd(((parts - centre) @ whiten).T @ (factors - middle) @ unmix, full_matrices=False)
    ours, theirs = (test[0] - centre) @ whiten @ first, (test[1] - middle) @ unmix @ second.T
    return np.array([agree.correlation(ours[:, [pair]], theirs[:, [pair]]) for pair in range(len(second))])
