"""Negative log-likelihood of discrete-time hazards, and the survival curve and the risk that follow from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from survcore import _library
from survcore.ops._autograd import Gradient, differentiable
from survcore.ops._forward_gradient import is_one
from survcore.ops._rows import check_row_values, check_rows
from survcore.reference import discrete_hazard_nll as _reference


def discrete_hazard_nll(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    *,
    weights: Tensor | None = None,
    censored: str = "end",
    form: str = "likelihood",
    alpha: float = 0.0,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    """Negative log-likelihood of discrete-time hazards h_j = sigmoid(logits_j) over K time bins.

    A row with an event in bin k contributes ``-[log h_k + sum_{j<k} log(1 - h_j)]``, a row censored in bin k
    ``-sum_{j<=k} log(1 - h_j)``: the logistic hazard likelihood (Gensheimer and Narasimhan 2019; Kvamme and Borgan
    2019) in the convention of MCAT, PORPOISE, SurvPath and MUST. Bins after k, and rows of weight 0, are never read.
    Infinite logits give the limit of the formula, NaN gives NaN. A ``time_bin`` outside 0..K-1 or a NaN event makes
    its row NaN.

    Args:
        logits: hazard logits [B, K], float32 or float64; float16 and bfloat16 are computed in float32.
        time_bin: int64 [B], bin of the event or of censoring.
        event: [B], bool, integer or floating; 0 is censored, anything else an event.
        weights: case weights [B], at least 0; None means 1.
        censored: "end": a censored row survived its own bin; "start": only the bins before it.
        form: "likelihood", or "must_eq6": MUST's eq. 6 as printed, where an event row contributes ``-log h_k`` only.
        alpha: weight moved from censored to event rows, MCAT's ``(1 - alpha) * nll + alpha * event_part``.
        reduction: "mean" = ``sum(w l) / sum(w)`` (0 for an empty batch), "sum", or "none" = ``w l`` per row.
        validate: check the values first (synchronises with the device) and raise an error that names the row.

    Returns:
        The loss, a scalar or [B] for reduction "none"; float32 for half-precision logits, else the type of the logits.
        It has a first derivative with respect to the logits, also under ``torch.func``.

    Raises:
        ValueError: shapes, devices or options are wrong; with ``validate``, an out-of-range bin, an event other than 0
            and 1 or a NaN logit up to the own bin in a row that weighs something, or a negative weight.
        TypeError: logits are not floating, or time_bin is not int64.
    """
    _check(logits, time_bin, event, weights, censored, form, alpha, reduction)
    if weights is None:
        weights = logits.new_empty(0)  # new for each call: one kept from an earlier call may belong to another mode
    if validate:
        read = torch.arange(logits.shape[1], device=logits.device) <= time_bin.unsqueeze(1)
        check_row_values(logits, time_bin, event, weights, 1, read)
    return _apply(
        logits, time_bin, event, weights, censored, form, float(alpha), reduction, _with_gradient(logits, reduction)
    )[0]


def _with_gradient(logits: Tensor, reduction: str) -> bool:
    """Whether to make the gradient together with the loss.

    Not where it may be asked for with another factor for each row, nor where the registered formula runs, which makes
    it when it is asked for.
    """
    return (
        logits.requires_grad
        and reduction != "none"
        and logits.is_cpu
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def hazard_survival(logits: Tensor) -> Tensor:
    """Survival at the end of each bin, S(k) = prod_{j<=k} (1 - h_j): [..., K] from hazard logits [..., K]."""
    return torch.exp(logsigmoid(-logits).cumsum(-1))


def hazard_risk(logits: Tensor) -> Tensor:
    """Risk score -sum_k S(k), higher is worse: [...] from hazard logits [..., K] (MCAT, PORPOISE, MUST)."""
    return -hazard_survival(logits).sum(-1)


def _check(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor | None,
    censored: str,
    form: str,
    alpha: float,
    reduction: str,
) -> None:
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be [B, K] with K >= 1, got shape {tuple(logits.shape)}")
    check_rows(logits, time_bin, event, weights)
    check_options(censored, form, alpha, reduction)


def check_options(censored: str, form: str, alpha: float, reduction: str) -> None:
    """Raise ValueError unless each is one of its options, and alpha within 0..1."""
    if censored not in ("start", "end"):
        raise ValueError(f"censored must be 'start' or 'end', got {censored!r}")
    if form not in ("likelihood", "must_eq6"):
        raise ValueError(f"form must be 'likelihood' or 'must_eq6', got {form!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be within 0..1, got {alpha}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


Outputs = tuple[Tensor, Tensor, Tensor]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    logits, time_bin, event, weights, *options = inputs
    ctx.options = options[:-1]
    ctx.save_for_backward(logits, time_bin, event, weights, output[1])
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad_loss is None:
        return (None,) * 9
    grad_logits = torch.ops.survcore.discrete_hazard_nll_backward.default(grad_loss, *ctx.saved_tensors, *ctx.options)
    return grad_logits, None, None, None, None, None, None, None, None


def _eager_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    _setup_context(ctx, inputs, output)
    ctx.gradient = output[2] if inputs[-1] else None


def _eager_backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    gradient, ctx.gradient = ctx.gradient, None
    if gradient is not None and grad_loss is not None and is_one(grad_loss):
        # That of a loss that nothing was done to is what forward has found. It is given away, whatever becomes of it,
        # and found again by a second backward.
        return gradient, None, None, None, None, None, None, None, None
    del gradient  # before another one is made
    return _backward(ctx, grad_loss)


@torch.library.register_fake("survcore::discrete_hazard_nll")
def _fake(
    logits: Tensor,
    time_bin: Tensor,
    event: Tensor,
    weights: Tensor,
    censored: str,
    form: str,
    alpha: float,
    reduction: str,
    with_gradient: bool,
) -> Outputs:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    rows, bins = logits.shape
    loss = logits.new_empty((rows,) if reduction == "none" else (), dtype=dtype)
    gradient = logits.new_empty((rows if with_gradient else 0, bins), dtype=dtype)
    return loss, logits.new_empty((), dtype=dtype), gradient


@torch.library.register_fake("survcore::discrete_hazard_nll_backward")
def _fake_backward(grad_loss: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


_apply = differentiable(
    "discrete_hazard_nll",
    setup_context=_setup_context,
    backward=_backward,
    eager=Gradient(_eager_setup_context, _eager_backward),
)
_library.serve_cuda("discrete_hazard_nll", _reference.discrete_hazard_nll)
_library.serve_cuda("discrete_hazard_nll_backward", _reference.discrete_hazard_nll_backward)
