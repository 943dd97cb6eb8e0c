"""Finds and loads the compiled libraries, and gives every op without a compiled CUDA kernel its Triton kernel, or its
reference, on CUDA."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

NAMESPACE = "survcore"
_FOLDER = Path(__file__).resolve().parent
# torch.library.Library objects by op: a registration lasts as long as its object.
_references: dict[str, Any] = {}
_triton_libraries: dict[str, Any] = {}


def _missing_library_message() -> str:
    if (_FOLDER.parent / "csrc" / "library.cpp").is_file():
        return (
            f"survcore was imported from its source tree {_FOLDER.parent}, which is not compiled: run "
            "`pip install -e .` there, or run Python from another directory to use the installed package"
        )
    return (
        f"survcore's compiled core {_FOLDER / '_C.so'} is missing: the installation is damaged, install survcore again"
    )


def build_information() -> dict[str, str]:
    """What CMake recorded about this build: compiler, CUDA version, architectures and kernels."""
    path = _FOLDER / "build_information.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _driver_version() -> int | None:
    """Major version of CUDA that this machine's driver supports, None without a driver."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value // 1000 if status == 0 else None


def _load_cpu() -> None:
    library = _FOLDER / "_C.so"
    if not library.is_file():
        raise ImportError(_missing_library_message())
    torch.ops.load_library(library)


def _load_cuda() -> str:
    """Load the CUDA library where it can be of use; returns "loaded", or why it is not."""
    library = _FOLDER / "_C_cuda.so"
    if not library.is_file():
        return "not built"
    if torch.version.cuda is None:
        return "built, not loaded: torch has no CUDA"
    driver = _driver_version()
    if driver is None:
        return "built, not loaded: no CUDA driver"
    toolkit = int(build_information()["cuda"].split(".")[0])
    if driver < toolkit:
        return f"built, not loaded: the driver supports CUDA {driver}, the kernels need {toolkit}"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        warnings.warn(f"survcore uses plain PyTorch on CUDA, its own kernels do not load: {error}", stacklevel=2)
        return f"built, not loaded: {error}"
    return "loaded"


_load_cpu()
cuda_library_state = _load_cuda()


def has_kernel(name: str, key: str) -> bool:
    """Whether ``survcore::name`` has a kernel of its own for a dispatch key ("CPU", "CUDA", ...)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", key)


def op_names() -> list[str]:
    """Names of all ops of this namespace, forward and backward, from their schemas."""
    prefix = f"{NAMESPACE}::"
    return sorted(
        name.removeprefix(prefix) for name in torch._C._dispatch_get_all_op_names() if name.startswith(prefix)
    )


def serve_cuda(name: str, reference: Callable[..., Any], triton: bool = False) -> None:
    """Serve an op on CUDA tensors, unless a compiled CUDA kernel has been loaded for it.

    A Triton kernel may decline arguments by returning NotImplemented: the reference serves them then, as it serves all
    where Triton is not installed.

    Args:
        name: the op's name, without namespace.
        reference: its plain PyTorch definition, a function of the op's schema that builds no autograd graph.
        triton: whether ``survcore.kernels.<op>`` has a function of this name and schema, <op> being the name without
            "_backward".
    """
    if has_kernel(name, "CUDA"):
        return
    library = torch.library.Library(NAMESPACE, "IMPL")  # noqa: TOR901 (kept alive below)
    if triton and importlib.util.find_spec("triton") is not None:
        library.impl(name, _triton_or(reference, name), "CUDA")
        _triton_libraries[name] = library
    else:
        library.impl(name, reference, "CUDA")
        _references[name] = library


def has_triton_kernel(name: str) -> bool:
    """Whether an op is served by a Triton kernel on CUDA tensors."""
    return name in _triton_libraries


def _triton_or(reference: Callable[..., Any], name: str) -> Callable[..., Any]:
    def serve(*arguments: Any) -> Any:
        kernel = _triton_kernel(name)
        if kernel is None:
            return reference(*arguments)
        device = next(value.device for value in arguments if isinstance(value, torch.Tensor) and value.is_cuda)
        with torch.cuda.device(device):  # Triton launches on the current one
            result = kernel(*arguments)
        return reference(*arguments) if result is NotImplemented else result

    return serve


@functools.cache
def _triton_kernel(name: str) -> Callable[..., Any] | None:
    """The launcher, imported when it is first called: Triton takes longer to import than all of survcore."""
    try:
        return getattr(importlib.import_module(f"survcore.kernels.{name.removesuffix('_backward')}"), name)
    except ImportError as error:
        warnings.warn(f"{name} runs in plain PyTorch on CUDA, its Triton kernel does not load: {error}", stacklevel=2)
        return None


def scale_(values: torch.Tensor, factor: torch.Tensor) -> bool:
    """Multiply CUDA values in place by one number on their device, without a wait and without any traffic where it is
    1. False, and nothing done, where they are not such values or Triton is not there."""
    if not (values.is_cuda and factor.is_cuda and type(values) is type(factor) is torch.Tensor):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(factor):
        return False
    kernels = triton_module("_scale")
    if kernels is None:
        return False
    with torch.cuda.device(values.device):
        return kernels.scale_unless_one_(values, factor)


@functools.cache
def triton_module(name: str) -> ModuleType | None:
    """``survcore.kernels.<name>``, imported when it is first asked for; None where Triton is not there."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.import_module(f"survcore.kernels.{name}")
    except ImportError:
        return None


def kernel_source(name: str, key: str) -> str:
    """Which code serves an op for a dispatch key: "compiled", "triton", "reference" or "none"."""
    if key == "CUDA" and has_triton_kernel(name):
        return "triton"
    if key == "CUDA" and name in _references:
        return "reference"
    return "compiled" if has_kernel(name, key) else "none"
