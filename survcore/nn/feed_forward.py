"""The two-layer perceptron used for tokens and heads."""

from __future__ import annotations

from torch import nn


def feed_forward(inputs: int, hidden: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear, GELU, dropout, Linear: [..., inputs] -> [..., outputs]."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
