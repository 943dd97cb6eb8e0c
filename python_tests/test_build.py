"""What the build leaves behind: libraries, their links, the record of the build; the message of an uncompiled tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import survcore
from survcore import _library

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
    assert set(record) == {"version", "compiler", "system", "oldest_torch", "cuda", "cuda_architectures"}
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


def test_op_without_cuda_kernel_is_served_by_its_reference() -> None:
    import survcore.ops  # noqa: F401

    assert _library.kernel_source("low_rank_decompose", "CUDA") == "reference"
    assert _library.kernel_source("low_rank_decompose_backward", "CUDA") == "reference"
    if torch.version.cuda is None:
        assert not _library.cuda_loaded
