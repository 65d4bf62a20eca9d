"""Check the native code without running it: `make kernels-check [UPDATE=1]`.

1. The CUDA library compiles for every architecture with spills, local memory and warnings as errors; the
   table of registers and static shared memory of every kernel is compared with the committed one.
2. The op libraries need no C++ symbol of torch (only its stable C functions), nothing of Python, and carry no
   search path.
3. Every CPU object that is compiled for one instruction set exports one symbol, so that the linker cannot
   take AVX-512 code for the baseline.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

from kernel_resources import compare, read_log, to_text
from native import ROOT, build, has_compiler, run

BUILD = ROOT / "build" / "kernels-check"
RESOURCES = ROOT / "csrc" / "cuda" / "resources.txt"
CUDA_MB = 24
COLD_SECONDS = 360
UNSTABLE = re.compile(r"(at|c10|torch|caffe2)::|_?Py[A-Z_]")
ALLOWED_IN_KERNELS = {"memset", "memcpy", "_GLOBAL_OFFSET_TABLE_"}


def nvcc_version() -> str:
    """Ask the compiler that CMake took."""
    cache = (BUILD / "CMakeCache.txt").read_text()
    path = re.search(r"^CMAKE_CUDA_COMPILER:\w+=(.+)$", cache, re.MULTILINE)
    found = re.search(r"V([\d.]+)", run(path[1] if path else "nvcc", "--version"))
    return found[1] if found else "unknown"


def check_resources(log: str, update: bool) -> None:
    """Print registers and shared memory of every kernel; end where one needs more than is committed."""
    table, faults = read_log(log)
    if not table:
        sys.exit("kernels-check: want resource lines of ptxas in the build's output, got none")
    text = to_text(table, version := nvcc_version())
    print(text, end="")
    if faults:
        sys.exit("kernels-check: want no local memory, got\n" + "\n".join(faults))
    print(f"{len(table)} kernels: no spill, no local memory")
    if update:
        RESOURCES.write_text(text)
    if lines := compare(table, version, RESOURCES):
        sys.exit(
            "\n".join([*lines, f"kernels-check: want what {RESOURCES.relative_to(ROOT)} says, got the above"])
        )


def check_size(library: Path) -> None:
    """Fail where the CUDA library outgrows what we ship."""
    size = library.stat().st_size / 1e6
    if size > CUDA_MB:
        sys.exit(f"kernels-check: want {library.name} <= {CUDA_MB} MB, got {size:.1f} MB")
    print(f"{library.name}: {size:.1f} MB of at most {CUDA_MB} MB")


def check_abi(library: Path) -> None:
    """Fail where a library needs more of torch than its stable C functions."""
    needed = [
        line.split(maxsplit=1)[1] for line in run("nm", "-DC", "--undefined-only", library).splitlines()
    ]
    if unstable := [symbol for symbol in needed if UNSTABLE.match(symbol)]:
        sys.exit(
            f"kernels-check: {library.name}: want stable symbols of torch only, got {', '.join(unstable)}"
        )
    dynamic = run("readelf", "-d", library)
    if "RPATH" in dynamic or "RUNPATH" in dynamic:
        sys.exit(f"kernels-check: {library.name}: want no search path of the build machine, got one")
    stable = sum(symbol.startswith(("aoti_torch", "torch_")) for symbol in needed)
    print(f"{library.name}: {stable} stable symbols of torch, no other")


def check_objects() -> None:
    """Fail where an object for one instruction set could leak code into another."""
    objects = sorted(BUILD.glob("CMakeFiles/kernels_*.dir/csrc/cpu/*.o"))
    for path in objects:
        symbols = [line.split()[-2:] for line in run("nm", path).splitlines()]
        exported = [name for kind, name in symbols if kind.isupper() and kind != "U"]
        undefined = {name for kind, name in symbols if kind == "U"} - ALLOWED_IN_KERNELS
        if len(exported) != 1 or undefined:
            sys.exit(
                f"kernels-check: {path.parents[2].name}/{path.name}: want one exported symbol and no foreign "
                f"code, got {exported} and {sorted(undefined)}"
            )
    print(f"{len(objects)} objects for one instruction set: one exported symbol each")


def main() -> None:
    """Run all checks that this machine's tools allow."""
    if not has_compiler():
        print("kernels-check: skipped: no C++ compiler on PATH")
        return
    begin = time.perf_counter()
    with_cuda = shutil.which("nvcc") is not None
    log = build(BUILD, "--clean-first", PAVDIT_WITH_CUDA="ON" if with_cuda else "OFF", PAVDIT_STRICT="ON")
    check_objects()
    for library in sorted(BUILD.glob("_ops_*.so")):
        check_abi(library)
    if with_cuda:
        check_size(BUILD / "_ops_cuda.so")
        check_resources(log, update="--update" in sys.argv[1:])
    else:
        print("kernels-check: CUDA kernels skipped: no nvcc on PATH")
    seconds = time.perf_counter() - begin
    print(f"kernels-check: {seconds:.0f} s, everything built anew; want {COLD_SECONDS} s at most")


if __name__ == "__main__":
    main()
