"""Plain PyTorch definition of info_nce and of its gradient, with the op's schemas."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.functional import normalize as unit_vectors

LEAST_LENGTH = 1e-12


def info_nce(
    query: Tensor,
    key: Tensor,
    row_mask: Tensor,
    temperature: Tensor,
    form: str = "cross_modal",
    normalize: bool = True,
    rank: int = 0,
    ranks: int = 1,
    with_gradient: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Contrastive loss of query and key rows, as :func:`survcore.ops.info_nce` describes it.

    Valid queries and keys are the entries of one list z, 2 B per group, with logits s_ij = z_i.z_j / temperature. The
    loss is the mean over entries of ``log sum_j exp(s_ij) - s_i(own)`` over the entries j that i is compared with:
    those of the other side or, for "nt_xent", all but itself. It is formed as ``softplus(others - own)``, others being
    the log-sum-exp without the own logit, which keeps the relative accuracy of small losses.

    Args:
        row_mask: bool [B] or [G, B]; empty means all rows.
        temperature: one number, [1].
        rank, ranks: compare a part of the pairs only, that of one of many processes; here rank 0 does all. The
            statistics of all ranks are joined by their log-sum-exp; a loss is meaningful for ranks = 1 only.
        with_gradient: make the gradients too, for ranks = 1.

    Returns:
        Losses ([G] or a scalar, float32 for half-precision inputs; 0 for a group without valid rows), and statistics,
        float64 [G, 3, B] or [3, B]: others of the queries, others of the keys and the own logits; -inf where masked.
        Then gradients of the sum of the losses by query and key, in the type of the loss, [G, B, D] or [B, D], and of
        each loss by the temperature, float64 [G] or [1]; without with_gradient, those have no rows and this no entries.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    count = query.shape[-2]
    no_gradient = (
        *(query.new_zeros((*query.shape[:-2], 0, query.shape[-1]), dtype=dtype) for _ in range(2)),
        query.new_zeros(0, dtype=torch.float64),
    )
    if rank:
        nothing = torch.full((*query.shape[:-2], 3, count), -torch.inf, dtype=torch.float64, device=query.device)
        return query.new_zeros(query.shape[:-2], dtype=dtype), nothing, *no_gradient
    _, logits, compared, valid = _logits(query, key, row_mask, temperature, form, normalize, dtype)
    own = logits.diagonal(count, -2, -1)
    others = _log_sum_exp(torch.where(compared & ~_pairs(count, query.device), logits, -torch.inf))
    terms = torch.where(valid, -logsigmoid(torch.cat((own, own), -1) - others), 0.0)
    loss = terms.sum(-1) / valid.sum(-1).clamp(min=1)
    statistics = torch.cat((others.unflatten(-1, (2, count)), own.unsqueeze(-2)), -2).detach().double()
    statistics = torch.where(valid[..., None, :count], statistics, -torch.inf)
    if not with_gradient:
        return loss, statistics, *no_gradient
    with torch.no_grad():
        arguments = (query, key, row_mask, temperature, statistics, form, normalize)
        return loss, statistics, *_gradients(torch.ones_like(loss), *arguments)


def info_nce_backward(
    grad_loss: Tensor,
    query: Tensor,
    key: Tensor,
    row_mask: Tensor,
    temperature: Tensor,
    statistics: Tensor,
    form: str = "cross_modal",
    normalize: bool = True,
    rank: int = 0,
    ranks: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and temperature: z_j enters that of z_i with weight p_ij + p_ji - 2 [j belongs to i].

    p_ij is the softmax of entry i, from ``statistics``. What other ranks add is left out.
    """
    if rank:
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(temperature)
    arguments = (query, key, row_mask, temperature, statistics, form, normalize)
    grad_query, grad_key, grad_temperature = _gradients(grad_loss, *arguments)
    by_temperature = grad_temperature.sum().reshape(temperature.shape)
    return grad_query.to(query.dtype), grad_key.to(key.dtype), by_temperature.to(temperature.dtype)


def _gradients(
    grad_loss: Tensor,
    query: Tensor,
    key: Tensor,
    row_mask: Tensor,
    temperature: Tensor,
    statistics: Tensor,
    form: str,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """In the type of the computation; that of the temperature is float64, one per group."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    count = query.shape[-2]
    entries, logits, compared, valid = _logits(query, key, row_mask, temperature, form, normalize, dtype)
    others, own = statistics[..., :2, :], statistics[..., 2:, :]
    log_sum = torch.where(valid, torch.logaddexp(others, own).flatten(-2), 0.0)
    # In two parts, so that large logits lose nothing in float32.
    high = log_sum.to(dtype)
    low = (log_sum - high).to(dtype)
    distance = (logits - high.unsqueeze(-1)) - low.unsqueeze(-1)
    share = torch.where(_pairs(count, query.device), distance.expm1(), distance.exp())
    share = torch.where(compared & valid.unsqueeze(-1), share, 0.0)
    factor = grad_loss.to(dtype) / valid.sum(-1).clamp(min=1) / temperature.to(dtype).reshape(())
    to_entries = factor[..., None, None] * ((share + share.mT) @ entries)

    along = (entries * to_entries).sum(-1, keepdim=True)
    grad_temperature = -along.double().sum((-2, -1)).reshape(-1) / (2 * temperature.double())
    if normalize:
        length = torch.linalg.vector_norm(torch.cat((query, key), -2).to(dtype), dim=-1, keepdim=True)
        radial = torch.where(length < LEAST_LENGTH, 0.0, along)
        to_entries = (to_entries - radial * entries) / length.clamp(min=LEAST_LENGTH)
    grad_query, grad_key = torch.where(valid.unsqueeze(-1), to_entries, 0.0).tensor_split(2, -2)
    return grad_query.contiguous(), grad_key.contiguous(), grad_temperature


def _logits(
    query: Tensor,
    key: Tensor,
    row_mask: Tensor,
    temperature: Tensor,
    form: str,
    normalize: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entries [.., 2 B, D], their logits [.., 2 B, 2 B], which of these are compared, and which entries are valid.

    Masked entries are zero, so that nothing in them reaches a value or a gradient.
    """
    count = query.shape[-2]
    mask = row_mask if row_mask.numel() else torch.ones(count, dtype=torch.bool, device=query.device)
    mask = mask.expand(query.shape[:-1])
    valid = torch.cat((mask, mask), -1)
    entries = torch.where(valid.unsqueeze(-1), torch.cat((query, key), -2).to(dtype), 0.0)
    if normalize:
        entries = unit_vectors(entries, dim=-1, eps=LEAST_LENGTH)
    logits = entries @ entries.mT / temperature.to(dtype).reshape(())
    index = torch.arange(2 * count, device=query.device)
    side = index >= count
    compared = index.unsqueeze(-1) != index if form == "nt_xent" else side.unsqueeze(-1) != side
    return entries, logits, compared & valid.unsqueeze(-2), valid


def _pairs(count: int, device: torch.device) -> Tensor:
    """Whether two entries belong to each other, [2 B, 2 B]."""
    index = torch.arange(2 * count, device=device)
    return (index.unsqueeze(-1) - index).abs() == count


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Over the last dimension; -inf, with gradient 0, where nothing is summed."""
    if logits.shape[-1] == 0:
        return logits.sum(-1)
    shift = logits.detach().amax(-1, keepdim=True)
    shift = torch.where(shift.isinf(), 0.0, shift)
    total = (logits - shift).exp().sum(-1)
    found = total != 0
    return torch.where(found, torch.where(found, total, 1.0).log() + shift.squeeze(-1), -torch.inf)
