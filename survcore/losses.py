"""nn.Module faces of the compiled losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from survcore.ops import (
    RiskSets,
    cox_ph_loss,
    deephit_loss,
    discrete_hazard_nll,
    info_nce,
    masked_bce_with_logits,
    masked_mse,
)
from survcore.ops._cox_arguments import check_options
from survcore.ops._masks import check_positions
from survcore.ops.deephit_loss import check_options as check_deephit_options
from survcore.ops.discrete_hazard_nll import check_options as check_hazard_options
from survcore.ops.info_nce import check_options as check_info_nce_options
from survcore.ops.masked_bce_with_logits import check_options as check_masked_options


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


class DeepHitLoss(nn.Module):
    """DeepHit's likelihood and ranking of event times by cause; options as in :func:`survcore.ops.deephit_loss`."""

    def __init__(self, alpha: float = 0.2, sigma: float = 0.1) -> None:
        super().__init__()
        check_deephit_options(alpha, sigma)
        self.options = {"alpha": alpha, "sigma": sigma}

    def forward(self, logits: Tensor, time_bin: Tensor, event: Tensor, weights: Tensor | None = None) -> Tensor:
        """Loss of logits [B, K] or [B, R, K] with the bin and the cause, 0 if censored, of each row [B]."""
        return deephit_loss(logits, time_bin, event, weights=weights, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class DiscreteHazardNLL(nn.Module):
    """Negative log-likelihood of discrete-time hazards; options as in :func:`survcore.ops.discrete_hazard_nll`."""

    def __init__(
        self, *, censored: str = "end", form: str = "likelihood", alpha: float = 0.0, reduction: str = "mean"
    ) -> None:
        super().__init__()
        check_hazard_options(censored, form, alpha, reduction)
        self.options = {"censored": censored, "form": form, "alpha": alpha, "reduction": reduction}

    def forward(self, logits: Tensor, time_bin: Tensor, event: Tensor, weights: Tensor | None = None) -> Tensor:
        """Loss of hazard logits [B, K] with the bin and the event indicator of each row [B]."""
        return discrete_hazard_nll(logits, time_bin, event, weights=weights, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class InfoNCE(nn.Module):
    """Contrastive loss of paired rows; options as in :func:`survcore.ops.info_nce`.

    A temperature that is an nn.Parameter is learned with the module.
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor,
        form: str = "cross_modal",
        normalize: bool = True,
        group_name: str = "",
    ) -> None:
        super().__init__()
        check_info_nce_options(temperature, form)
        self.temperature = temperature
        self.options = {"form": form, "normalize": normalize, "group_name": group_name}

    def forward(self, query: Tensor, key: Tensor, row_mask: Tensor | None = None) -> Tensor:
        """Loss of rows [B, D] with their partners, or [G] losses of [G, B, D]; row_mask [B] or [G, B]."""
        return info_nce(query, key, temperature=self.temperature, row_mask=row_mask, **self.options)

    def extra_repr(self) -> str:
        options = {"temperature": self.temperature} if isinstance(self.temperature, float | int) else {}
        return ", ".join(f"{name}={value!r}" for name, value in (options | self.options).items())


class MaskedBCEWithLogits(nn.Module):
    """Reconstruction loss of masked binary entries; options as in :func:`survcore.ops.masked_bce_with_logits`.

    ``pos_weight`` is a buffer, which moves with the module. The default reduction is the mean over views, summed over
    modalities, as Surv-M2AC has it.
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        *,
        sizes: Sequence[int] | None = None,
        pos_weight: Tensor | float | None = None,
        positions: str = "masked",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_masked_options(positions, reduction)
        self.register_buffer("pos_weight", None if pos_weight is None else torch.as_tensor(pos_weight))
        self.options = {"sizes": sizes, "positions": positions, "reduction": reduction}

    def forward(
        self, logits: Tensor, target: Tensor, mask: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """Loss of logits [V, B, D] or [B, D] with targets [B, D], masks of what was hidden and of what there is."""
        return masked_bce_with_logits(
            logits, target, mask, observed=observed, pos_weight=self.pos_weight, **self.options
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class MaskedMSE(nn.Module):
    """Reconstruction loss of masked patches; options as in :func:`survcore.ops.masked_mse`."""

    def __init__(self, *, positions: str = "masked") -> None:
        super().__init__()
        check_positions(positions)
        self.options = {"positions": positions}

    def forward(
        self, prediction: Tensor, target: Tensor, mask: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """Loss of patches [B, P, L] with masks [B, P] of what was hidden and of what there is."""
        return masked_mse(prediction, target, mask, observed=observed, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
