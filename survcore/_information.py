"""What ``survcore info`` tells: this build, this machine, and which kernel serves each op on each device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

OPTIONAL_PACKAGES = (
    "triton",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorrt",
    "tensorrt-rtx",
    "torch-tensorrt",
    "scikit-learn",
    "scikit-survival",
    "captum",
    "umap-learn",
    "nibabel",
    "scikit-image",
    "sentence-transformers",
    "fastapi",
    "ray",
    "pycox",
    "torchsurv",
)
REQUIRED_PACKAGES = ("torch", "numpy", "pandas", "lifelines", "matplotlib", "safetensors", "pyarrow", "h5py")
_CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def information() -> dict[str, Any]:
    """Everything that helps to understand a report from another machine, as nested dicts."""
    import torch

    import survcore
    import survcore.ops  # noqa: F401 (registers the kernels that are asked for below)
    from survcore import _library

    return {
        "survcore": survcore.__version__,
        "python": platform.python_version(),
        "build": _library.build_information(),
        "cuda_library": _library.cuda_library_state,
        "cpu": {
            "name": device_name("cpu"),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "features": [feature for feature in _CPU_FEATURES if feature in _cpu_flags()],
        },
        "cuda_devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "kernels": {
            name: {"cpu": _library.kernel_source(name, "CPU"), "cuda": _cuda_kernel(name)}
            for name in _library.op_names()
        },
        "packages": {name: _version(name) for name in REQUIRED_PACKAGES},
        "optional_packages": {name: _version(name) for name in OPTIONAL_PACKAGES},
    }


def device_name(device: str) -> str:
    """The processor's or the GPU's name."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    for line in _processor_lines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def render(report: dict[str, Any]) -> str:
    """The report as indented text."""
    lines: list[str] = []
    _render(report, 0, lines)
    return "\n".join(lines)


def _render(value: dict[str, Any], depth: int, lines: list[str]) -> None:
    for name, entry in value.items():
        head = f"{'  ' * depth}{name}:"
        if isinstance(entry, dict):
            lines.append(head)
            _render(entry, depth + 1, lines)
        else:
            text = ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry)
            lines.append(f"{head} {text or 'none'}")


def _cuda_kernel(name: str) -> str:
    """What serves an op on CUDA, and whether a kernel lies idle (the entry cuda_library says why)."""
    from survcore import _library

    source = _library.kernel_source(name, "CUDA")
    built = _library.build_information().get("cuda_kernels", "none").split(";")
    if source != "compiled" and name.removesuffix("_backward") in built:
        return "compiled, not loaded here"
    return source


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _cpu_flags() -> set[str]:
    for line in _processor_lines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()
