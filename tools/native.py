"""What the checks of the native code share: run a program, find one, build with CMake."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECK = Path(sys.argv[0]).stem.replace("_", "-")
"""How messages begin."""


def run(*command: str | Path) -> str:
    """Run a command and return what it printed; end with all of it where it fails."""
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{CHECK}: {command[0]} failed with code {done.returncode}")
    return done.stdout


def tool(name: str) -> str:
    """Find a program beside this Python or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        sys.exit(f"{CHECK}: want {name} beside {sys.executable} or on PATH, got none")
    return found


def has_compiler() -> bool:
    """Say whether there is a C++ compiler."""
    return bool(shutil.which("c++") or shutil.which("g++"))


def build(folder: Path, *options: str, **settings: str) -> str:
    """Configure and build the libraries in a folder of their own; return the compilers' words."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        sys.exit(f"{CHECK}: want torch installed, got none")
    cmake = tool("cmake")
    given = {
        "CMAKE_MAKE_PROGRAM": tool("ninja"),
        "PAVDIT_TORCH_DIR": str(Path(torch.origin).parent),
        "PAVDIT_PYTHON_MODULE": "OFF",
        **settings,
    }
    definitions = [f"-D{name}={value}" for name, value in given.items()]
    run(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *definitions)
    return run(cmake, "--build", folder, *options)
