"""What the build leaves behind: libraries, their links, the record of the build; the message of an uncompiled tree."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import survcore
from survcore import _library
from survcore._information import information

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = Path(survcore.__file__).parent


def test_uncompiled_source_tree_says_what_to_do(tmp_path: Path) -> None:
    """What a person sees who installed a wheel and starts Python in the repository's root."""
    shutil.copytree(
        REPOSITORY / "survcore", tmp_path / "survcore", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    (tmp_path / "csrc").mkdir()
    shutil.copy(REPOSITORY / "csrc" / "library.cpp", tmp_path / "csrc")
    result = subprocess.run([sys.executable, "-c", "import survcore.ops"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0
    assert "not compiled" in result.stderr and "pip install -e ." in result.stderr


def test_damaged_installation_says_so(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "survcore", ignore=shutil.ignore_patterns("_C.so", "__pycache__"))
    result = subprocess.run([sys.executable, "-c", "import survcore.ops"], cwd=tmp_path, capture_output=True, text=True)
    assert "installation is damaged" in result.stderr


def test_build_record_is_complete() -> None:
    record = _library.build_information()
    assert record["version"] == survcore.__version__
    assert set(record) == {
        "version",
        "compiler",
        "system",
        "oldest_torch",
        "cuda",
        "cuda_architectures",
        "cuda_kernels",
    }
    assert all(record.values())


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_libraries_link_only_the_stable_interface() -> None:
    for library in (PACKAGE / "_C.so", PACKAGE / "_C_cuda.so"):
        if not library.is_file():
            continue
        dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
        torch_libraries = {name for name in needed if "torch" in name or "c10" in name or "cuda" in name}
        assert torch_libraries <= {"libtorch_cpu.so", "libc10.so"}, needed
        assert "RUNPATH" not in dynamic and "RPATH" not in dynamic


@pytest.mark.skipif(not (PACKAGE / "_C_cuda.so").is_file(), reason="built without CUDA")
def test_cuda_library_loads_without_a_device() -> None:
    """Also on a torch without CUDA; in a process of its own, since a registration cannot be taken back."""
    code = f"""
import torch
torch.ops.load_library({str(PACKAGE / "_C.so")!r})
torch.ops.load_library({str(PACKAGE / "_C_cuda.so")!r})
assert torch._C._dispatch_has_kernel_for_dispatch_key("survcore::discrete_hazard_nll", "CUDA")
"""
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_op_without_compiled_cuda_kernel_is_served_by_triton_or_its_reference() -> None:
    import survcore.ops  # noqa: F401

    expected = "reference" if importlib.util.find_spec("triton") is None else "triton"
    assert _library.kernel_source("low_rank_decompose", "CUDA") == expected
    assert _library.kernel_source("low_rank_decompose_backward", "CUDA") == expected
    assert _library.kernel_source("cox_risk_sets", "CUDA") == "reference"
    if torch.version.cuda is None:
        assert _library.cuda_library_state != "loaded"


@pytest.fixture
def cuda_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with a CUDA library (which nothing can load), on a torch with CUDA and a driver for CUDA 13."""
    (tmp_path / "_C_cuda.so").write_bytes(b"no library")
    (tmp_path / "build_information.json").write_text('{"cuda": "13.0.88", "cuda_kernels": "discrete_hazard_nll"}')
    monkeypatch.setattr(_library, "_FOLDER", tmp_path)
    monkeypatch.setattr(_library, "_driver_version", lambda: 13)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return tmp_path


def test_cuda_library_that_does_not_load_is_told_once(cuda_build: Path) -> None:
    with pytest.warns(UserWarning, match="plain PyTorch on CUDA.*_C_cuda.so") as told:
        assert _library._load_cuda().startswith("built, not loaded: ")
    assert len(told) == 1


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "state"),
    [
        (12, "12.8", "built, not loaded: the driver supports CUDA 12, the kernels need 13"),
        (None, "13.0", "built, not loaded: no CUDA driver"),
        (13, None, "built, not loaded: torch has no CUDA"),
    ],
)
@pytest.mark.usefixtures("cuda_build")
def test_cuda_library_is_not_tried_where_it_cannot_work(
    driver: int | None, torch_cuda: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_library, "_driver_version", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    assert _library._load_cuda() == state


def test_package_without_cuda_library(cuda_build: Path) -> None:
    (cuda_build / "_C_cuda.so").unlink()
    assert _library._load_cuda() == "not built"


@pytest.mark.usefixtures("cuda_build")
def test_report_tells_a_kernel_that_lies_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "kernel_source", lambda name, key: "reference" if key == "CUDA" else "compiled")
    kernels = information()["kernels"]
    assert kernels["discrete_hazard_nll"] == {"cpu": "compiled", "cuda": "compiled, not loaded here"}
    assert kernels["discrete_hazard_nll_backward"]["cuda"] == "compiled, not loaded here"
    assert kernels["low_rank_decompose"]["cuda"] == "reference"


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("ninja") is None, reason="needs cmake and ninja")
def test_unknown_choice_of_cuda_is_an_error(tmp_path: Path) -> None:
    command = ["cmake", "-S", REPOSITORY, "-B", tmp_path, "-G", "Ninja", "-DSURVCORE_CUDA=yes"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and "must be auto, 0 or 1, got 'yes'" in result.stderr


def test_build_without_ninja_says_so(tmp_path: Path) -> None:
    (tmp_path / "cmake").write_text("#!/bin/sh\n")
    (tmp_path / "cmake").chmod(0o755)
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path]
    result = subprocess.run(command, cwd=REPOSITORY, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode != 0 and "ninja is needed to build and is not on PATH: pip install ninja" in result.stderr
