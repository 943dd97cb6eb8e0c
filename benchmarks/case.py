"""What a benchmark of an op consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]
Provider = Callable[..., Tensor]


class LeftOut(Exception):
    """Raised by a provider where it has nothing to offer: what a rival does not serve, or takes too long for."""


@dataclass(frozen=True)
class Work:
    """What a call must do at least, whoever does it.

    Attributes:
        bytes: that it reads and writes: each input once, each result once; what it must read again, again.
        operations: floating-point operations beside those of matrix products.
        products: floating-point operations of matrix products.
        exponentials: exponentials and logarithms.
        held: bytes that it reads again and again, where ``bytes`` counts them more than once; they may lie in a cache.
    """

    bytes: float
    operations: float = 0.0
    products: float = 0.0
    exponentials: float = 0.0
    held: float | None = None


@dataclass(frozen=True)
class Bar:
    """What is aimed at on a GPU: forward and backward, or forward where there is no gradient.

    Attributes:
        milliseconds: at most, on an H200.
        share: of the roof, at least, on any GPU.
    """

    milliseconds: float | None = None
    share: float | None = None

    def met(self, seconds: float, roof_share: float | None) -> bool:
        """Whether a time, which is such a share of the roof, is what is aimed at."""
        if self.milliseconds is not None and 1e3 * seconds > self.milliseconds:
            return False
        return self.share is None or (roof_share is not None and roof_share >= self.share)

    def __str__(self) -> str:
        parts = [f"{self.milliseconds:g} ms"] if self.milliseconds is not None else []
        return ", ".join([*parts, *([f"{100 * self.share:g} % of the roof"] if self.share is not None else [])])


@dataclass(frozen=True)
class OnCuda:
    """What differs where a case is run on a GPU.

    Attributes:
        sizes: further ones, which would take a CPU too long.
        quick: sizes that a quick run takes beside the first and those that a bar is set for.
        bars: size -> bar in the usual type, or (size, type) -> bar in another one.
    """

    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    quick: tuple[str, ...] = ()
    bars: dict[str | tuple[str, str], Bar] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkCase:
    """One op against its rivals: forward, backward and both, or forward alone if no input requires a gradient.

    Attributes:
        name: the op.
        sizes: name -> keyword arguments of ``inputs``; the first is the one that context and latency are measured at.
        quick: names of the sizes that a quick run takes.
        inputs: ``(dtype, device, **size)`` -> arguments of every provider, tensors or tuples of them; those that
            require a gradient are leaves.
        providers: name -> function of the inputs that returns a scalar loss, or [rows, D] if there is no gradient.
            "survcore" is ours, as is "survcore, ..." for another way to call it; "eager" is the best plain PyTorch for
            the same, "compiled" that under torch.compile, added by the runner where there is "eager" and the case has
            none of its own; every other one is a peer.
        context: more providers, which are no rivals: they are timed at the first size, among themselves.
        oracle: the provider whose result in float64 the others must agree with.
        oracles: provider -> another oracle of its own.
        work: ``(passes, *inputs)`` with passes "forward" or "both" -> what must be done; held against the machine's
            roofs. None: it is not.
        dtype: of the floating inputs where that is not for the caller to choose.
        computes_in: provider -> the type that it computes in whatever it is given: its error is allowed to be of that.
        latency: providers that are timed alone, call by call, on an idle machine and beside a busy neighbour.
        table: sizes that a table for readers shows; empty: all.
        also: further types that a run of everything takes.
        bars: size -> milliseconds of forward and backward (of forward, where there is no gradient) that are aimed at on
            a CPU in the usual type, or (size, type) -> milliseconds in another one.
        curve: sizes that differ in one number only, ``axis``, in rising order: time and memory are drawn over it.
        axis: the keyword of ``inputs`` that is that number.
        cuda: what differs on a GPU.
    """

    name: str
    sizes: dict[str, dict[str, int]]
    quick: tuple[str, ...]
    inputs: Callable[..., Inputs]
    providers: dict[str, Provider]
    context: dict[str, Provider] = field(default_factory=dict)
    oracle: str = "eager"
    oracles: dict[str, str] = field(default_factory=dict)
    work: Callable[..., Work] | None = None
    dtype: torch.dtype | None = None
    computes_in: dict[str, torch.dtype] = field(default_factory=dict)
    latency: tuple[str, ...] = ()
    table: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    bars: dict[str | tuple[str, str], float] = field(default_factory=dict)
    curve: tuple[str, ...] = ()
    axis: str = "rows"
    cuda: OnCuda = field(default_factory=OnCuda)

    @property
    def usual_dtype(self) -> str:
        """Of the floating inputs where the caller does not choose another, by PyTorch's name."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    def dtypes_on(self, device: str) -> list[str]:
        """The types that a run of everything takes."""
        if self.dtype:
            return [self.usual_dtype]
        barred = [dtype for _, dtype in self.cuda_bars()] if device == "cuda" else []
        return list(dict.fromkeys((self.usual_dtype, *self.also, *barred)))

    def sizes_on(self, device: str, dtype: str, quick: bool) -> list[str]:
        """The sizes of a run in a type, the first of ``sizes`` before all others."""
        if device != "cuda":
            return list(self.quick if quick else self.sizes)
        if not quick:
            return [*self.sizes, *self.cuda.sizes]
        barred = [size for size, in_type in self.cuda_bars() if in_type == dtype]
        usual = self.cuda.quick if dtype == self.usual_dtype else ()
        return list(dict.fromkeys((next(iter(self.sizes)), *usual, *barred)))

    def size(self, name: str) -> dict[str, int]:
        """The keyword arguments of ``inputs``."""
        return self.sizes[name] if name in self.sizes else self.cuda.sizes[name]

    def cuda_bars(self) -> dict[tuple[str, str], Bar]:
        """(size, type) -> bar on a GPU."""
        bars = self.cuda.bars.items()
        return {key if isinstance(key, tuple) else (key, self.usual_dtype): bar for key, bar in bars}


def is_own(provider: str) -> bool:
    """Whether a provider is survcore itself, not a rival."""
    return provider.split(",")[0] == "survcore"


def leaf(value: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """``value`` as a leaf that collects a gradient."""
    return value.to(device, dtype).requires_grad_()


def leaves(inputs: Inputs) -> list[Tensor]:
    """The inputs that require a gradient."""
    return [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every tensor changed, in tuples too."""
    if isinstance(value, Tensor):
        return change(value)
    if not isinstance(value, tuple):
        return value
    parts = [mapped(change, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
