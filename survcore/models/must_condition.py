"""The shared part as the denoisers of MUST are shown it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PRIOR_ROWS = 10


class SharedCondition(nn.Module):
    """Standardises shared parts, per dimension, by statistics of training rows.

    Shared parts hardly vary around their mean: on TCGA-LUAD its squared norm is 10,000 times their variance, and the
    part recovered from one modality lies several standard deviations from that of another. A denoiser that is given
    them as they are finds nothing in its condition. So each modality's recovered part is standardised by itself, and
    the condition is the mean over the modalities at hand. Before :meth:`fit` parts pass unchanged.

    Args:
        modalities: M.
        width: D.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.register_buffer("shared_mean", torch.zeros(width))
        self.register_buffer("shared_deviation", torch.ones(width))
        self.register_buffer("recovered_mean", torch.zeros(modalities, width))
        self.register_buffer("recovered_deviation", torch.ones(modalities, width))

    @torch.no_grad()
    def fit(self, shared: Tensor, recovered: Tensor, availability: Tensor) -> None:
        """Store mean and standard deviation of training rows.

        Args:
            shared: [n, D].
            recovered: [n, M, D], read where ``availability`` bool [n, M] is True.
        """
        mean, deviation = _statistics(shared)
        self.shared_mean.copy_(mean)
        self.shared_deviation.copy_(deviation)
        for index in range(availability.shape[1]):
            rows = recovered[availability[:, index], index]
            if len(rows):
                self.recovered_mean[index], self.recovered_deviation[index] = _statistics(rows)

    def of_shared(self, shared: Tensor) -> Tensor:
        """[B, D] from shared parts [B, D]."""
        return (shared - self.shared_mean) / self.shared_deviation

    def of_recovered(self, recovered: Tensor, given: Tensor) -> Tensor:
        """[B, D]: mean of the standardised recovered parts [B, M, D] where ``given`` [B, M]; 0 where none is."""
        standard = (recovered - self.recovered_mean) / self.recovered_deviation
        total = torch.where(given.unsqueeze(-1), standard, 0.0).sum(1)
        return total / given.sum(1, keepdim=True).clamp(min=1)


def _statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per dimension [D] of rows [n, D].

    Variances are drawn towards their mean over the dimensions as though it had been seen in ``_PRIOR_ROWS`` more rows:
    of two or three rows some dimensions hardly differ by chance, and would blow up every later row.
    """
    wide = rows.double()
    mean, variance = wide.mean(0), wide.var(0, correction=0)
    variance = (len(rows) * variance + _PRIOR_ROWS * variance.mean()) / (len(rows) + _PRIOR_ROWS)
    # Parts that never vary are left unscaled rather than divided by nothing.
    return mean, torch.where(variance > 1e-12, variance, 1.0).sqrt()
