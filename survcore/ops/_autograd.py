"""One helper that makes an op differentiable in each of torch's ways, from the same two functions.

Eager mode runs a :class:`torch.autograd.Function`, which costs half as much per call as a formula registered with
``torch.library``. Under ``torch.compile`` and ``torch.export`` the registered formula is used, which they can trace,
and under the transforms of ``torch.func`` a Function of the newer style, which they require and which is the slowest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SetupContext = Callable[[Any, tuple[Any, ...], Any], None]
Backward = Callable[..., Any]


def differentiable(name: str, *, setup_context: SetupContext, backward: Backward) -> Callable[..., Any]:
    """Give ``torch.ops.survcore.<name>`` its gradient and return the function to call instead of the op.

    The function has a first derivative in reverse mode: ``torch.func.grad``, ``vjp`` and ``jacrev`` work, and ``vmap``
    at the speed of a loop. A second or a forward-mode derivative is an error.

    Args:
        name: the op's name.
        setup_context: ``(ctx, inputs, output)``, saves what backward needs.
        backward: ``(ctx, *grads)``, returns one gradient (or None) per input of the op. It calls the op's own backward
            op and so can be differentiated once only.
    """
    op = getattr(torch.ops.survcore, name).default
    torch.library.register_autograd(f"survcore::{name}", backward, setup_context=setup_context)

    def kernel(*inputs: Any) -> Any:
        # Past the registered formula, which stands on the autograd key and takes as long as a small kernel.
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    # forward and setup_context in one: given apart, as is newer style, they double the cost of a call.
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = kernel(*inputs)
        setup_context(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(once_differentiable(backward))}
    function = type(f"{name}_function", (torch.autograd.Function,), methods)

    def backward_once(ctx: Any, *grads: Any) -> Any:
        return tuple(
            _DifferentiatedOnce.apply(gradient) if isinstance(gradient, Tensor) else gradient
            for gradient in backward(ctx, *grads)
        )

    methods = {
        "forward": staticmethod(kernel),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward_once),
        "generate_vmap_rule": True,
    }
    transformed_function = type(f"{name}_transformed_function", (torch.autograd.Function,), methods)

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*inputs)
        if torch._C._are_functorch_transforms_active():
            return transformed_function.apply(*inputs)
        return function.apply(*inputs) if torch.is_grad_enabled() else kernel(*inputs)

    return call


class _DifferentiatedOnce(torch.autograd.Function):
    """A gradient as it is, with an error as its own derivative: ``once_differentiable`` for ``torch.func``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("survcore's ops can be differentiated once only, as with once_differentiable")
