"""Run the ops' CPU tests on kernels with the address and undefined-behaviour sanitizers: `make sanitize`.

The sanitized library goes into a copy of the package under build/ and its run-time library is preloaded: an
access beside a tensor's memory, or undefined arithmetic, ends the test's process with a report and the check
with an error. The accuracy tests run at every instruction set that this machine has, the bad calls (which
bring the odd strides and sizes) at the best, or at every one with ``--all``; ``--reduced``: two bytes a
number, at the best instruction set only. Before anything, a write behind a tensor's end is planted in a
library of its own and must be found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from native import CHECK, ROOT, build, has_compiler, run

BUILD = ROOT / "build" / "sanitize"
TREE = BUILD / "tree"
"""What the tests need, with the sanitized library in the place of the usual one."""
LEVELS = ("baseline", "avx2", "avx512", "avx512bf16")
ACCURACY = "accuracy and cpu and not less_capable and not 70000 and not slow"
TWO_BYTES = "bf16 or bfloat16"
"""On the lower instruction sets: the dtype whose conversions they do differently."""
OPTIONS = {
    # max_allocation_size_mb: a bad call may ask for anything and must get an exception
    "ASAN_OPTIONS": "detect_leaks=0:exitcode=99:allocator_may_return_null=1:max_allocation_size_mb=3000",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=99",
}
REPORTS = ("ERROR: AddressSanitizer", "runtime error: ")
PLANTED = """
extern "C" void plant(float* data, long count) { data[count] = 1.0f; }
"""
PLANT = """
import ctypes, sys, torch
t = torch.zeros(1000)
ctypes.CDLL(sys.argv[1]).plant(ctypes.c_void_p(t.data_ptr()), ctypes.c_long(t.numel()))
"""


def environment(**more: str) -> dict[str, str]:
    """Preload the sanitizer, and the C++ library whose exceptions it watches."""
    libraries = [run("g++", f"-print-file-name={name}").strip() for name in ("libasan.so", "libstdc++.so.6")]
    missing = [path for path in libraries if not Path(path).is_absolute()]
    if missing:
        sys.exit(f"{CHECK}: want gcc's {' and '.join(missing)}, got none")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PAVDIT_")}
    asked = {"LD_PRELOAD": ":".join(libraries), "OMP_NUM_THREADS": "1", "PAVDIT_REQUIRE_KERNELS": "cpu"}
    return kept | OPTIONS | asked | {"PYTHONPATH": str(TREE)} | more


def python(*arguments: str | Path, **more: str) -> tuple[int, str]:
    """Run Python in the copy with the sanitizers; return its code and what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=TREE,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def copy_tree() -> None:
    """Make the copy anew."""
    shutil.rmtree(TREE, ignore_errors=True)
    skip = shutil.ignore_patterns("*.so", "__pycache__", "weights")
    for folder in ("pavdit", "tests", "tools", "benchmarks"):
        shutil.copytree(ROOT / folder, TREE / folder, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", TREE)
    shutil.copy(BUILD / "_ops_cpu.so", TREE / "pavdit")


def check_plant() -> None:
    """End where a write behind the end of a tensor goes unseen: then the rest would prove nothing."""
    source, library = BUILD / "plant.cpp", BUILD / "plant.so"
    source.write_text(PLANTED)
    run("g++", "-shared", "-fPIC", "-O1", "-fsanitize=address,undefined", source, "-o", library)
    code, words = python("-c", PLANT, library)
    if code != 99 or REPORTS[0] not in words:
        sys.exit(f"{words[-2000:]}\n{CHECK}: want the planted write to be found, got exit code {code}")


def levels() -> list[str]:
    """The instruction sets that this machine has."""
    code = "from pavdit._C import cpu_capability as c; print(c())"
    best = run(sys.executable, "-c", code).strip()
    return list(LEVELS[: LEVELS.index(best) + 1])


def check(level: str, *selection: str | Path) -> None:
    """Run tests at one instruction set; end where one fails or a sanitizer speaks."""
    begin = time.perf_counter()
    # --capture=sys: a process that a sanitizer ends keeps what pytest holds back of its standard error
    command = ["-m", "pytest", "-q", "-x", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    code, words = python(*command, *selection, PAVDIT_CPU_CAPABILITY=level)
    if code or any(report in words for report in REPORTS):
        sys.exit(f"{words[-8000:]}\n{CHECK}: {level}: want no failure and no report, got exit code {code}")
    print(
        f"{CHECK}: {level}: {words.strip().splitlines()[-1]} ({time.perf_counter() - begin:.0f} s)",
        flush=True,
    )


def main() -> None:
    """Build, plant, then test."""
    if not has_compiler():
        print(f"{CHECK}: skipped: no C++ compiler on PATH")
        return
    begin = time.perf_counter()
    build(BUILD, PAVDIT_WITH_CUDA="OFF", PAVDIT_SANITIZE="ON")
    copy_tree()
    check_plant()
    print(f"{CHECK}: built, a planted write is found ({time.perf_counter() - begin:.0f} s)", flush=True)
    every = levels()
    if "--reduced" in sys.argv[1:]:
        every = every[-1:]
    for level in every:
        whole = level == every[-1] and len(every) > 1
        check(level, "-k", ACCURACY if whole else f"{ACCURACY} and ({TWO_BYTES})", "tests/ops")
    for level in every if "--all" in sys.argv[1:] else every[-1:]:
        check(level, "-k", "not triton", "tests/ops/test_bad_calls.py")
    print(f"{CHECK}: nothing found ({time.perf_counter() - begin:.0f} s)")


if __name__ == "__main__":
    main()
