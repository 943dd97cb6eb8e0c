"""Bridge from pip to CMake, nothing more: CMakeLists.txt defines the compiled targets, pyproject.toml the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError

ROOT = Path(__file__).resolve().parent


class CleanBuild(build):
    """Starts from an empty folder, since all that it holds is packed: also what an earlier build left there."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Configure, build and install all targets into the package folder (the source tree for ``pip install -e .``)."""

    def run(self):
        for tool in ("cmake", "ninja"):
            if shutil.which(tool) is None:
                raise ExecError(f"survcore: {tool} is needed to build and is not on PATH: pip install {tool}")
        build_folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        destination = ROOT if self.inplace else Path(self.build_lib).resolve()
        configure = [
            "cmake", "-S", ROOT, "-B", build_folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            # Paths of an isolated build environment change from build to build: always given, never left to the cache.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSURVCORE_CUDA={os.environ.get('SURVCORE_CUDA', 'auto')}",
            f"-DSURVCORE_VERSION={self.distribution.get_version()}",
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", build_folder], check=True)
        subprocess.run(["cmake", "--install", build_folder, "--prefix", destination], check=True)

    def get_outputs(self):
        return []  # setuptools would look for one file per Extension; CMake installs them


setup(
    packages=[*find_packages(include=["survcore", "survcore.*"]), "survcore.kernels", "survcore.benchmarks"],
    ext_modules=[Extension("survcore._C", sources=[])],  # marks the wheel as platform-specific
    cmdclass={"build": CleanBuild, "build_ext": CMakeBuild},
)
