"""A provider in a process of its own, as a run sees it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from survcore.benchmarks.worker import serve


class ProviderProblem(Exception):
    """Why a provider gave no answer: what it told, or how its process ended."""


class ServingProcess:
    """Starts a function that serves a worker and asks it; a process that has ended is started anew.

    Args:
        serve: takes a connection and the arguments.
        arguments: of it.
        threads: of the process.
        limit: seconds after which a request counts as never answered.
    """

    def __init__(self, serve: Callable[..., None], arguments: tuple[Any, ...], *, threads: int, limit: float) -> None:
        self._serve, self._arguments = serve, arguments
        self._threads, self._limit = threads, limit
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self) -> None:
        """Start the process, unless it runs, without waiting for it."""
        if self._process is None:
            self._start()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns.

        Raises:
            ProviderProblem: it failed, left this out, crashed or took too long.
        """
        self.start()
        try:
            self._connection.send((method, arguments))
            if not self._connection.poll(self._limit):
                self._process.kill()
                self.close()
                raise ProviderProblem(f"failed: no answer within {self._limit:.0f} s")
            kind, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise ProviderProblem(self._end()) from None
        if kind == "problem":
            raise ProviderProblem(answer)
        return answer

    def close(self) -> None:
        """End the process: it is let go, and killed if it stays."""
        if self._process is not None:
            self._connection.close()
            self._process.join(5)
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process would hang in its parent's thread pools
        self._connection, other = context.Pipe()
        self._process = context.Process(target=self._serve, args=(other, *self._arguments), daemon=True)
        with _thread_environment(self._threads):
            self._process.start()
        other.close()

    def _end(self) -> str:
        """How the process ended that should have answered."""
        self._process.join(10)
        code = self._process.exitcode
        self.close()
        if code is None:
            return "crashed: closed its connection"
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"crashed: {name}"


class ProviderProcess(ServingProcess):
    """Serves a :class:`survcore.benchmarks.worker.Worker`.

    Args:
        module: of the case, by its dotted name.
        provider: which of the case's providers.
        dtype, device: of the floating inputs, and where they are.
        threads, limit: as :class:`ServingProcess`.
        exact: whether the inputs are widened to float64.
    """

    def __init__(
        self, module: str, provider: str, *, dtype: str, device: str, threads: int, limit: float, exact: bool = False
    ) -> None:
        super().__init__(serve, (module, provider, dtype, device, exact, threads), threads=threads, limit=limit)


@contextmanager
def _thread_environment(threads: int) -> Iterator[None]:
    """The number of threads for libraries that read it when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
