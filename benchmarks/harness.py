"""Time an op against eager PyTorch and torch.compile, in interleaved rounds, behind the op's own tests.

A benchmark file lists its cases and calls `main`. Times are medians with the 10th and 90th percentile. On
CUDA the L2 cache is cold (it is overwritten before every call), and what takes less than 100 us is timed as
replays of a CUDA graph. On the CPU the inputs lie where the rounds before left them; one thread is timed by
the processor time it used, which other programs on the machine disturb less.

A row ends with the share that was reached of what bounds it: the bandwidth of a copy or the speed of a matrix
product in the row's dtype, both measured in the same run, whichever needs longer for its bytes and flops.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import torch

ROOT = Path(__file__).parents[1]
ROUNDS = 50
WARM_UPS = 5
ENOUGH_ROUNDS, ENOUGH_SECONDS = 11, 4.0
"""A row ends after ROUNDS, or after so many that took so long: slow calls vary less."""
GRAPH_BELOW_SECONDS = 100e-6
REPLAYS = 20
"""Calls in one CUDA graph: enough that the launch of the graph does not show."""

Call = Callable[[], object]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the first word of a row's dtype."""


@dataclass(frozen=True)
class Case:
    """One row: the same work done in several ways."""

    direction: str
    shape: str
    dtype: str
    calls: dict[str, Call]
    """`ours` and its peers."""
    moved_bytes: int
    """What must move between memory and processor, by the formula in the op's header file."""
    flops: int | None = None
    """Floating-point operations, by the same formula; None where memory bounds the op on every machine."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one way."""

    median_ms: float
    p10_ms: float
    p90_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        """Summarise the rounds."""
        tenths = quantiles(seconds, n=10, method="inclusive") if len(seconds) > 1 else seconds
        return cls(*(round(1e3 * value, 5) for value in (median(seconds), tenths[0], tenths[-1])))


def forward(op: Callable[..., object], *inputs: object) -> Call:
    """A call of an op without gradients."""

    def call() -> object:
        with torch.no_grad():
            return op(*inputs)

    return call


def forward_backward(
    op: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]],
    grads: Sequence[torch.Tensor],
    *inputs: torch.Tensor | None,
) -> Call:
    """A call of an op that also makes the gradients of all inputs, for these of what it returns."""
    leaves = [None if x is None else x.clone().requires_grad_() for x in inputs]
    wanted = [x for x in leaves if x is not None]

    def call() -> object:
        out = op(*leaves)
        return torch.autograd.grad([out] if isinstance(out, torch.Tensor) else out, wanted, grads)

    return call


