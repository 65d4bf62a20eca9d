"""setuptools front end of the CMake build; the metadata stands in pyproject.toml.

Environment: PAVDIT_NATIVE=AUTO|OFF, PAVDIT_WITH_CUDA=AUTO|ON|OFF, PAVDIT_CUDA_ARCHS (CMake's form),
PAVDIT_TORCH_DIR, CXX, CUDACXX, MAX_JOBS. With PAVDIT_NATIVE=OFF, without a C++ compiler, or without torch at
build time, the package installs with its PyTorch references alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
FIND_TORCH = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')"


def find_torch() -> Path | None:
    """Find the directory of the torch package without importing it.

    In order: PAVDIT_TORCH_DIR; this interpreter; the same one run with ``-I``, because pip isolates a build
    through PYTHONPATH, which ``-I`` ignores; the active virtual environment; python3 on PATH.
    """
    if named := os.environ.get("PAVDIT_TORCH_DIR"):
        return Path(named)
    here = importlib.util.find_spec("torch")
    if here and here.origin:
        return Path(here.origin).parent
    venv = os.environ.get("VIRTUAL_ENV")
    pythons = [sys.executable, str(Path(venv, "bin", "python")) if venv else None, shutil.which("python3")]
    for python in filter(None, pythons):
        try:
            command = [python, "-I", "-c", FIND_TORCH]
            found = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if found.stdout.strip():
            return Path(found.stdout.strip()).parent
    return None


def torch_version(torch_dir: Path) -> str:
    """Read the version from the package's version.py."""
    match = re.search(r"__version__ = ['\"]([^'\"]+)", (torch_dir / "version.py").read_text())
    return match.group(1) if match else "unknown"


def tool(name: str, module: str, directory: str) -> str | None:
    """Find cmake or ninja: the Python package's own binary before the one on PATH, which may be too old."""
    if importlib.util.find_spec(module):
        path = Path(getattr(importlib.import_module(module), directory, ""), name)
        if path.is_file():
            return str(path)
    return shutil.which(name)


def missing() -> str | None:
    """Say what the native build lacks on this machine, if anything."""
    if os.environ.get("PAVDIT_NATIVE") == "OFF":
        return "PAVDIT_NATIVE is OFF"
    if not any(shutil.which(os.environ.get("CXX", name)) for name in ("c++", "g++", "clang++")):
        return "no C++ compiler was found (looked for CXX, c++, g++, clang++)"
    if not tool("cmake", "cmake", "CMAKE_BIN_DIR"):
        return "cmake was not found"
    if find_torch() is None:
        return "torch was not found at build time (install it first, or set PAVDIT_TORCH_DIR)"
    return None


class CMakeBuild(build_ext):
    """Configure, build and install csrc/ into the package."""

    def run(self) -> None:
        """Build the three libraries, or say once why they are left out."""
        if lack := missing():
            print(
                f"WARNING: pavdit: {lack}; every op will run its PyTorch reference, which is slower",
                file=sys.stderr,
                flush=True,
            )
            self.extensions = []
            return
        # One build directory per Python, kept, so that a second install compiles only what changed.
        build = ROOT / "build" / f"native-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
        package = Path(self.get_ext_fullpath("pavdit._C")).parent.resolve()
        for command in self.commands(build, package.parent):
            print("+", *command, flush=True)
            subprocess.run(command, check=True)

    def commands(self, build: Path, prefix: Path) -> list[list[str]]:
        """Return the three cmake calls."""
        torch_dir = find_torch()
        cmake, ninja = tool("cmake", "cmake", "CMAKE_BIN_DIR"), tool("ninja", "ninja", "BIN_DIR")
        if torch_dir is None or cmake is None:
            raise RuntimeError("pavdit: want torch and cmake, got none")
        pybind11 = importlib.import_module("pybind11")
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "PAVDIT_TORCH_DIR": str(torch_dir),
            "PAVDIT_TORCH_VERSION": torch_version(torch_dir),
            "PAVDIT_WITH_CUDA": os.environ.get("PAVDIT_WITH_CUDA", "AUTO"),
        }
        if archs := os.environ.get("PAVDIT_CUDA_ARCHS"):
            settings["PAVDIT_CUDA_ARCHS"] = archs
        if ninja:  # named every time: the cache may hold the one of a build environment that is gone
            settings["CMAKE_MAKE_PROGRAM"] = ninja
        configure = [cmake, "-S", str(ROOT), "-B", str(build), *(["-G", "Ninja"] if ninja else [])]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        return [
            [*configure, *(f"-D{name}={value}" for name, value in settings.items())],
            [cmake, "--build", str(build), "-j", jobs],
            [cmake, "--install", str(build), "--prefix", str(prefix)],
        ]

    def get_outputs(self) -> list[str]:
        """List the built libraries for the wheel."""
        package = Path(self.get_ext_fullpath("pavdit._C")).parent
        return [str(path) for path in sorted(package.glob("_*.so"))]

    def copy_extensions_to_source(self) -> None:
        """Put the libraries beside the sources, for an editable install."""
        for library in self.get_outputs():
            if Path(library).parent.resolve() != ROOT / "pavdit":
                shutil.copy2(library, ROOT / "pavdit")


setup(
    packages=[*find_packages(ROOT, include=["pavdit", "pavdit.*"]), "pavdit.kernels"],
    package_dir={"pavdit.kernels": "kernels"},
    ext_modules=[Extension("pavdit._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
