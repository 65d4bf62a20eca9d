r"""Builds the CUDA ops for the host and lets them serve the ops of `pavdit` on CPU tensors.

``csrc/cuda`` and ``csrc/ops_cuda`` are compiled by g++ against the headers in ``include/``; an object is kept
in ``build/emulator`` until one of its sources changes. PAVDIT_EMULATOR_FLAGS adds flags; to find accesses
beyond a tensor::

    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0,verify_asan_link_order=0 \
    PAVDIT_EMULATOR_FLAGS="-fsanitize=address,undefined -g" python -m pytest -s tests/emulator
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import pavdit.ops  # noqa: F401  the schemas
from pavdit.ops import _library

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "emulator"
TORCH = Path(torch.__file__).parent
PLACES = (HERE / "include", HERE, ROOT / "csrc", ROOT / "csrc" / "include")
MORE_FLAGS = os.environ.get("PAVDIT_EMULATOR_FLAGS", "").split()
FLAGS = [
    *("-std=c++17", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas"),
    *("-march=native", "-ffp-contract=fast"),  # fused multiply-add, as nvcc makes it
    *("-DUSE_CUDA", "-DPAVDIT_EMULATOR", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
    *(f"-I{path}" for path in PLACES),
    *("-isystem", str(TORCH / "include")),
    *MORE_FLAGS,
]


def why_not() -> str:
    """What this machine lacks, or an empty string."""
    if shutil.which("g++") is None:
        return "no g++"
    return "" if platform.machine() == "x86_64" else "the emulator's fibers are written for x86-64"


@functools.cache
def text_with_headers(path: Path) -> bytes:
    """A source and all of our headers that it needs."""
    text = path.read_bytes()
    for name in re.findall(rb'^#include ["<]([^">]+)[">]', text, re.MULTILINE):
        header = next((p for p in (place / name.decode() for place in PLACES) if p.is_file()), None)
        text += text_with_headers(header) if header and header != path else b""
    return text


def compile_object(source: Path) -> Path:
    """Compile one source, unless it was compiled before from the same text."""
    key = hashlib.sha256(text_with_headers(source) + " ".join(FLAGS).encode()).hexdigest()[:16]
    target = BUILD / f"{source.parent.name}-{source.stem}-{key}.o"
    if not target.is_file():
        for old in BUILD.glob(f"{source.parent.name}-{source.stem}-*.o"):
            old.unlink(missing_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        command = ["g++", *FLAGS, "-x", "c++", "-c", str(source), "-o", str(unfinished)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or done.stderr:
            pytest.fail(f"{source.name} for the emulator:\n{done.stderr[:6000]}", pytrace=False)
        unfinished.rename(target)
    return target


def build(sources: list[Path]) -> Path:
    """Compile and link sources with the emulator."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_object, [HERE / "emulator.cpp", *sources]))
    key = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    library = BUILD / f"{sources[0].stem}-{key}.so"
    if not library.is_file():
        for old in BUILD.glob(f"{sources[0].stem}-*.so"):
            old.unlink(missing_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        link = ["g++", "-shared", *MORE_FLAGS, *map(str, objects), f"-L{TORCH / 'lib'}", "-ltorch_cpu"]
        subprocess.run([*link, "-o", str(unfinished)], check=True)
        unfinished.rename(library)
    return library


def cuda_ops() -> tuple[str, ...]:
    """The ops that CMake builds for CUDA."""
    text = (ROOT / "CMakeLists.txt").read_text()
    return tuple(re.search(r"set\(PAVDIT_CUDA_OPS\s([^)]*)\)", text)[1].split())


@functools.cache
def library() -> ctypes.CDLL:
    """Every op of CMake's list; `emulator_launches()` counts what its kernels did."""
    csrc = ROOT / "csrc"
    sources = [csrc / folder for op in cuda_ops() for folder in (f"cuda/{op}.cu", f"ops_cuda/{op}.cpp")]
    return ctypes.CDLL(str(build(sources)))


@functools.cache
def load() -> frozenset[str]:
    """Build everything, register it as `pavdit_emulated::<op>` and return the names, forward and backward."""
    for name in torch._C._dispatch_get_all_op_names():
        op, _, overload = name.removeprefix("pavdit::").partition(".")
        if name.startswith("pavdit::") and not overload:
            schema = str(getattr(torch.ops.pavdit, op).default._schema)
            torch.library.define(f"pavdit_emulated::{op}", schema[schema.index("(") :])
    library()
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    return frozenset(n.partition("::")[2] for n in names if n.startswith("pavdit_emulated::"))


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """Inside, CPU tensors take the emulated CUDA kernels of every op that has them."""
    names = load()
    overrides = torch.library.Library("pavdit", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is overridden is the point
        for name in names:
            overrides.impl(name, getattr(torch.ops.pavdit_emulated, name).default, "CPU", allow_override=True)
    before = _library._native["cpu"]
    _library._native["cpu"] = before | names
    try:
        yield
    finally:
        _library._native["cpu"] = before
        overrides._destroy()
