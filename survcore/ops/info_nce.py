"""Contrastive losses of paired rows: InfoNCE between two modalities or views, and NT-Xent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._autograd import Gradient, differentiable
from survcore.ops._forward_gradient import is_one
from survcore.ops._info_nce_group import info_nce_of_group
from survcore.reference import info_nce as _reference

# Logits that are kept for the gradient, 4 MB in float32; where there are more they are made twice.
MOST_KEPT_LOGITS = 1 << 20


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

    Memory grows as B: above a million logits (4 MB in float32) tiles of them are made and forgotten, so that B 16,384
    takes as little as the gradients; up to there they are kept for the gradients, which are made with the loss where
    they are wanted. On CUDA they are always made and forgotten, in backward 64 MB of them at a time. A pair without
    negatives (one valid row) and a group without valid rows have the loss 0 with gradient 0. Of [G] losses, those of
    empty groups are to be left out of a mean:
    ``losses.sum() / row_mask.any(-1).sum().clamp(min=1)``.

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
    with_gradient = _with_gradient(query, key, temperature, form)
    return _apply(query, key, row_mask, temperature, form, normalize, 0, 1, with_gradient)[0]


def _with_gradient(query: Tensor, key: Tensor, temperature: Tensor, form: str) -> bool:
    """Whether to make the gradients together with the losses: where they are wanted and the logits are few."""
    if not torch.is_grad_enabled() or not query.is_cpu:
        return False
    rows = query.shape[-2]
    return (
        (query.requires_grad or key.requires_grad or temperature.requires_grad)
        and rows * rows * (3 if form == "nt_xent" else 1) <= MOST_KEPT_LOGITS
        and (torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active())
    )


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


Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    query, key, row_mask, temperature, *ctx.options, ctx.made = inputs
    ctx.types = query.dtype, key.dtype, temperature.dtype
    ctx.save_for_backward(query, key, row_mask, temperature, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad_loss is None:
        return (None,) * 9
    *arguments, to_query, to_key, to_temperature = ctx.saved_tensors
    if ctx.made:
        factor = grad_loss[..., None, None]
        return _in_types_of_inputs(ctx, grad_loss, to_query * factor, to_key * factor, to_temperature)
    return _made_in_backward(ctx, grad_loss, arguments)


def _made_in_backward(ctx: Any, grad_loss: Tensor, arguments: Sequence[Tensor]) -> tuple[Any, ...]:
    gradients = torch.ops.survcore.info_nce_backward.default(grad_loss, *arguments, *ctx.options)
    grad_query, grad_key, grad_temperature = gradients
    return grad_query, grad_key, None, grad_temperature, None, None, None, None, None


def _in_types_of_inputs(
    ctx: Any, grad_loss: Tensor, grad_query: Tensor, grad_key: Tensor, to_temperature: Tensor
) -> tuple[Any, ...]:
    query_type, key_type, temperature_type = ctx.types
    grad_temperature = None
    if ctx.needs_input_grad[3]:
        grad_temperature = (grad_loss.reshape(-1) * to_temperature).sum().reshape(1).to(temperature_type)
    return grad_query.to(query_type), grad_key.to(key_type), None, grad_temperature, None, None, None, None, None


def _eager_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    query, key, row_mask, temperature, *ctx.options, made = inputs
    ctx.types = query.dtype, key.dtype, temperature.dtype
    ctx.save_for_backward(query, key, row_mask, temperature, output[1])
    ctx.with_gradient, ctx.made = made, output[2:] if made else None
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _eager_backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad_loss is None:
        return (None,) * 9
    if not ctx.with_gradient:
        return _made_in_backward(ctx, grad_loss, ctx.saved_tensors)
    made, ctx.made = ctx.made, None
    if made is None:
        with torch._C._AutoDispatchBelowAutograd():
            made = torch.ops.survcore.info_nce.default(*ctx.saved_tensors[:4], *ctx.options, True)[2:]
    to_query, to_key, to_temperature = made
    if grad_loss.dim() or not is_one(grad_loss):
        factor = grad_loss[..., None, None]
        to_query, to_key = to_query * factor, to_key * factor
    # That of a loss that nothing was done to is what forward has found: it is given away, whatever becomes of it, and
    # found again by a second backward.
    return _in_types_of_inputs(ctx, grad_loss, to_query, to_key, to_temperature)


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
    with_gradient: bool,
) -> Outputs:
    dtype = torch.promote_types(query.dtype, torch.float32)
    *groups, rows, width = query.shape
    gradient = (*groups, rows if with_gradient else 0, width)
    return (
        query.new_empty(groups, dtype=dtype),
        query.new_empty((*groups, 3, rows), dtype=torch.float64),
        query.new_empty(gradient, dtype=dtype),
        query.new_empty(gradient, dtype=dtype),
        query.new_empty((groups or [1]) if with_gradient else 0, dtype=torch.float64),
    )


@torch.library.register_fake("survcore::info_nce_backward")
def _fake_backward(
    grad_loss: Tensor, query: Tensor, key: Tensor, row_mask: Tensor, temperature: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), temperature.new_empty(1)


_apply = differentiable(
    "info_nce",
    setup_context=_setup_context,
    backward=_backward,
    eager=Gradient(_eager_setup_context, _eager_backward),
)
_library.serve_cuda("info_nce", _reference.info_nce, triton=True)
_library.serve_cuda("info_nce_backward", _reference.info_nce_backward, triton=True)
