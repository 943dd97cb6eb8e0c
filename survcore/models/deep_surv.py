"""The survival head of Surv-M2AC, a two-layer perceptron as DeepSurv has it."""

from __future__ import annotations

from torch import Tensor, nn


class _BatchNorm(nn.BatchNorm1d):
    """A batch of one row, which has no spread, is normalised with the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and len(rows) == 1:
            self.eval()
            try:
                return super().forward(rows)
            finally:
                self.train()
        return super().forward(rows)


def deep_surv_head(inputs: int, hidden: tuple[int, ...], outputs: int, dropout: float) -> nn.Sequential:
    """[B, inputs] -> [B, outputs]: Linear, ReLU, batch normalisation and dropout for each of ``hidden``, then Linear.

    The order is that of Surv-M2AC's released code; DeepSurv itself (Katzman et al. 2018) searches over such choices.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), _BatchNorm(width), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
