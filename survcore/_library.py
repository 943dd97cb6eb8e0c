"""Finds and loads the compiled libraries, and gives every op without a CUDA kernel its reference on CUDA."""

from __future__ import annotations

import ctypes
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NAMESPACE = "survcore"
_FOLDER = Path(__file__).resolve().parent
_references: dict[str, Any] = {}  # torch.library.Library objects: a registration lasts as long as its object


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


def serve_cuda_by_reference(name: str, reference: Callable[..., Any]) -> None:
    """Register the plain PyTorch definition of an op for CUDA tensors, unless a CUDA kernel has been loaded.

    Args:
        name: the op's name, without namespace.
        reference: a function of the op's schema that builds no autograd graph.
    """
    if has_kernel(name, "CUDA"):
        return
    library = torch.library.Library(NAMESPACE, "IMPL")  # noqa: TOR901 (kept alive below)
    library.impl(name, reference, "CUDA")
    _references[name] = library


def kernel_source(name: str, key: str) -> str:
    """Which code serves an op for a dispatch key: "compiled", "reference" or "none"."""
    if key == "CUDA" and name in _references:
        return "reference"
    return "compiled" if has_kernel(name, key) else "none"
