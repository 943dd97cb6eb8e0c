"""The baseline hazard of a Cox model inside a system: from log-hazards to the hazards of its time bins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from survcore.batch import Target
from survcore.ops import cox_baseline_hazard

_TARGET = ("time", "event", "time_bin", "entry")


class CoxBaseline(nn.Module):
    """Baseline hazard summed over each time bin, of all rows together and of each stratum.

    A bin's hazard is then that of Breslow's estimator, so survival at the ends of the bins is exactly what
    :func:`survcore.baseline_hazard` gives; inside a bin the hazard is taken as constant, as for discrete hazards.

    Args:
        bins: K.
        strata: S; 0 without.
    """

    def __init__(self, bins: int, strata: int = 0) -> None:
        super().__init__()
        # Line 0 is of all rows together, for patients of a stratum that nobody knows. NaN: not fitted.
        self.register_buffer("log_hazard", torch.full((1 + strata, bins), torch.nan, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether the hazards are known."""
        return not bool(self.log_hazard.isnan().all())

    @torch.no_grad()
    def fit(
        self,
        log_hazard: Tensor,
        target: Target,
        *,
        strata: Tensor | None = None,
        weights: Tensor | None = None,
        ties: str = "efron",
    ) -> None:
        """Estimate from log-hazards [n] of the training rows and their outcomes.

        Args:
            log_hazard: [n].
            target: their outcomes; entry times count.
            strata: int64 [n], -1 for rows of no stratum; or None.
            weights: case weights [n], or None.
            ties: "efron" or "breslow".
        """
        # Of events in thousands there are few steps: nothing is gained on another device.
        log_hazard = log_hazard.double().cpu()
        target = Target(*(None if part is None else part.cpu() for part in (getattr(target, n) for n in _TARGET)))
        weights = None if weights is None else weights.double().cpu()
        self.log_hazard[0] = self._of_rows(slice(None), log_hazard, target, weights, ties)
        for stratum in range(len(self.log_hazard) - 1):
            rows = (strata.cpu() == stratum).nonzero().squeeze(1)
            # Of a stratum without events nothing is known.
            if (target.event[rows] > 0).any():
                self.log_hazard[1 + stratum] = self._of_rows(rows, log_hazard, target, weights, ties)

    def hazard_logits(self, log_hazard: Tensor, strata: Tensor | None = None) -> Tensor:
        """Logits [n, K] float64 of the discrete hazards 1 - exp(-H_k exp(log_hazard)); -inf where a bin has no event.

        Args:
            log_hazard: [n].
            strata: int64 [n]; rows of a stratum that has no baseline get that of all rows, as do all without strata.
        """
        lines = torch.zeros(len(log_hazard), dtype=torch.int64, device=log_hazard.device)
        if strata is not None:
            known = ~self.log_hazard.isnan().any(1)
            lines = (strata.to(lines.device) + 1).clamp(min=0)
            lines = torch.where(known[lines], lines, 0)
        log_cumulative = self.log_hazard[lines] + log_hazard.double().unsqueeze(1)
        # logit(1 - exp(-a)) = log(exp(a) - 1), which is a where a is large and log a where it is small.
        cumulative = log_cumulative.exp()
        exact = cumulative.clamp(max=30).expm1().log()
        return torch.where(cumulative > 30, cumulative, torch.where(log_cumulative < -30, log_cumulative, exact))

    def _of_rows(
        self, rows: Tensor | slice, log_hazard: Tensor, target: Target, weights: Tensor | None, ties: str
    ) -> Tensor:
        """Log of the hazard summed over each bin [K]; -inf where a bin has no event."""
        entry = None if target.entry is None else target.entry[rows].double()
        event = target.event[rows] > 0
        bins = self.log_hazard.shape[1]
        if not event.any():
            return torch.full((bins,), -torch.inf, dtype=torch.float64)
        steps = cox_baseline_hazard(
            log_hazard[rows],
            target.time[rows].double(),
            event,
            entry=entry,
            weights=None if weights is None else weights[rows],
            ties=ties,
        )
        time_bin = target.time_bin[rows][steps.row]
        return torch.stack([steps.log_step[time_bin == k].logsumexp(0) for k in range(bins)]).to(torch.float64)
