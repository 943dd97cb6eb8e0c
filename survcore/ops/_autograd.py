"""One helper that makes an op differentiable in each of torch's ways, from the same two functions.

Eager mode runs a :class:`torch.autograd.Function`, which costs half as much per call as a formula registered with
``torch.library``. Under ``torch.compile`` and ``torch.export`` the registered formula is used, which they can trace,
and under the transforms of ``torch.func`` a Function of the newer style, which they require and which is the slowest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

SetupContext = Callable[[Any, tuple[Any, ...], Any], None]
Backward = Callable[..., Any]


class Gradient(NamedTuple):
    """How an op is differentiated.

    Attributes:
        setup_context: ``(ctx, inputs, output)``, saves what backward needs.
        backward: ``(ctx, *grads)``, returns one gradient (or None) per input of the op.
    """

    setup_context: SetupContext
    backward: Backward


def differentiable(
    name: str, *, setup_context: SetupContext, backward: Backward, eager: Gradient | None = None
) -> Callable[..., Any]:
    """Give ``torch.ops.survcore.<name>`` its gradient and return the function to call instead of the op.

    The function has a first derivative in reverse mode: ``torch.func.grad``, ``vjp`` and ``jacrev`` work, and ``vmap``
    at the speed of a loop. A second or a forward-mode derivative is an error.

    Args:
        name: the op's name.
        setup_context, backward: as in :class:`Gradient`. backward calls the op's own backward op and so can be
            differentiated once only.
        eager: the same for eager mode, where it may look at values and hand on what forward has made.
    """
    op = getattr(torch.ops.survcore, name).default
    torch.library.register_autograd(f"survcore::{name}", backward, setup_context=setup_context)
    eager = eager or Gradient(setup_context, backward)
    error = _FirstDerivativeOnly(name)

    def kernel(*inputs: Any) -> Any:
        # Past the registered formula, which stands on the autograd key and takes as long as a small kernel.
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    def remember_differentiated(ctx: Any, inputs: tuple[Any, ...]) -> None:
        ctx.differentiated = [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]

    # forward and setup_context in one: given apart, as is newer style, they double the cost of a call.
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = kernel(*inputs)
        eager.setup_context(ctx, inputs, output)
        remember_differentiated(ctx, inputs)
        return output

    def eager_backward(ctx: Any, *grads: Any) -> Any:
        # With create_graph alone gradients are recorded; to ask that each time is cheaper than once_differentiable.
        if not torch.is_grad_enabled():
            return eager.backward(ctx, *grads)
        with torch.no_grad():
            gradients = eager.backward(ctx, *grads)
        return error.attached(gradients, *ctx.differentiated, *grads)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(eager_backward)}
    function = type(f"{name}_function", (torch.autograd.Function,), methods)
    # Past what the Python method does for torch.func, which has a function of its own here.
    apply = super(torch.autograd.Function, function).apply

    def transformed_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs, output)
        remember_differentiated(ctx, inputs)

    def transformed_backward(ctx: Any, *grads: Any) -> Any:
        return error.attached(backward(ctx, *grads), *ctx.differentiated, *grads)

    methods = {
        "forward": staticmethod(kernel),
        "setup_context": staticmethod(transformed_setup_context),
        "backward": staticmethod(transformed_backward),
        "generate_vmap_rule": True,
    }
    transformed_function = type(f"{name}_transformed_function", (torch.autograd.Function,), methods)

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*inputs)
        if torch._C._are_functorch_transforms_active():
            return transformed_function.apply(*inputs)
        if torch.is_grad_enabled() or forward_ad._current_level >= 0:  # the Function refuses forward mode
            return apply(*inputs)
        return kernel(*inputs)

    return call


class _FirstDerivativeOnly:
    """Gradients as they are, with an error as their own derivative."""

    def __init__(self, name: str) -> None:
        def backward(ctx: Any, *grads: Any) -> Any:
            raise RuntimeError(
                f"survcore::{name} has a first derivative only: its gradient cannot be differentiated again"
            )

        methods = {
            "forward": staticmethod(lambda gradient, *_: gradient.view_as(gradient)),
            "setup_context": staticmethod(lambda ctx, inputs, output: None),
            "backward": staticmethod(backward),
            "generate_vmap_rule": True,
        }
        self._function = type(f"{name}_first_derivative_only", (torch.autograd.Function,), methods)

    def attached(self, gradients: Any, *sources: Any) -> Any:
        """The gradients, connected to everything that they were made from."""
        tensors = [source for source in sources if isinstance(source, Tensor)]
        return tuple(
            self._function.apply(gradient, *tensors) if isinstance(gradient, Tensor) else gradient
            for gradient in gradients
        )
