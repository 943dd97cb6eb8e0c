"""Finds and loads the compiled libraries, and gives every op without a CUDA kernel its reference on CUDA."""

from __future__ import annotations

import ctypes
import json
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


def _driver_present() -> bool:
    """Whether this machine has a CUDA driver (torch built without CUDA never needs the kernels)."""
    if torch.version.cuda is None:
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _load() -> bool:
    """Load the CPU library, and the CUDA library where it can be of use; returns whether the latter is loaded."""
    cpu_library = _FOLDER / "_C.so"
    if not cpu_library.is_file():
        raise ImportError(_missing_library_message())
    torch.ops.load_library(cpu_library)
    cuda_library = _FOLDER / "_C_cuda.so"
    if not cuda_library.is_file() or not _driver_present():
        return False
    torch.ops.load_library(cuda_library)
    return True


cuda_loaded = _load()


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


def build_information() -> dict[str, str]:
    """What CMake recorded about this build: compiler, CUDA version and architectures."""
    path = _FOLDER / "build_information.json"
    return json.loads(path.read_text()) if path.is_file() else {}
