"""Load the native libraries and Triton, once, and say what is missing and why.

Environment, read at import:

- ``PAVDIT_KERNELS=auto|reference``: ``reference`` loads no library, so every op runs in plain PyTorch.
- ``PAVDIT_REQUIRE_KERNELS=cpu|cuda`` (or both, with a comma): a library that cannot be used is an error, not
  a fallback. For tests, where a silent fallback would pass.
- ``TRITON_INTERPRET=1`` (Triton's own): Triton kernels run on the CPU, slowly. For tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import torch

DEVICES = ("cpu", "cuda")


def _words(variable: str, allowed: tuple[str, ...], default: str) -> frozenset[str]:
    words = frozenset(os.environ.get(variable, default).replace(",", " ").split())
    if unknown := words - set(allowed):
        raise ValueError(f"{variable}: want {' or '.join(allowed)}, got {' '.join(sorted(unknown))}")
    return words


def _load(device: str) -> str:
    """Load the library for `device`; return why it is not there, or an empty string."""
    path = Path(__file__).parents[1] / f"_ops_{device}.so"
    if USE_REFERENCE:
        return "PAVDIT_KERNELS=reference"
    if device == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not path.is_file():
        without = "nvcc" if device == "cuda" else "a C++ compiler"
        return f"{path.name} is missing: pavdit was installed without {without}"
    try:
        torch.ops.load_library(str(path))
    except OSError as fault:
        return f"{path.name} does not load: {fault.__cause__ or fault}"
    return ""


def _load_triton(device: str) -> str:
    """Import Triton where its kernels can run on `device`; return why they cannot, or an empty string."""
    if USE_REFERENCE:
        return "PAVDIT_KERNELS=reference"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "its kernel is written in Triton, for CUDA"
    if device == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        importlib.import_module("triton")
        _find_triton_kernels()
    except ImportError as fault:
        return f"Triton kernels do not import: {fault}"
    return ""


def _find_triton_kernels() -> None:
    """Import ``pavdit.kernels``; in a source tree that is not installed it lies beside the package."""
    if importlib.util.find_spec("pavdit.kernels") is None:
        path = Path(__file__).parents[2] / "kernels" / "__init__.py"
        spec = importlib.util.spec_from_file_location("pavdit.kernels", path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ImportError(f"no pavdit.kernels, and {path} is missing")
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])


def _check_required() -> None:
    for device in sorted(_required):
        why_not = MISSING[device] or (TRITON_MISSING[device] if device == "cuda" else "")
        if not why_not and device == "cuda" and not torch.cuda.is_available():
            why_not = "torch finds no CUDA device"
        if why_not:
            raise RuntimeError(
                f"PAVDIT_REQUIRE_KERNELS={device}: want the native library, got none: {why_not}"
            )


USE_REFERENCE = "reference" in _words("PAVDIT_KERNELS", ("auto", "reference"), "auto")
_required = _words("PAVDIT_REQUIRE_KERNELS", DEVICES, "")
MISSING = {device: _load(device) for device in DEVICES}
"""Why the C++ and CUDA kernels of a device are not there, or an empty string."""
TRITON_MISSING = {device: _load_triton(device) for device in DEVICES}
"""Why Triton kernels do not run on a device, or an empty string."""
_check_required()
