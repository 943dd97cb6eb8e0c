"""Two sets of samples per patient: do they agree in mean, spread, calibration and as distributions?

n patients, P dimensions, all arrays float64; the numbers of samples of the two sets may differ.
"""

from __future__ import annotations

import numpy as np


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's correlation over patients of [n, P] and [n, P]: of all centred columns together, so large ones weigh.

    NaN where one of them never varies.
    """
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / scale) if scale > 0 else float("nan")


def variance_ratio(generated: np.ndarray, true: np.ndarray) -> float:
    """Variance within a patient, mean over patients and summed over dimensions: of [n, G, P] over that of [n, T, P]."""
    spread = [samples.var(axis=1, ddof=1).mean(axis=0).sum() for samples in (generated, true)]
    return float(spread[0] / spread[1])


def ranks(actual: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """How many of a patient's samples [n, G] lie below the actual value [n]: int64 [n], 0 to G."""
    return (generated < actual[:, None]).sum(axis=1)


def central_ranks(actual: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """How many of a patient's samples [n, G, P] are more central than the actual one [n, P]: int64 [n], 0 to G.

    More central: nearer, in the mean distance, to all the others, samples and actual one together. Where the actual one
    is drawn as the samples are, every rank is equally likely.
    """
    found = []
    for one, samples in zip(actual, generated, strict=True):
        together = np.concatenate((one[None], samples))
        distance = _distances(together, together).sum(axis=1)
        found.append((distance[1:] < distance[0]).sum())
    return np.array(found, dtype=np.int64)


def uniformity(position: np.ndarray) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of positions [n] in (0, 1) from uniform, and its p-value.

    The p-value is the series of the limit distribution with Stephens' correction for finite n (1970).
    """
    count = len(position)
    ordered, steps = np.sort(position), np.arange(count + 1) / count
    distance = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    scaled = (np.sqrt(count) + 0.12 + 0.11 / np.sqrt(count)) * distance
    # Below, the alternating series does not converge in a hundred terms; the p-value is 1 to twelve digits.
    if scaled < 0.2:
        return float(distance), 1.0
    terms = np.arange(1, 101)
    p_value = 2 * ((-1.0) ** (terms - 1) * np.exp(-2 * (terms * scaled) ** 2)).sum()
    return float(distance), float(np.clip(p_value, 0, 1))


def energy_distances(generated: np.ndarray, true: np.ndarray) -> np.ndarray:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of each patient's samples [n, G, P] and [n, T, P]: float64 [n].

    Unbiased whatever the numbers of samples, so a patient's value may lie a little below 0.
    """
    across = [_distances(ours, theirs).mean() for ours, theirs in zip(generated, true, strict=True)]
    return 2 * np.array(across) - _mean_distances(generated) - _mean_distances(true)


def _mean_distances(samples: np.ndarray) -> np.ndarray:
    """Mean over pairs of different samples of [n, G, P]: [n]."""
    pairs = samples.shape[1] * (samples.shape[1] - 1)
    return np.array([_distances(own, own).sum() / pairs for own in samples])


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Euclidean distances [G, T] of [G, P] and [T, P]."""
    return np.sqrt(((left[:, None] - right[None]) ** 2).sum(axis=-1))
