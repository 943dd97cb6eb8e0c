"""The CUDA library as it was built, and how it finds torch's stream, all without a GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import survcore
from survcore import _library

PACKAGE = Path(survcore.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = PACKAGE / "_C_cuda.so"
# Kernels that a training step or a prediction spends its time in, by the file that they stand in.
HOT = {
    "cox_ph_loss": (
        "small_kernel",
        "range_kernel",
        "sum_kernel",
        "scan_kernel",
        "terms_kernel",
        "loss_kernel",
        "gradient_kernel",
        "pair_sum_kernel",
        "pair_terms_kernel",
        "pair_gradient_kernel",
        "scale_kernel",
    ),
    "ddim_sample": ("ddim_sample_cooperative", "ddim_sample_phase"),
    "discrete_hazard_nll": ("forward_kernel", "backward_kernel", "finish_kernel"),
}
# The stand-ins below are loaded as torch loads its own libraries: with symbols that no other library sees.
_LOCAL = "import ctypes, os; load = lambda path: ctypes.CDLL(path, mode=os.RTLD_LOCAL | os.RTLD_NOW)"


def _cuobjdump() -> str | None:
    """Of a CUDA toolkit, or the one that Triton brings."""
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path="/usr/local/cuda/bin")
    if found is None and (triton := importlib.util.find_spec("triton")) and triton.submodule_search_locations:
        path = Path(next(iter(triton.submodule_search_locations))) / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(path) if path.is_file() else None
    return found


needs_library = pytest.mark.skipif(not LIBRARY.is_file(), reason="built without CUDA")
needs_cuobjdump = pytest.mark.skipif(_cuobjdump() is None, reason="cuobjdump is not installed")


class Usage(NamedTuple):
    """What one kernel takes on one architecture: registers, and bytes of stack and local memory per thread."""

    kernel: str
    architecture: str
    registers: int
    stack: int
    local: int


def _dump(*options: str) -> str:
    command = [str(_cuobjdump()), *options, str(LIBRARY)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def _usages() -> list[Usage]:
    """The compiler's own report, which stands in the library: one line per kernel and architecture."""
    found, architecture, kernel = [], "", ""
    for line in _dump("--dump-resource-usage").splitlines():
        if named := re.match(r"arch = sm_(\d+)", line.strip()):
            architecture = named[1]
        elif named := re.match(r"Function (\S+):", line.strip()):
            kernel = named[1]
        elif kernel and (numbers := dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", line))):
            registers, stack, local = (int(numbers[name]) for name in ("REG", "STACK", "LOCAL"))
            found.append(Usage(kernel, architecture, registers, stack, local))
            kernel = ""
    return found


def _architectures() -> tuple[list[str], list[str]]:
    """Those that the build says it has machine code, and PTX, for."""
    listed = _library.build_information()["cuda_architectures"].split(";")
    machine_code = [name.split("-")[0] for name in listed if not name.endswith("-virtual")]
    return machine_code, [name.split("-")[0] for name in listed if not name.endswith("-real")]


@needs_library
@needs_cuobjdump
def test_machine_code_of_every_architecture_and_ptx_of_the_newest() -> None:
    machine_code, ptx = _architectures()
    assert set(re.findall(r"\.sm_(\d+)\w*\.cubin", _dump("--list-elf"))) == set(machine_code)
    assert set(re.findall(r"\.sm_(\d+)\w*\.ptx", _dump("--list-ptx"))) == set(ptx)
    if len(machine_code) > 1:
        assert ptx == [max(machine_code, key=int)]


@needs_library
@needs_cuobjdump
def test_every_kernel_is_there_for_every_architecture() -> None:
    by_kernel = defaultdict(set)
    for usage in _usages():
        by_kernel[usage.kernel].add(usage.architecture)
    assert by_kernel and all(found == set(_architectures()[0]) for found in by_kernel.values())


@needs_library
@needs_cuobjdump
@pytest.mark.parametrize("op", HOT)
def test_hot_kernels_keep_everything_in_registers(op: str) -> None:
    """No spills, no arrays in local memory, on any architecture."""
    if op not in _library.build_information()["cuda_kernels"].split(";"):
        pytest.skip(f"the library was built without {op}")
    for name in HOT[op]:
        usages = [usage for usage in _usages() if re.search(rf"\d{name}(?=I|E)", usage.kernel)]
        assert usages, f"the library has no kernel {name}"
        spilled = [usage for usage in usages if usage.stack or usage.local]
        assert not spilled, "\n".join(map(str, spilled))


# What cuda_launch.h needs of the CUDA headers to ask for a stream.
_CUDA_RUNTIME = """
#pragma once
typedef struct CUstream_st* cudaStream_t;
typedef enum { cudaSuccess = 0 } cudaError_t;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
"""
_KERNEL_LIBRARY = """
#include <cstdint>
#include <exception>
#include "common/cuda_launch.h"
extern "C" int64_t stream_of(int device) {
  try {
    return reinterpret_cast<int64_t>(survcore::current_stream(device));
  } catch (const std::exception& error) {
    return -1;
  }
}
"""
_TORCH_CUDA = """
#include <stdint.h>
int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
  *stream = (void*)(intptr_t)(4096 + device);
  return device == 9;
}
"""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that asks for the stream as the kernels do, and a libtorch_cuda that answers."""
    if shutil.which("g++") is None or shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("stream")
    torch_root = Path(torch.__file__).parent
    (folder / "cuda_runtime.h").write_text(_CUDA_RUNTIME)
    (folder / "kernels.cpp").write_text(_KERNEL_LIBRARY)
    (folder / "torch_cuda.c").write_text(_TORCH_CUDA)
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-I", folder, "-I", REPOSITORY / "csrc"]
    command += ["-isystem", torch_root / "include", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
    command += [folder / "kernels.cpp", *(torch_root / "lib" / name for name in ("libtorch_cpu.so", "libc10.so"))]
    subprocess.run([*command, "-ldl", "-o", folder / "kernels.so"], check=True)
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", folder / "torch_cuda.c"]
    subprocess.run([*command, "-o", folder / "libtorch_cuda.so"], check=True)
    return folder


def _streams(folder: Path, *libraries: str) -> list[int]:
    """What the kernels get for devices 0, 3 and 9 in a process that has loaded these libraries."""
    code = f"""
import torch
{_LOCAL}
held = [load({str(folder)!r} + "/" + name) for name in {libraries!r}]
kernels = load({str(folder / "kernels.so")!r})
kernels.stream_of.restype = ctypes.c_int64
print(*(kernels.stream_of(device) for device in (0, 3, 9)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [int(word) for word in result.stdout.split()]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_stream_is_that_of_the_torch_in_the_process(stand_ins: Path) -> None:
    """Though that is loaded with local symbols; an error of torch's is an exception, not a stream."""
    assert _streams(stand_ins, "libtorch_cuda.so") == [4096, 4099, -1]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_without_cuda_in_torch_there_is_no_stream(stand_ins: Path) -> None:
    assert _streams(stand_ins) == [-1, -1, -1]


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA")
def test_a_torch_with_cuda_has_what_kernels_ask_it_for() -> None:
    """And neither to import survcore nor to load its kernels wakes CUDA."""
    code = f"""
import torch, survcore.ops
{_LOCAL}
if {LIBRARY.is_file()}:
    torch.ops.load_library({str(LIBRARY)!r})
torch_cuda = ctypes.CDLL("libtorch_cuda.so", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
assert torch_cuda.aoti_torch_get_current_cuda_stream
assert not torch.cuda.is_initialized()
"""
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
