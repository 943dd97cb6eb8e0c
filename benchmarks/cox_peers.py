"""Cox's loss by other packages: mean over events of what each of them computes, at most its scale changed."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from survcore.benchmarks.case import LeftOut, Provider

if TYPE_CHECKING:
    from survcore.benchmarks.cox_ph_loss import Cohort, Prepared

# Of torchsurv and coxdev, which take seconds per call above it, and coxdev's object alone 4 GB.
MOST_ROWS = 4_000_000
# Of torchsurv: entries that it goes through per call, ``torchsurv_entries``; 100 million take 1 s, in a table 1.5 GB.
MOST_ENTRIES = 100_000_000


def pycox(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None) -> Tensor:
    """Takes every row for the only one at its time."""
    from pycox.models.loss import cox_ph_loss, cox_ph_loss_sorted

    if cohort.strata is not None or cohort.entry is not None or cohort.weights is not None:
        raise LeftOut("neither strata, late entry nor weights")
    if prepared is None:
        return cox_ph_loss(log_hazard, cohort.time, cohort.event)
    if prepared.order is None:
        return cox_ph_loss_sorted(log_hazard, cohort.event)
    return cox_ph_loss_sorted(log_hazard[prepared.order], cohort.event[prepared.order])


def torchsurv(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None) -> Tensor:
    """Sorts in every call. Its own mean divides by distinct times as soon as two events share one."""
    negative_log_likelihood = _torchsurv_loss()
    if cohort.entry is not None or cohort.weights is not None:
        raise LeftOut("neither late entry nor weights")
    refuse_above_most_rows(log_hazard)
    if cohort.torchsurv_entries > MOST_ENTRIES:
        raise LeftOut(f"goes through {cohort.torchsurv_entries:,} entries, too many to wait for")
    total = negative_log_likelihood(log_hazard, cohort.event, cohort.time, reduction="sum", strata=cohort.strata)
    return total / cohort.event.sum()


def torchsurv_entries(time: Tensor, event: Tensor, strata: int) -> int:
    """Entries of its table of distinct times x most events at one time, or of its mask of all rows per stratum."""
    if strata:
        return strata * len(time)
    distinct, events = torch.unique(time, return_inverse=True)
    return len(distinct) * int(torch.bincount(events[event], minlength=1).max())


@cache
def _torchsurv_loss() -> Provider:
    from torchsurv.loss.cox import neg_partial_log_likelihood

    warnings.filterwarnings("ignore", message="Ties in `time` detected")
    return neg_partial_log_likelihood


def coxdev(log_hazard: Tensor, cohort: Cohort, prepared: Prepared | None) -> Tensor:
    """In float64, one thread; makes the diagonal of the Hessian, too."""
    refuse_above_most_rows(log_hazard)
    deviance = CoxdevDeviance(cohort) if prepared is None else prepared.deviance
    return _Coxdev.apply(log_hazard, deviance)


class CoxdevDeviance:
    """coxdev's object of a cohort, which sorts its rows when it is built: at the first call."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._object: Any = None
        self._weights: np.ndarray | None = None
        self._divisor = 1.0

    def __call__(self, log_hazard: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient."""
        if self._object is None:
            self._build()
        # It would return the last result, unasked, for log-hazards that have not changed.
        self._object._last_linear_predictor = None
        result = self._object(log_hazard, self._weights)
        # Its deviance is twice the distance from the likelihood of a saturated model.
        loss = result.deviance / 2 - result.loglik_sat
        return loss / self._divisor, result.gradient / (2 * self._divisor)

    def _build(self) -> None:
        from coxdev import CoxDeviance

        time, event, entry, strata, weights = (
            None if value is None else value.cpu().numpy() for value in self._cohort.columns()
        )
        self._object = CoxDeviance(time, event, strata=strata, start=entry, sample_weight=weights)
        self._weights = weights
        self._divisor = float(event.sum() if weights is None else weights[event].sum(dtype=np.float64))


class _Coxdev(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_hazard: Tensor, deviance: CoxdevDeviance) -> Tensor:
        loss, gradient = deviance(log_hazard.detach().cpu().numpy())
        ctx.save_for_backward(torch.from_numpy(gradient).to(log_hazard))
        return log_hazard.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:
        return grad_loss * ctx.saved_tensors[0], None


def refuse_above_most_rows(log_hazard: Tensor) -> None:
    """For providers that would take too long to wait for."""
    if len(log_hazard) > MOST_ROWS:
        raise LeftOut(f"not run above {MOST_ROWS:,} rows")


PEERS: dict[str, Provider] = {"pycox": pycox, "torchsurv": torchsurv, "coxdev": coxdev}
