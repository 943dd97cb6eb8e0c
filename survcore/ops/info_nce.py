"""Contrastive losses of paired rows: InfoNCE between two modalities or views, and NT-Xent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._autograd import differentiable
from survcore.ops._info_nce_group import info_nce_of_group
from survcore.reference import info_nce as _reference


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor,
    form: str = "cross_modal",
    row_mask: Tensor | None = None,
    normalize: bool = True,
    group_name: str = "",
    validate: bool = False,
) -> Tensor:
    """Contrastive loss that tells row i of ``key`` from all other rows as the partner of row i of ``query``.

    With z the rows of query and key, scaled to length 1, and logits ``s_ij = z_i.z_j / temperature``, every row has the
    cross-entropy ``log sum_j exp(s_ij) - s_i(partner)``; the loss is its mean over both sides of all pairs.

    "cross_modal" compares a row with those of the other side: half the row-wise plus half the column-wise cross-entropy
    of query key^T (CLIP, Radford et al. 2021; PRIME's alignment and fusion losses). "nt_xent" compares a row with all
    others but itself, those of its own side too (SimCLR, Chen et al. 2020, eq. 1; Surv-M2AC): 2 B rows, 2 B - 2
    negatives each.

    No B x B matrix is formed: memory grows as B, and B 16,384 takes as little of it as the gradients. A pair without
    negatives (one valid row) and a group without valid rows have the loss 0 with gradient 0. Of [G] losses, those of
    empty groups are to be left out of a mean: ``losses.sum() / row_mask.any(-1).sum().clamp(min=1)``.

    Args:
        query, key: [B, D], or [G, B, D] for G problems at once (pairs of modalities); float32 or float64; float16 and
            bfloat16 are computed in float32. NaN in a valid row makes its group's loss NaN.
        temperature: above 0, or a tensor with one number (a parameter: CLIP's ``logit_scale`` is
            ``temperature=(-logit_scale).exp()``), which has a gradient. As small as you like: sums have running shifts.
        form: "cross_modal" or "nt_xent".
        row_mask: bool [B] or [G, B], rows that own both modalities; the others are never read, are no negatives of
            anyone, and have gradient 0. None means all.
        normalize: scale rows to length 1 (rows shorter than 1e-12 are divided by 1e-12).
        group_name: name of a process group (``group.group_name``) whose ranks hold parts of one batch; every rank calls
            with tensors of the same shape, row_mask given on all or none. The loss is that of the whole batch, ranks
            one after the other, the same on every rank. Each rank gets the gradient of that loss with respect to its
            own rows, and a part of the temperature's: over the ranks, gradients of shared parameters add up to those of
            one process with the whole batch (DistributedDataParallel averages them: multiply the loss by the number of
            ranks). Work is divided among the ranks. In eager mode.
        validate: check the values first (synchronises with the device) and raise an error that names the row.

    Returns:
        The loss, a scalar or [G]; float32 for half-precision inputs, else the type of the inputs. It has a first
        derivative with respect to query, key and temperature, also under ``torch.func``.

    Raises:
        ValueError: shapes, devices or options are wrong, or temperature <= 0; with ``validate``, also a NaN or infinite
            entry in a valid row, or a temperature tensor that is not positive.
        TypeError: query and key are not of one floating dtype, row_mask is not bool.
    """
    check_options(temperature, form)
    _check(query, key, row_mask)
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point() or temperature.device != query.device:
            raise ValueError(
                f"temperature must be one floating number on {query.device}, got shape {tuple(temperature.shape)}, "
                f"{temperature.dtype} on {temperature.device}"
            )
        temperature = temperature.reshape(1)
    else:
        temperature = torch.full((1,), temperature, dtype=torch.float64, device=query.device)
    if row_mask is None:
        row_mask = query.new_empty(0, dtype=torch.bool)  # new for each call: it may belong to a mode
    if validate:
        _check_values(query, key, row_mask, temperature)
    if group_name:
        return info_nce_of_group(query, key, row_mask, temperature, form, normalize, group_name)
    return _apply(query, key, row_mask, temperature, form, normalize, 0, 1)[0]


def check_options(temperature: float | Tensor, form: str) -> None:
    """Raise ValueError unless the options of :func:`info_nce` are possible; a tensor's value is not looked at."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if form not in ("cross_modal", "nt_xent"):
        raise ValueError(f"form must be 'cross_modal' or 'nt_xent', got {form!r}")


def _check(query: Tensor, key: Tensor, row_mask: Tensor | None) -> None:
    shape = query.shape
    if len(shape) not in (2, 3) or shape[-1] == 0:
        raise ValueError(f"query must be [B, D] or [G, B, D] with D >= 1, got shape {tuple(shape)}")
    if key.shape != shape:
        raise ValueError(f"key must have the shape of query, {tuple(shape)}, got {tuple(key.shape)}")
    if not query.is_floating_point() or key.dtype != query.dtype:
        raise TypeError(f"query and key must be of one floating dtype, got {query.dtype} and {key.dtype}")
    if key.device != query.device:
        raise ValueError(f"key is on {key.device}, query on {query.device}: expected one device")
    if row_mask is not None:
        if row_mask.dtype != torch.bool:
            raise TypeError(f"row_mask must be bool, got {row_mask.dtype}")
        if row_mask.shape != shape[:-1] and row_mask.shape != shape[-2:-1]:
            expected = " or ".join(str([*rows]) for rows in dict.fromkeys((shape[-2:-1], shape[:-1])))
            raise ValueError(f"row_mask must have shape {expected}, got {[*row_mask.shape]}")
        if row_mask.device != query.device:
            raise ValueError(f"row_mask is on {row_mask.device}, query on {query.device}: expected one device")


def _check_values(query: Tensor, key: Tensor, row_mask: Tensor, temperature: Tensor) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature.item()}")
    for name, value in (("query", query), ("key", key)):
        wrong = ~value.isfinite().all(-1)
        if row_mask.numel():
            wrong = wrong & row_mask
        if wrong.any():
            *group, row = wrong.nonzero()[0].tolist()
            place = f"row {row}" + (f" of group {group[0]}" if group else "")
            raise ValueError(
                f"{name} must be finite in valid rows, but is not in {place} ({int(wrong.sum())} such rows)"
            )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, row_mask, temperature, *ctx.options = inputs
    ctx.save_for_backward(query, key, row_mask, temperature, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, _grad_statistics: Tensor | None) -> tuple[Any, ...]:
    if grad_loss is None:
        return (None,) * 8
    gradients = torch.ops.survcore.info_nce_backward(grad_loss, *ctx.saved_tensors, *ctx.options)
    grad_query, grad_key, grad_temperature = gradients
    return grad_query, grad_key, None, grad_temperature, None, None, None, None


@torch.library.register_fake("survcore::info_nce")
def _fake(
    query: Tensor,
    key: Tensor,
    row_mask: Tensor,
    temperature: Tensor,
    form: str,
    normalize: bool,
    rank: int,
    ranks: int,
) -> tuple[Tensor, Tensor]:
    loss = query.new_empty(query.shape[:-2], dtype=torch.promote_types(query.dtype, torch.float32))
    return loss, query.new_empty((*query.shape[:-2], 3, query.shape[-2]), dtype=torch.float64)


@torch.library.register_fake("survcore::info_nce_backward")
def _fake_backward(
    grad_loss: Tensor, query: Tensor, key: Tensor, row_mask: Tensor, temperature: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), temperature.new_empty(1)


_apply = differentiable("info_nce", setup_context=_setup_context, backward=_backward)
_library.serve_cuda_by_reference("info_nce", _reference.info_nce)
_library.serve_cuda_by_reference("info_nce_backward", _reference.info_nce_backward)
