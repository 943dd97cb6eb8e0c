"""info_nce of a batch whose rows lie on several processes.

Every rank gathers all rows, compares a part of the pairs, and joins the sums with those of the other ranks: three
collectives of the size of the rows and one of three numbers per row, and a share of the work that falls with the number
of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid


def info_nce_of_group(
    query: Tensor, key: Tensor, row_mask: Tensor, temperature: Tensor, form: str, normalize: bool, group_name: str
) -> Tensor:
    """The loss of the rows of all ranks, as :func:`survcore.ops.info_nce` describes it for ``group_name``."""
    return _GroupedLoss.apply(query, key, row_mask, temperature, form, normalize, group_name)


class _GroupedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        row_mask: Tensor,
        temperature: Tensor,
        form: str,
        normalize: bool,
        group_name: str,
    ) -> Tensor:
        rank, ranks = _place(group_name)
        queries, keys = (_gathered_rows(value, ranks, group_name) for value in (query, key))
        mask = row_mask
        if row_mask.numel():
            # Not every backend gathers bool. A mask of all groups becomes one of each.
            mask = row_mask.expand(query.shape[:-1]).to(torch.uint8).unsqueeze(-1)
            mask = _gathered_rows(mask, ranks, group_name).squeeze(-1).bool()
        options = (form, normalize, rank, ranks)
        _, part, *_ = torch.ops.survcore.info_nce(queries, keys, mask, temperature, *options, False)
        parts = _gathered(part, ranks, group_name).unflatten(0, (ranks, -1)).unflatten(1, part.shape[:1])
        statistics = torch.logsumexp(parts, 0)
        ctx.save_for_backward(queries, keys, mask, temperature, statistics)
        ctx.options, ctx.group_name, ctx.rows = options, group_name, query.shape[-2]

        others, own = statistics[..., :2, :], statistics[..., 2:, :]
        terms = -logsigmoid(own - others)
        valid = mask if mask.numel() else terms.new_ones(queries.shape[:-1], dtype=torch.bool)
        total = torch.where(valid.unsqueeze(-2), terms, 0.0).sum((-2, -1))
        loss = total / (2 * valid.sum(-1).clamp(min=1))
        return loss.to(torch.promote_types(query.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        _, _, rank, ranks = ctx.options
        gradients = torch.ops.survcore.info_nce_backward(grad_loss, *ctx.saved_tensors, *ctx.options)
        *to_rows, grad_temperature = gradients
        grad_query, grad_key = (_own_rows(value, ctx.rows, ranks, ctx.group_name) for value in to_rows)
        return grad_query, grad_key, None, grad_temperature, None, None, None


def _place(group_name: str) -> tuple[int, int]:
    """This process's rank in the group, and the number of ranks."""
    from torch.distributed.distributed_c10d import _resolve_process_group

    group = _resolve_process_group(group_name)
    return group.rank(), group.size()


def _gathered(value: Tensor, ranks: int, group_name: str) -> Tensor:
    """[ranks * first, ...] from [first, ...], ranks one after the other."""
    collectives = torch.ops._c10d_functional
    gathered = collectives.all_gather_into_tensor(value.contiguous(), ranks, group_name)
    return collectives.wait_tensor(gathered)


def _gathered_rows(value: Tensor, ranks: int, group_name: str) -> Tensor:
    """[.., ranks * B, D] from [.., B, D]."""
    rows = value.movedim(-2, 0)
    return _gathered(rows, ranks, group_name).movedim(0, -2).contiguous()


def _own_rows(value: Tensor, rows: int, ranks: int, group_name: str) -> Tensor:
    """The sum over ranks of [.., ranks * B, D], this rank's rows of it, [.., B, D]."""
    collectives = torch.ops._c10d_functional
    first = value.movedim(-2, 0).contiguous()
    reduced = collectives.reduce_scatter_tensor(first, "sum", ranks, group_name)
    return collectives.wait_tensor(reduced).movedim(0, -2)
