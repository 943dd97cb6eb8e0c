"""Who may import whom, and what `import survcore` needs and costs."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LEAVES = {"arguments", "batch", "devices", "draws", "errors", "files", "kept"}

# Room -> rooms of this package that it may import; the leaves are open to all, a room to itself.
ROOMS = {
    "_library": set(),
    "kernels": set(),
    "reference": set(),
    "ops": {"_library", "kernels", "reference"},
    "losses": {"ops"},
    "nn": {"ops"},
    "diffusion": {"ops", "nn", "reference"},
    "models": {"nn", "diffusion", "losses", "ops"},
    "data": set(),
    "metrics": {"_metrics"},
    "training": {"models", "data", "losses", "metrics", "inference"},
    "inference": {"models", "data"},
    "plots": set(),
    "evaluation": {"models", "training", "inference", "data", "metrics", "plots"},
    "testing": {"ops", "reference"},
    "benchmarks": {
        *("ops", "nn", "diffusion", "models", "metrics", "reference", "testing", "data", "training", "inference"),
        *("evaluation", "_information", "_library", "_roofs"),
    },
}
# Rooms held to few packages besides the standard library; heavy packages are imported inside functions everywhere.
PACKAGES = {
    "kernels": {"torch", "triton"},
    "reference": {"torch"},
    "ops": {"torch"},
    "losses": {"torch"},
    "nn": {"torch"},
    "diffusion": {"torch"},
    "models": {"torch"},
    "data": {"numpy", "pandas", "torch", "pyarrow", "h5py", "safetensors"},
}
HEAVY = {"matplotlib", "lifelines", "triton", "onnx", "onnxruntime", "tensorrt", "sklearn", "sksurv", "captum", "umap"}


def _files() -> list[tuple[str, Path]]:
    """(room, file) of every module of the package."""
    found = []
    for path in sorted((REPOSITORY / "survcore").rglob("*.py")):
        found.append((path.relative_to(REPOSITORY / "survcore").parts[0].removesuffix(".py"), path))
    for room in ("kernels", "benchmarks"):
        found.extend((room, path) for path in sorted((REPOSITORY / room).rglob("*.py")))
    return found


def _imported(tree: ast.AST) -> list[str]:
    """Dotted names that a tree imports, `from package import name` as package.name."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize(
    ("room", "path"), [pytest.param(*item, id=str(item[1].relative_to(REPOSITORY))) for item in _files()]
)
def test_rooms_import_only_what_they_may(room: str, path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = ast.Module(body=[node for node in tree.body], type_ignores=[])
    for name in _imported(tree):
        package, *rest = name.split(".")
        if package == "survcore" and rest and room in ROOMS:
            target = rest[0]
            allowed = ROOMS[room] | LEAVES | {room, "__version__"}
            assert target in allowed, f"{room} may not import survcore.{target}"
        if room in PACKAGES and package not in sys.stdlib_module_names and package != "survcore":
            assert package in PACKAGES[room], f"{room} may not import {package}"
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(top):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in inside and room != "kernels":
            heavy = {name.split(".")[0] for name in _imported(node)} & HEAVY
            assert not heavy, f"{heavy} must be imported inside the function that needs it"


def test_c_headers_of_core_know_no_torch() -> None:
    for path in (REPOSITORY / "csrc" / "core").iterdir():
        includes = [line for line in path.read_text().splitlines() if line.startswith("#include")]
        for line in includes:
            assert '"core/' in line or "<c" in line, f"{path.name}: {line}"


def _run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_needs_no_optional_package() -> None:
    blocked = [
        "triton",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "tensorrt",
        "torch_tensorrt",
        "sksurv",
        "sklearn",
        "captum",
    ]
    _run(
        f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import survcore, survcore.ops, survcore.kernels, survcore.losses
for name in survcore.__all__:
    getattr(survcore, name)
"""
    )


def test_import_is_quick_and_light() -> None:
    output = _run(
        """
import sys, time, torch
start = time.perf_counter()
import survcore, survcore.ops
seconds = time.perf_counter() - start
heavy = sorted({"matplotlib", "lifelines", "pandas", "sklearn"} & set(sys.modules))
print(seconds, *heavy)
"""
    )
    seconds, *heavy = output.split()
    assert float(seconds) < 1.0
    assert not heavy


# A driver that says which CUDA it supports and ends the process that asks it for anything more.
_DRIVER = """
#include <stdio.h>
#include <stdlib.h>
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
static void refuse(const char* name) { fprintf(stderr, "%s was called\\n", name); _Exit(86); }
int cuInit(unsigned flags) { refuse("cuInit"); return 999; }
int cuGetProcAddress_v2() { refuse("cuGetProcAddress_v2"); return 999; }
int cuGetProcAddress() { refuse("cuGetProcAddress"); return 999; }
int cuDeviceGetCount() { refuse("cuDeviceGetCount"); return 999; }
"""

# What a user on a CPU does: a model, its losses, a step of training.
_CPU_WORK = """
from survcore.batch import Batch, ModalityInput, Target
from survcore.models.must import MUST
import survcore.kernels
def backward(loss):
    if not torch.backends.cuda.is_built():  # else torch's own engine counts the devices
        loss.backward()
inputs = [ModalityInput("rna", "vector", 8), ModalityInput("clinical", "vector", 5)]
model = MUST(inputs, 4, {"width": 16, "rank": 4, "heads": 2, "denoiser_heads": 2})
target = Target(torch.rand(6), torch.ones(6, dtype=torch.int64), torch.arange(6) % 4)
values = {"rna": torch.randn(6, 8), "clinical": torch.randn(6, 5)}
batch = Batch(torch.arange(6), torch.ones(6, 2, dtype=torch.bool), values, target=target)
backward(model.losses(batch, "joint").loss)
from survcore.ops import cox_ph_loss, deephit_loss, info_nce
backward(cox_ph_loss(torch.randn(6, requires_grad=True), torch.rand(6), torch.ones(6)))
backward(deephit_loss(torch.randn(6, 4, requires_grad=True), target.time_bin, target.event))
backward(info_nce(torch.randn(6, 4, requires_grad=True), torch.randn(6, 4), temperature=0.1).mean())
assert not torch.cuda.is_initialized()
"""


def test_work_on_the_cpu_never_touches_cuda() -> None:
    _run("import torch, survcore" + _CPU_WORK)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_the_driver_is_asked_for_its_version_alone(tmp_path: Path) -> None:
    """With a torch that has CUDA, and a driver: to initialise it would take memory on the GPU and a second."""
    (tmp_path / "driver.c").write_text(_DRIVER)
    library = tmp_path / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", tmp_path / "driver.c", "-o", library]
    subprocess.run(command, check=True)
    code = f"""
import torch
torch.version.cuda = torch.version.cuda or "13.0"
import survcore.ops
from survcore import _library
assert _library._driver_version() == 13, _library._driver_version()
expected = ("loaded",) if {(REPOSITORY / "survcore" / "_C_cuda.so").is_file()} else ("loaded", "not built")
assert _library.cuda_library_state in expected, _library.cuda_library_state
{_CPU_WORK}
with open("/proc/self/maps") as maps:
    drivers = {{line.split()[-1] for line in maps if "libcuda.so" in line}}
assert drivers == {{{str(library)!r}}}, drivers
"""
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
