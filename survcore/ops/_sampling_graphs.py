"""The plain sampling loop on CUDA, replayed as a CUDA graph: for installations without the compiled CUDA kernel.

Eagerly the loop takes some eighteen launches for each layer of each step, which the host cannot make as fast as the
device runs them. A graph of the whole loop is one launch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from survcore.reference import ddim_sample as _reference
from survcore.reference.pack_denoiser import HEADER_BYTES, FlatHeader, flat_header


class Recording(Protocol):
    """A function of no arguments that was recorded once, and what it returned."""

    output: Tensor

    def begin(self) -> None:
        """Before its inputs are written: what is asked for next comes after the last replay, on whatever stream."""

    def replay(self) -> None:
        """Run it again on what its inputs hold now."""

    def end(self) -> None:
        """After its output has been read."""


class CudaRecording:
    """A CUDA graph. Recording waits for the device; replaying does not."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # libraries set themselves up in their first call, which cannot be recorded
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        self._finished = torch.cuda.Event()
        # What other threads do meanwhile is no part of it, and no error.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self.output = run()

    def begin(self) -> None:
        torch.cuda.current_stream().wait_event(self._finished)

    def replay(self) -> None:
        self._graph.replay()

    def end(self) -> None:
        self._finished.record()


class _Replayed:
    """The loop for arguments of one kind, on copies of them: nothing of the caller's has to stay where it is."""

    def __init__(
        self,
        header: FlatHeader,
        arguments: tuple[Tensor, ...],
        record: Callable[[Callable[[], Tensor]], Recording],
    ) -> None:
        self._lock = threading.Lock()
        self._inputs = [argument.clone(memory_format=torch.contiguous_format) for argument in arguments]
        first = self._inputs[4][:HEADER_BYTES].clone()

        def run() -> Tensor:
            latents = _reference.sample_from_flat(header, *self._inputs)
            # Weights that have become those of another denoiser must not pass for this one's.
            same = (self._inputs[4][:HEADER_BYTES] == first).all()
            return torch.where(same, latents, torch.nan)

        self._recording = record(run)

    def __call__(self, arguments: tuple[Tensor, ...]) -> Tensor:
        with self._lock:
            self._recording.begin()
            for own, given in zip(self._inputs, arguments, strict=True):
                own.copy_(given)
            self._recording.replay()
            for own in self._inputs:
                if own.is_cuda:  # whose memory is not another's before this stream has read it
                    own.record_stream(torch.cuda.current_stream())
            latents = self._recording.output.clone()
            self._recording.end()
        return latents


class SamplingGraphs:
    """ddim_sample of a CUDA device by replayed graphs; the plain loop itself where a graph does not pay.

    A kind of arguments (device, shapes, dtypes, denoiser) is recorded when it comes for the second time, and the
    latest kinds are kept. Inside a capture of the caller's the plain loop runs, into that capture; the weights must
    have been used before, as reading their header waits for the device. All may be called by many threads.

    Args:
        record: makes a recording.
        capturing: whether the current stream is being captured.
    """

    most_kinds = 8
    most_draws = 512  # beyond, the device is slower than the host
    most_layers = 1024  # of all steps: what is recorded grows with them

    def __init__(
        self,
        record: Callable[[Callable[[], Tensor]], Recording] = CudaRecording,
        capturing: Callable[[], bool] = torch.cuda.is_current_stream_capturing,
    ) -> None:
        self._record, self._capturing = record, capturing
        self._lock = threading.Lock()
        # None: seen once; False: cannot be recorded.
        self._kinds: OrderedDict[Any, _Replayed | None | bool] = OrderedDict()
        self._headers: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __call__(
        self,
        noise: Tensor,
        condition: Tensor,
        condition_index: Tensor,
        step_noise: Tensor,
        packed_weights: Tensor,
        modulation: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        """The op's schema."""
        arguments = (noise, condition, condition_index, step_noise, packed_weights, modulation, coefficients)
        with torch.no_grad(), torch.autocast(noise.device.type, enabled=False):
            capturing = self._capturing()
            header = self._header(packed_weights, capturing)
            layers = coefficients.shape[0] * modulation.shape[1]
            pays = 0 < noise.shape[0] <= self.most_draws and 0 < layers <= self.most_layers
            replayed = None
            if pays and not capturing:
                replayed = self._replayed(header, arguments)
            return replayed(arguments) if replayed else _reference.sample_from_flat(header, *arguments)

    def _header(self, packed_weights: Tensor, capturing: bool) -> FlatHeader:
        version = None if packed_weights.is_inference() else packed_weights._version
        with self._lock:
            known = self._headers.get(packed_weights)
        if known is not None and known[0] == version:
            return known[1]
        if capturing:
            raise RuntimeError(
                "ddim_sample is captured in a CUDA graph with weights that it has not seen: sample once before"
            )
        header = flat_header(packed_weights)
        with self._lock:
            self._headers[packed_weights] = (version, header)
        return header

    def _replayed(self, header: FlatHeader, arguments: tuple[Tensor, ...]) -> _Replayed | None:
        kind = (header, arguments[0].device, *((tuple(value.shape), value.dtype) for value in arguments))
        with self._lock:
            if kind not in self._kinds:
                self._kinds[kind] = None
                while len(self._kinds) > self.most_kinds:
                    self._kinds.popitem(last=False)
                return None
            self._kinds.move_to_end(kind)
            if self._kinds[kind] is None:
                self._kinds[kind] = self._made(header, arguments)
            return self._kinds[kind] or None

    def _made(self, header: FlatHeader, arguments: tuple[Tensor, ...]) -> _Replayed | bool:
        # Buffers made in inference mode could be written in no other.
        with torch.inference_mode(False), torch.no_grad():
            try:
                return _Replayed(header, arguments, self._record)
            except RuntimeError:  # no memory, or something is captured that forbids it
                return False
