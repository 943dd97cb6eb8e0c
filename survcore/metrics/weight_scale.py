"""Weights as multiples of a power of two: sums and products of them stay in range and lose no digit."""

from __future__ import annotations

import math

import numpy as np


def scaled_weights(weights: np.ndarray, magnitude: int) -> tuple[np.ndarray, int]:
    """Weights [n] over 2^exponent, and the exponent, even, that puts the largest near 2^magnitude.

    Weights of 0 stay; others become 0 where they are less than 2^-(1074 + magnitude) of the largest.
    """
    largest = weights.max(initial=0.0)
    exponent = math.frexp(largest)[1] - magnitude if largest > 0 else 0
    exponent -= exponent % 2
    return np.ldexp(weights, -exponent), exponent
