"""The compiled libraries for this machine's GPU: by CMake, else by nvcc and g++ alone, else those carried along.

Run as ``python -m survcore.benchmarks.gpu_build SOURCE SITE``; SITE holds the package that the libraries are put into,
with the libraries of SOURCE where it has any.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_NEEDED = ("_C.so", "_C_cuda.so", "build_information.json")


class BuildError(Exception):
    """Why a way to build does not work here."""


def main(source: Path, site: Path) -> int:
    """0 if the package has libraries that were built here or carried along, else 1."""
    package = site / "survcore"
    if os.environ.get("SURVCORE_CARRIED") == "1":
        return _carried(package)
    ways: tuple[Callable[[Path, Path], None], ...] = (by_cmake, by_compilers)
    for build in ways:
        try:
            build(source, site)
        except (BuildError, OSError, subprocess.CalledProcessError) as problem:
            print(f"{build.__name__}: {problem}")
            continue
        print(f"built {build.__name__.replace('_', ' ')} for sm_{capability()}")
        return 0
    return _carried(package)


def _carried(package: Path) -> int:
    missing = [name for name in _NEEDED if not (package / name).is_file()]
    print(
        f"nothing is carried along: no {' and no '.join(missing)}" if missing else "carried libraries, not built here"
    )
    return 1 if missing else 0


def by_cmake(source: Path, site: Path) -> None:
    """The build that ``pip install`` does, for this GPU alone."""
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is not on PATH")
    if find_spec("pybind11") is None:
        raise BuildError("pybind11 is not installed")
    if _nvcc() is None:
        raise BuildError("nvcc is not on PATH")
    folder = site.parent / "cmake"
    options = [
        "-G",
        "Ninja",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DSURVCORE_CUDA=1",
    ]
    options.append(f"-DSURVCORE_VERSION={_version(source)}")
    # A tree that was configured for another place or compiler would not build.
    shutil.rmtree(folder, ignore_errors=True)
    _run(["cmake", "-S", source, "-B", folder, *options], {"CUDAARCHS": _architectures(), "CUDACXX": str(_nvcc())})
    _run(["cmake", "--build", folder])
    _run(["cmake", "--install", folder, "--prefix", site])


def by_compilers(source: Path, site: Path) -> None:
    """_C.so and _C_cuda.so by g++ and nvcc, from the sources that CMakeLists.txt names.

    _metrics, _roofs and the C++ tests are left out: no step of the GPU check needs them.
    """
    compiler, nvcc = shutil.which("g++"), _nvcc()
    if compiler is None or nvcc is None:
        raise BuildError(f"{'g++' if compiler is None else 'nvcc'} is not on PATH")
    torch = find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        raise BuildError("torch is not installed")
    root = Path(next(iter(torch.submodule_search_locations)))
    text = (source / "CMakeLists.txt").read_text()
    include = ["-I", source / "csrc", "-isystem", root / "include"]
    defined = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
    linked = [root / "lib" / "libtorch_cpu.so", root / "lib" / "libc10.so"]
    plain = ["-std=c++20", *_cpu_options(text), "-fPIC", "-fvisibility=hidden", "-pthread", *defined, *include]
    host = "-fPIC,-fvisibility=hidden,-Wall"
    code = f"arch=compute_{capability()},code=sm_{capability()}"
    on_gpu = ["-std=c++17", "-O3", "-gencode", code, "-Xcompiler", host, "-Xptxas=-warn-spills"]
    folder = site.parent / "objects"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cpu, cuda = _sources(text, "CPU_SOURCES"), _sources(text, "CUDA_SOURCES")

    def compiled(name: str) -> Path:
        target = folder / f"{name.replace('/', '_')}.o"
        options = [nvcc, *on_gpu, *defined, *include] if name.endswith(".cu") else [compiler, *plain]
        _run([*options, "-c", source / name, "-o", target])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = dict(zip((*cpu, *cuda), pool.map(compiled, (*cpu, *cuda)), strict=True))
    package = site / "survcore"
    _run([compiler, "-shared", "-pthread", *(objects[name] for name in cpu), *linked, "-o", package / "_C.so"])
    private = ["-cudart", "static", "-Xlinker", "--exclude-libs,ALL", "-ldl"]
    _run([nvcc, "-shared", *(objects[name] for name in cuda), *linked, *private, "-o", package / "_C_cuda.so"])
    record = {
        "version": _version(source),
        "compiler": _output(compiler, "--version").splitlines()[0],
        "system": sysconfig.get_platform(),
        "oldest_torch": "2.10",
        "cuda": re.findall(r"release [\d.]+, V([\d.]+)", _output(nvcc, "--version"))[0],
        "cuda_architectures": _architectures(),
        "cuda_kernels": ";".join(Path(name).stem for name in cuda),
    }
    (package / "build_information.json").write_text(json.dumps(record, indent=2) + "\n")


@cache
def capability() -> str:
    """Of the first GPU, as "90"; that of the H200 where there is none."""
    command = [sys.executable, "-c", "import torch; print(*torch.cuda.get_device_capability(0), sep='')"]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else "90"


def _architectures() -> str:
    return f"{capability()}-real"


def _nvcc() -> str | None:
    usual = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or (str(usual) if usual.is_file() else None)


def _sources(text: str, variable: str) -> list[str]:
    found = re.search(rf"set\({variable}\s+([^)]*)\)", text)
    if found is None:
        raise BuildError(f"CMakeLists.txt sets no {variable}")
    return found[1].split()


def _cpu_options(text: str) -> list[str]:
    found = re.search(r"target_compile_options\(cpu_kernel_options INTERFACE\s+([^)]*)\)", text)
    if found is None:
        raise BuildError("CMakeLists.txt has no cpu_kernel_options")
    return found[1].split()


def _version(source: Path) -> str:
    found = re.search(r'^version = "([^"]*)"', (source / "pyproject.toml").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def _run(command: list[str | Path], environment: dict[str, str] | None = None) -> None:
    print("$", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, check=True, env=os.environ | (environment or {}))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