def machine(device: str) -> str:
    """Name the device that does the work."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", facts.read_text()) if facts.is_file() else None
    return match[1] if match else platform.machine()


def header(device: str = "cuda") -> dict[str, object]:
    """Facts that every published number needs."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True)
    facts: dict[str, object] = {
        "machine": machine(device),
        "torch": torch.__version__,
        # a copy of the tree may lack its history, or have an older one; it is told
        "commit": os.environ.get("PAVDIT_COMMIT") or done.stdout.strip() or "unknown",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        has_tool = shutil.which(query[0]) is not None
        driver = (
            subprocess.run(query, capture_output=True, text=True).stdout.strip() if has_tool else "unknown"
        )
        facts |= {"cuda": torch.version.cuda, "driver": driver}
    return facts


def results_folder(device: str = "cuda") -> Path:
    """Return $OUT, or benchmarks/results/<machine>/."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", machine(device)).strip("-").lower()
    folder = (
        Path(os.environ["OUT"]).resolve() if os.environ.get("OUT") else ROOT / "benchmarks" / "results" / slug
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results_path(asked: Path | None, name: str, device: str) -> Path | None:
    """The file of --json; `-` is one of this name in the folder of results."""
    return results_folder(device) / f"{name}.json" if asked is not None and str(asked) == "-" else asked


def write(path: Path | None, facts: dict[str, object]) -> None:
    """Replace the file of results as a whole."""
    if path is not None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(facts, indent=1) + "\n")
        part.replace(path)


def gate(op: str, device: str) -> str:
    """Run the op's tests; end where one fails: no time is printed on red."""
    test = ROOT / "tests" / "ops" / f"test_{op}.py"
    environment = os.environ | {"PAVDIT_REQUIRE_KERNELS": device, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-k", device, "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\nbenchmark {op}: want its tests to pass, got the failures above")
    found = re.search(r"(\d+) passed", done.stdout)
    if not found:
        sys.exit(f"benchmark {op}: want tests that run on {device}, got none: {done.stdout.splitlines()[-1]}")
    return f"{found[1]} tests passed"


def copy_bandwidth(device: str) -> float:
    """Bytes per second of a copy, reads and writes counted, in this run."""
    source = torch.randn(
        2**28 if device == "cuda" else 2**24, device=device
    )  # 1 GiB, 64 MiB: beyond every cache
    target = torch.empty_like(source)
    seconds = measure({"copy": lambda: target.copy_(source)}, device)["copy"].median_ms / 1e3
    return 2 * source.nbytes / seconds


def matmul_speed(device: str, dtype: torch.dtype) -> float:
    """Flops per second of a matrix product in this run: on random data, for zeros are faster."""
    n = 8192 if device == "cuda" else 768
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / measure({"matmul": lambda: a @ b}, device)["matmul"].median_ms * 1e3


class Peaks:
    """What the machine reaches, measured when a row first asks for it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.copy = copy_bandwidth(device)
        self.matmul: dict[str, float] = {}

    def bound(self, case: Case) -> tuple[str, float]:
        """Return which limit bounds a case, and the seconds that it takes at that limit."""
        copy_seconds = case.moved_bytes / self.copy
        if case.flops is None:
            return "copy", copy_seconds
        word = case.dtype[:4]
        if word not in self.matmul:
            self.matmul[word] = matmul_speed(self.device, DTYPES[word])
        matmul_seconds = case.flops / self.matmul[word]
        return ("matmul", matmul_seconds) if matmul_seconds > copy_seconds else ("copy", copy_seconds)


def as_graph(call: Call) -> Call:
    """Capture REPLAYS calls; the graph's one launch stands for them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(REPLAYS):
            call()
    return graph.replay


def time_cuda(call: Call, flush: torch.Tensor) -> float:
    """Seconds on the device of one call with a cold L2 cache."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    flush.zero_()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def measure(calls: dict[str, Call], device: str, rounds: int = ROUNDS) -> dict[str, Times]:
    """Time all ways in interleaved rounds, so that a change of clocks or load meets all of them."""
    calls, parts = dict(calls), dict.fromkeys(calls, 1)
    flush = torch.empty(2**26 if device == "cuda" else 0, dtype=torch.int32, device=device)  # 256 MiB
    for name, call in calls.items():
        for _ in range(min(WARM_UPS, rounds)):
            call()
        if device == "cuda" and min(time_cuda(call, flush) for _ in range(3)) < GRAPH_BELOW_SECONDS:
            calls[name], parts[name] = as_graph(call), REPLAYS
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    started = time.monotonic()
    for done in range(rounds):
        if done >= ENOUGH_ROUNDS and time.monotonic() - started > ENOUGH_SECONDS:
            break
        for name, call in calls.items():
            if device == "cuda":
                seconds[name].append(time_cuda(call, flush) / parts[name])
            else:
                begin = clock()
                call()
                seconds[name].append(clock() - begin)
    return {name: Times.of(values) for name, values in seconds.items()}


def row_text(op: str, case: Case, times: dict[str, Times], bound: str, of_peak: float) -> str:
    """Return one line of the table."""
    ours = times["ours"]
    peers = (
        f"{n} {t.median_ms:.3f} ({t.median_ms / ours.median_ms:.1f}x)"
        for n, t in times.items()
        if n != "ours"
    )
    speeds = [f"{case.moved_bytes / ours.median_ms * 1e3 / 1e9:.1f} GB/s"]
    if case.flops is not None:
        speeds.append(f"{case.flops / ours.median_ms * 1e3 / 1e9:.1f} GFLOP/s")
    columns = [
        f"{op} {case.direction:8}{case.shape:18}{case.dtype:14}",
        f"ours {ours.median_ms:.3f} ms [{ours.p10_ms:.3f} {ours.p90_ms:.3f}]",
        *peers,
        f"{' '.join(speeds)} {of_peak:.0%} of {bound}",
    ]
    return "  ".join(columns)


def main(op: str, cases: Callable[[str], Iterable[Case]]) -> None:
    """Parse the command line, run the tests, then time and print every case; --json writes per row."""
    parser = argparse.ArgumentParser(description=f"Benchmark of {op}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at most so many a row")
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/<machine>/<op>.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = header(options.device) | {"gate": gate(op, options.device)}
    peaks = Peaks(options.device)
    facts["copy_gb_per_s"] = round(peaks.copy / 1e9, 1)
    print(" | ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    rows: list[dict[str, object]] = []
    for case in cases(options.device):
        times = measure(case.calls, options.device, options.rounds)
        bound, seconds = peaks.bound(case)
        of_peak = round(seconds / times["ours"].median_ms * 1e3, 4)
        print(row_text(op, case, times, bound, of_peak), flush=True)
        described = {"direction": case.direction, "shape": case.shape, "dtype": case.dtype}
        work = {"moved_bytes": case.moved_bytes, "flops": case.flops, "bound": bound, "of_peak": of_peak}
        measured = {name: asdict(t) for name, t in times.items()}
        rows.append({"op": op, **described, **work, **measured})
        facts["matmul_gflop_per_s"] = {name: round(peak / 1e9, 1) for name, peak in peaks.matmul.items()}
        if options.json:
            path = results_folder(options.device) / f"{op}.json"
            path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
