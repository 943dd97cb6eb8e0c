"""Bags of patches of which a few, in one region of the slide, show the patient's factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from survcore.draws import row_normal, row_uniform, stream_seed
from survcore.errors import DataError

DTYPES = ("float32", "float16")
PATCH_PIXELS = 256
_TISSUES = (0.4, 0.3, 0.2, 0.1)
# Six standard deviations of the default noise: one linear threshold tells the signal patches from the others.
_MARK = 3.0


@dataclass(frozen=True)
class BagDesign:
    """What all bags of a cohort have in common; the arguments are those of :func:`simulate_cohort`.

    Attributes:
        patches: least and most patches of a bag.
        signal: share of the patches that show the factors.
        width: features per patch.
        dtype: of the features, one of :data:`DTYPES`.

    Raises:
        DataError: ``patches`` or ``dtype`` out of range. (The caller checks the share, :func:`draw_bags` the width.)
    """

    patches: tuple[int, int]
    signal: float
    width: int
    dtype: str

    def __post_init__(self) -> None:
        counts = np.asarray(self.patches)
        if counts.shape != (2,) or counts.dtype.kind != "i" or not 1 <= counts[0] <= counts[1]:
            raise DataError(f"patches: expected the least and the most, whole numbers from 1, got {self.patches!r}")
        if self.dtype not in DTYPES:
            raise DataError(f"bag_dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")


def draw_bags(
    stream: int,
    fixed: np.random.Generator,
    keys: np.ndarray,
    present: np.ndarray,
    factors: np.ndarray,
    noise: float,
    design: BagDesign,
) -> tuple[list[Mapping[str, Any] | None], np.ndarray]:
    """The bags of N patients; every draw of a patient belongs to (stream, key).

    A signal patch is factors x loadings + mark + noise, any other patch the mean of its tissue type + noise. The mark
    is orthogonal to the loadings and to the tissue types. Patches stand in scan order (row by row) on a near-square
    grid without gaps; the signal patches are those nearest to a centre patch: one region, connected edge to edge.

    Args:
        stream: seed of the patients' draws.
        fixed: draws what all patients share: loadings, tissue types and mark.
        keys: int64 [N] of the patients.
        present: bool [N]; the features of the others are not drawn.
        factors: float64 [N, F].
        noise: standard deviation per feature, where the signal of a feature has 1.
        design: of the bags.

    Returns:
        Per patient ``features`` [N_i, width] and ``coords`` int64 [N_i, 2] (x, y in pixels, patches of 256), or None
        where the modality is absent; and an object array [N] of bool arrays [N_i], the signal patches.

    Raises:
        DataError: ``design.width`` has no room for the loadings, the tissue types and the mark.
    """
    least = factors.shape[1] + len(_TISSUES) + 1
    if design.width < least:
        raise DataError(f"bag_width: expected at least {least} features per patch, got {design.width}")
    loadings = fixed.standard_normal((factors.shape[1], design.width))
    loadings /= np.linalg.norm(loadings, axis=0)
    tissues = fixed.standard_normal((len(_TISSUES), design.width))
    taken = np.linalg.qr(np.concatenate((loadings, tissues)).T)[0]
    mark = fixed.standard_normal(design.width)
    mark -= taken @ (taken.T @ mark)
    shown = factors @ loadings + _MARK * mark / np.linalg.norm(mark)

    low, high = design.patches
    layout = row_uniform(stream_seed(stream, "layout"), keys, 2).numpy().astype(np.float64)
    counts = np.rint(low * (high / low) ** layout[:, 0]).astype(int)
    signal = np.empty(len(keys), dtype=object)
    bags: list[Mapping[str, Any] | None] = []
    for row, count in enumerate(counts.tolist()):
        grid = _grid(count)
        signal[row] = _region(grid, int(layout[row, 1] * count), max(1, round(design.signal * count)))
        if not present[row]:
            bags.append(None)
            continue
        key = keys[row : row + 1]
        kind = row_uniform(stream_seed(stream, "tissue"), key, count).numpy()[0]
        background = tissues[np.searchsorted(np.cumsum(_TISSUES)[:-1], kind)]
        features = np.where(signal[row][:, None], shown[row], background)
        features = features + noise * row_normal(stream_seed(stream, "noise"), key, count, design.width).numpy()[0]
        bags.append({"features": features.astype(design.dtype), "coords": PATCH_PIXELS * grid})
    return bags, signal


def _grid(count: int) -> np.ndarray:
    """Column and row of each patch in scan order, int64 [count, 2]; only the last row may be short."""
    columns = int(np.ceil(np.sqrt(count)))
    place = np.arange(count)
    return np.stack((place % columns, place // columns), axis=1)


def _region(grid: np.ndarray, centre: int, size: int) -> np.ndarray:
    """The ``size`` patches nearest to the centre, bool [count].

    From every patch a step towards the centre stays on the grid and comes nearer, so the region is connected.
    """
    distance = ((grid - grid[centre]) ** 2).sum(axis=1)
    region = np.zeros(len(grid), dtype=bool)
    region[np.argsort(distance, kind="stable")[:size]] = True
    return region
