"""Check the native code without running it: `make kernels-check`.

1. The CUDA library compiles for every architecture with spills, local memory and warnings as errors; the
   table shows registers and static shared memory of every kernel.
2. The op libraries need no C++ symbol of torch (only its stable C functions), nothing of Python, and carry no
   search path.
3. Every CPU object that is compiled for one instruction set exports one symbol, so that the linker cannot
   take AVX-512 code for the baseline.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "kernels-check"
UNSTABLE = re.compile(r"(at|c10|torch|caffe2)::|_?Py[A-Z_]")
ALLOWED_IN_KERNELS = {"memset", "memcpy", "_GLOBAL_OFFSET_TABLE_"}


def run(*command: str | Path) -> str:
    """Run a command and return what it printed; end with all of it where it fails."""
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nkernels-check: {command[0]} failed with code {done.returncode}")
    return done.stdout


def tool(name: str) -> str:
    """Find a program beside this Python or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        sys.exit(f"kernels-check: want {name} beside {sys.executable} or on PATH, got none")
    return found


def build(with_cuda: bool) -> str:
    """Compile everything anew and return the compilers' words."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        sys.exit("kernels-check: want torch installed, got none")
    cmake = tool("cmake")
    settings = {
        "CMAKE_MAKE_PROGRAM": tool("ninja"),
        "PAVDIT_TORCH_DIR": str(Path(torch.origin).parent),
        "PAVDIT_WITH_CUDA": "ON" if with_cuda else "OFF",
        "PAVDIT_STRICT": "ON",
        "PAVDIT_PYTHON_MODULE": "OFF",
    }
    run(
        cmake,
        "-S",
        ROOT,
        "-B",
        BUILD,
        "-G",
        "Ninja",
        *(f"-D{name}={value}" for name, value in settings.items()),
    )
    return run(cmake, "--build", BUILD, "--clean-first")


def kernel_name(mangled: str) -> str:
    """Shorten to the kernel and its template arguments."""
    full = run("c++filt", mangled).strip()
    name = re.sub(r"^void |pavdit::cuda::|\(anonymous namespace\)::|__|\(int\)", "", full)
    return re.sub(r">\(.*", ">", name)


def resource_table(log: str) -> None:
    """Print registers and shared memory per kernel and architecture; end where a kernel uses local memory."""
    registers: dict[str, dict[str, int]] = defaultdict(dict)
    shared: dict[str, int] = {}
    faults = []
    name = arch = stack = ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            name, arch = match[1], match[2]
        elif "bytes stack frame" in line:
            stack = line.strip()
        elif match := re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", line):
            registers[name][arch] = int(match[1])
            shared[name] = int(match[2] or 0)
            if not stack.startswith("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"):
                faults.append(f"{kernel_name(name)} on {arch}: {stack}")
    archs = sorted({arch for by_arch in registers.values() for arch in by_arch})
    if not archs:
        sys.exit("kernels-check: want resource lines of ptxas in the build's output, got none")
    table = sorted((kernel_name(n), *(by.get(a, 0) for a in archs), shared[n]) for n, by in registers.items())
    width = max(len(row[0]) for row in table)
    print("registers".ljust(width), *(a.rjust(8) for a in archs), "shared B")
    for kernel, *numbers in table:
        print(kernel.ljust(width), *(str(n).rjust(8) for n in numbers))
    if faults:
        sys.exit("kernels-check: want no local memory, got\n" + "\n".join(faults))
    print(f"{len(table)} kernels x {len(archs)} architectures: no spill, no local memory")


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
    if not shutil.which("c++") and not shutil.which("g++"):
        print("kernels-check: skipped: no C++ compiler on PATH")
        return
    with_cuda = shutil.which("nvcc") is not None
    log = build(with_cuda)
    check_objects()
    for library in sorted(BUILD.glob("_ops_*.so")):
        check_abi(library)
    if with_cuda:
        resource_table(log)
    else:
        print("kernels-check: CUDA kernels skipped: no nvcc on PATH")


if __name__ == "__main__":
    main()
