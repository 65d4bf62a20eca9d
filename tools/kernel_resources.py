"""What every CUDA kernel needs of a multiprocessor, as ptxas says it, beside what is committed.

The committed table stands in `csrc/cuda/resources.txt` and is written by `make kernels-check UPDATE=1`. It
holds for one version of nvcc; another one allocates other registers and is not compared.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

NO_LOCAL_MEMORY = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
FIRST = "# Registers/bytes of static shared memory, by nvcc "

Table = dict[str, dict[str, tuple[int, int]]]
"""Kernel, architecture: registers per thread, bytes of static shared memory."""


def kernel_names(mangled: Iterable[str]) -> dict[str, str]:
    """Shorten each to the kernel and its template arguments."""
    given = list(mangled)
    full = subprocess.run(["c++filt"], input="\n".join(given), capture_output=True, text=True, check=True)
    names = {}
    for symbol, name in zip(given, full.stdout.splitlines(), strict=True):
        name = re.sub(r"^void |pavdit::cuda::|\(anonymous namespace\)::|__|\((int|bool)\)", "", name)
        names[symbol] = re.sub(r">\(.*", ">", name) if ">(" in name else name.partition("(")[0]
    return names


def read_log(log: str) -> tuple[Table, list[str]]:
    """Return the table of a build with ``-Xptxas=-v``, and what uses local memory."""
    found: list[tuple[str, str, int, int, str]] = []
    symbol = arch = stack = ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            symbol, arch = match[1], match[2]
        elif "bytes stack frame" in line:
            stack = line.strip()
        elif match := re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", line):
            found.append((symbol, arch, int(match[1]), int(match[2] or 0), stack))
    names = kernel_names(dict.fromkeys(row[0] for row in found))
    table: Table = {}
    faults = []
    for symbol, arch, registers, shared, stack in found:
        by_arch = table.setdefault(names[symbol], {})
        other = by_arch.get(arch, (0, 0))  # two files may instantiate one kernel of a shared header
        by_arch[arch] = (max(registers, other[0]), max(shared, other[1]))
        if not stack.startswith(NO_LOCAL_MEMORY):
            faults.append(f"{names[symbol]} on {arch}: {stack}")
    return table, faults


def to_text(table: Table, version: str) -> str:
    """The committed form: a line per kernel, a column per architecture."""
    archs = sorted({arch for by_arch in table.values() for arch in by_arch})
    width = max(map(len, table))
    rows = [
        "  ".join(
            [
                name.ljust(width),
                *("{}/{}".format(*by[a]).rjust(10) if a in by else "-".rjust(10) for a in archs),
            ]
        )
        for name, by in sorted(table.items())
    ]
    head = "  ".join(["kernel".ljust(width), *(arch.rjust(10) for arch in archs)])
    return "\n".join([FIRST + version, head, *rows]) + "\n"


def of_text(text: str) -> tuple[Table, str]:
    """Read it again: the table and the version of nvcc."""
    first, head, *rows = text.splitlines()
    if not first.startswith(FIRST):
        raise ValueError(f"kernel resources: want a first line '{FIRST}<version>', got '{first}'")
    archs = head.split()[1:]
    table: Table = {}
    for row in rows:
        name, *cells = re.split(r"\s{2,}", row.strip())
        pairs = {a: cell.split("/") for a, cell in zip(archs, cells, strict=True) if cell != "-"}
        table[name] = {a: (int(registers), int(shared)) for a, (registers, shared) in pairs.items()}
    return table, first.removeprefix(FIRST)


def differences(table: Table, committed: Table) -> list[str]:
    """What is new, gone, or needs more than before."""
    lines = [f"new: {name}" for name in sorted(table.keys() - committed.keys())]
    lines += [f"gone: {name}" for name in sorted(committed.keys() - table.keys())]
    for name in sorted(table.keys() & committed.keys()):
        now, before = table[name], committed[name]
        for arch in sorted(now.keys() | before.keys()):
            if arch not in now or arch not in before:
                lines.append(f"{'gone' if arch in before else 'new'}: {name} on {arch}")
            elif any(n > b for n, b in zip(now[arch], before[arch], strict=True)):
                words = ["{}/{}".format(*pair) for pair in (before[arch], now[arch])]
                lines.append(f"more: {name} on {arch}: want at most {words[0]}, got {words[1]}")
    return lines


def compare(table: Table, version: str, path: Path) -> list[str]:
    """Differences from the committed table, if it is of this nvcc; says what was compared."""
    if not path.is_file():
        return [f"{path.name}: want the committed table, got none: make kernels-check UPDATE=1"]
    committed, its_version = of_text(path.read_text())
    if version != its_version:
        print(f"kernels-check: {path.name} is of nvcc {its_version} and not compared with nvcc {version}")
        return []
    lines = differences(table, committed)
    fewer = (
        sum(table[name] != committed[name] for name in table.keys() & committed.keys()) if not lines else 0
    )
    if fewer:
        print(f"kernels-check: {fewer} kernels need less than {path.name} says: make kernels-check UPDATE=1")
    return lines
