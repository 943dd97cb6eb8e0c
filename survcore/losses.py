"""nn.Module faces of the compiled losses."""

from __future__ import annotations

from torch import Tensor, nn

from survcore.ops import RiskSets, cox_ph_loss, discrete_hazard_nll
from survcore.ops._cox_arguments import check_options


class CoxPHLoss(nn.Module):
    """Negative log partial likelihood of proportional hazards; options as in :func:`survcore.ops.cox_ph_loss`."""

    def __init__(self, *, ties: str = "efron", reduction: str = "mean") -> None:
        super().__init__()
        check_options(ties, reduction)
        self.options = {"ties": ties, "reduction": reduction}

    def forward(
        self,
        log_hazard: Tensor,
        time: Tensor | RiskSets,
        event: Tensor | None = None,
        *,
        entry: Tensor | None = None,
        strata: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Loss of log-hazards [n] with time and event indicator of each row, or with risk sets sorted once."""
        return cox_ph_loss(log_hazard, time, event, entry=entry, strata=strata, weights=weights, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class DiscreteHazardNLL(nn.Module):
    """Negative log-likelihood of discrete-time hazards; options as in :func:`survcore.ops.discrete_hazard_nll`."""

    def __init__(
        self, *, censored: str = "end", form: str = "likelihood", alpha: float = 0.0, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.options = {"censored": censored, "form": form, "alpha": alpha, "reduction": reduction}

    def forward(self, logits: Tensor, time_bin: Tensor, event: Tensor, weights: Tensor | None = None) -> Tensor:
        """Loss of hazard logits [B, K] with the bin and the event indicator of each row [B]."""
        return discrete_hazard_nll(logits, time_bin, event, weights=weights, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
