"""nn.Module faces of the compiled losses."""

from __future__ import annotations

from torch import Tensor, nn

from survcore.ops import discrete_hazard_nll


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
