"""Losses as one would write them in plain PyTorch, in place of the compiled ones that systems call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def masked_bce_with_logits(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    observed: Tensor | None = None,
    pos_weight: Tensor | None = None,
    sizes: Sequence[int] | None = None,
    positions: str = "masked",
    reduction: str = "mean",
) -> Tensor:
    """See :func:`survcore.ops.masked_bce_with_logits`; with the reduction "mean"."""
    _require(reduction == "mean", "the reduction 'mean'")
    scored = _scored(logits, mask, observed, positions)
    target = torch.where(scored > 0, target, 0.0)
    losses = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight, reduction="none")
    sizes = [logits.shape[-1]] if sizes is None else list(sizes)
    parts = zip((losses * scored).split(sizes, dim=-1), scored.split(sizes, dim=-1), strict=True)
    means = [(loss.sum((-2, -1)) / (counted.sum((-2, -1)) + 1e-8)).mean() for loss, counted in parts]
    return torch.stack(means).sum()


def masked_mse(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    observed: Tensor | None = None,
    positions: str = "masked",
) -> Tensor:
    """See :func:`survcore.ops.masked_mse`."""
    scored = _scored(prediction[..., 0], mask, observed, positions)
    errors = (prediction - torch.where(scored.unsqueeze(-1) > 0, target, 0.0)).square().mean(-1)
    return (errors * scored).sum() / (scored.sum() + 1e-8)


def info_nce(query: Tensor, key: Tensor, *, temperature: float, form: str = "nt_xent") -> Tensor:
    """See :func:`survcore.ops.info_nce`; of one group of rows in the form "nt_xent"."""
    _require(form == "nt_xent", "the form 'nt_xent'")
    rows = functional.normalize(torch.cat((query, key)), dim=-1)
    logits = rows @ rows.T / temperature
    logits = logits.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(rows), device=rows.device).roll(len(query)))


def cox_ph_loss(
    log_hazard: Tensor,
    time: Tensor,
    event: Tensor,
    *,
    entry: Tensor | None = None,
    strata: Tensor | None = None,
    weights: Tensor | None = None,
    ties: str = "efron",
) -> Tensor:
    """See :func:`survcore.ops.cox_ph_loss`; without case weights. Sums are differences of running sums in float64."""
    _require(weights is None, "no case weights")
    groups = [torch.arange(len(time))] if strata is None else [(strata == s).nonzero()[:, 0] for s in strata.unique()]
    total = log_hazard.new_zeros((), dtype=torch.float64)
    for rows in groups:
        if event[rows].any():
            late = None if entry is None else entry[rows]
            total = total + _of_stratum(log_hazard[rows].double(), time[rows], event[rows], late, ties)
    return (total / event.sum().clamp(min=1)).to(log_hazard.dtype)


def _of_stratum(log_hazard: Tensor, time: Tensor, event: Tensor, entry: Tensor | None, ties: str) -> Tensor:
    """Minus the log partial likelihood."""
    shift = log_hazard.detach().max()
    hazard = (log_hazard - shift).exp()
    times, group, deaths = time[event].unique(return_inverse=True, return_counts=True)
    at_risk = _beyond(hazard, time, times)
    if entry is not None:
        at_risk = at_risk - _beyond(hazard, entry, times)
    dying = at_risk.new_zeros(len(times)).index_add(0, group, hazard[event])
    # From here on in the order of the times, deaths of one time side by side.
    group = group.sort().values
    place = torch.arange(len(group)) - (deaths.cumsum(0) - deaths)[group]
    share = place / deaths[group] if ties == "efron" else torch.zeros(len(group))
    return ((at_risk[group] - share * dying[group]).log() + shift).sum() - log_hazard[event].sum()


def _beyond(hazard: Tensor, time: Tensor, limits: Tensor) -> Tensor:
    """Sums of the hazards of rows whose time is at least each limit."""
    order = time.argsort(descending=True)
    running = functional.pad(hazard[order].cumsum(0), (1, 0))
    return running[len(time) - torch.searchsorted(time.sort().values, limits)]


def _scored(like: Tensor, mask: Tensor | None, observed: Tensor | None, positions: str) -> Tensor:
    """1 where an entry counts, 0 elsewhere, of the shape of ``like``."""
    chosen = torch.ones_like(like)
    if positions != "all":
        chosen = chosen * (mask if positions == "masked" else ~mask)
    return chosen if observed is None else chosen * observed


def _require(served: bool, what: str) -> None:
    if not served:
        raise ValueError(f"the plain loss is there for {what} alone")
