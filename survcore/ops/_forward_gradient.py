"""Losses whose forward pass finds the gradient too, in one go, where one is wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from survcore import _library
from survcore.ops._autograd import Gradient, differentiable


def wants_gradient(*inputs: Tensor) -> bool:
    """Whether a backward pass may come. Under a transform of torch.func the inputs do not tell: then it may."""
    if not torch.is_grad_enabled():
        return False
    if any(value.requires_grad for value in inputs):
        return True
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def differentiable_with_forward_gradient(name: str, *, backward_inputs: tuple[int, ...] = ()) -> Callable[..., Any]:
    """:func:`survcore.ops._autograd.differentiable` for an op ``(Tensor input, ..., bool with_gradient) -> (Tensor
    loss, Tensor gradient)``, gradient being that of the loss (or of the sum of several) with respect to the first
    input, and its backward op ``(Tensor grad_loss, Tensor gradient, ...) -> Tensor``, whose further arguments are the
    inputs at the positions ``backward_inputs``; those and all before them are tensors.

    The gradient of a loss that nothing was done to is given away as it is, and on CUDA one times a number is multiplied
    in place where the number is not 1, which is left to the device to see. The first backward pass in eager mode takes
    what is kept with it; a second one, and one of a call without ``with_gradient``, calls the op again.
    """
    op = getattr(torch.ops.survcore, name).default
    backward_op = getattr(torch.ops.survcore, f"{name}_backward").default
    count = len(op._schema.arguments)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1], *(inputs[position] for position in backward_inputs))
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad_loss: Tensor | None, _grad_gradient: Tensor | None) -> tuple[Any, ...]:
        if grad_loss is None:
            return (None,) * count
        return (backward_op(grad_loss, *ctx.saved_tensors), *(None,) * (count - 1))

    def eager_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
        ctx.options = tuple(value for value in inputs[:-1] if not isinstance(value, Tensor))
        ctx.gradient = output[1] if inputs[-1] else None
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def eager_backward(ctx: Any, grad_loss: Tensor | None, _grad_gradient: Tensor | None) -> tuple[Any, ...]:
        if grad_loss is None:
            return (None,) * count
        saved = ctx.saved_tensors  # which raises after a backward pass that did not retain them
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            with torch._C._AutoDispatchBelowAutograd():
                _, gradient = op(*saved, *ctx.options, True)
        # A caller of the op itself may hold its second output too: then there are more than this name and the argument.
        # A view of it would not be seen, which no public function gives away.
        owned = sys.getrefcount(gradient) <= 2
        if not is_one(grad_loss) and not (owned and _library.scale_(gradient, grad_loss)):
            gradient = backward_op(grad_loss, gradient, *(saved[position] for position in backward_inputs))
        return (gradient, *(None,) * (count - 1))

    return differentiable(
        name, setup_context=setup_context, backward=backward, eager=Gradient(eager_setup_context, eager_backward)
    )


def is_one(value: Tensor) -> bool:
    """Whether a scalar is known to be 1: on other devices to look at it would wait, and vmap's are many values."""
    if not value.is_cpu:
        return False
    try:
        return value.item() == 1
    except RuntimeError:
        return False
