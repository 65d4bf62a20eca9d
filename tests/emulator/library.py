"""Builds the CUDA ops for the host and lets them serve the ops of `pavdit` on CPU tensors.

``csrc/cuda`` and ``csrc/ops_cuda`` are compiled by g++ against the headers in ``include/``; an object is kept
in ``build/emulator`` until one of the sources changes. PAVDIT_EMULATOR_FLAGS adds flags, such as
``-fsanitize=address,undefined`` (then preload the compiler's libasan and set ASAN_OPTIONS=detect_leaks=0).
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
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
FLAGS = [
    *("-std=c++17", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-ffp-contract=fast"),
    *("-DUSE_CUDA", "-DPAVDIT_EMULATOR", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
    *(f"-I{path}" for path in (HERE / "include", ROOT / "csrc", ROOT / "csrc" / "include")),
    *("-isystem", str(TORCH / "include")),
    *os.environ.get("PAVDIT_EMULATOR_FLAGS", "").split(),
]


def why_not() -> str:
    """What this machine lacks, or an empty string."""
    if shutil.which("g++") is None:
        return "no g++"
    return "" if platform.machine() == "x86_64" else "the emulator's fibers are written for x86-64"


def compile_object(source: Path, headers: bytes) -> Path:
    """Compile one source, unless it was compiled before from the same text."""
    key = hashlib.sha256(headers + source.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    target = BUILD / f"{source.parent.name}-{source.stem}-{key}.o"
    if not target.is_file():
        for old in BUILD.glob(f"{source.parent.name}-{source.stem}-*.o"):
            old.unlink()
        unfinished = target.with_suffix(f".{os.getpid()}")
        command = ["g++", *FLAGS, "-x", "c++", "-c", str(source), "-o", str(unfinished)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or done.stderr:
            pytest.fail(f"{source.name} for the emulator:\n{done.stderr[:6000]}", pytrace=False)
        unfinished.rename(target)
    return target


def build(ops: tuple[str, ...]) -> Path:
    """Compile and link the emulated ops."""
    BUILD.mkdir(parents=True, exist_ok=True)
    places = (ROOT / "csrc", ROOT / "csrc" / "include", HERE, HERE / "include")
    headers = b"".join(p.read_bytes() for place in places for p in sorted(place.glob("*.*h")))
    sources = [HERE / "emulator.cpp"]
    for op in ops:
        sources += [ROOT / "csrc" / "cuda" / f"{op}.cu", ROOT / "csrc" / "ops_cuda" / f"{op}.cpp"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: compile_object(source, headers), sources))
    key = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    library = BUILD / f"emulated-{key}.so"
    if not library.is_file():
        link = ["g++", "-shared", *os.environ.get("PAVDIT_EMULATOR_FLAGS", "").split(), *map(str, objects)]
        subprocess.run([*link, f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-o", str(library)], check=True)
    return library


def cuda_ops() -> tuple[str, ...]:
    """The ops that CMake builds for CUDA."""
    text = (ROOT / "CMakeLists.txt").read_text()
    return tuple(re.search(r"set\(PAVDIT_CUDA_OPS ([^)]*)\)", text)[1].split())


@functools.cache
def load() -> frozenset[str]:
    """Build everything, register it as `pavdit_emulated::<op>` and return the names, forward and backward."""
    for name in torch._C._dispatch_get_all_op_names():
        op, _, overload = name.removeprefix("pavdit::").partition(".")
        if name.startswith("pavdit::") and not overload:
            schema = str(getattr(torch.ops.pavdit, op).default._schema)
            torch.library.define(f"pavdit_emulated::{op}", schema[schema.index("(") :])
    torch.ops.load_library(str(build(cuda_ops())))
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    return frozenset(n.partition("::")[2] for n in names if n.startswith("pavdit_emulated::"))


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """Inside, CPU tensors take the emulated CUDA kernels of every op that has them."""
    names = load()
    library = torch.library.Library("pavdit", "IMPL")
    for name in names:
        kernel = getattr(torch.ops.pavdit_emulated, name).default
        library.impl(name, kernel, "CPU", allow_override=True)
    before = _library._native["cpu"]
    _library._native["cpu"] = before | names
    try:
        yield
    finally:
        _library._native["cpu"] = before
        library._destroy()
