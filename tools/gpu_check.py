"""The one command for a CUDA machine: `make gpu-check [PART=tests|ops|sampler|training|sanitize]`.

Installs nothing: the libraries lie in pavdit/ (built there or carried), torch is the machine's own. Every
part prints a short table last and writes JSON to $OUT, or to benchmarks/results/<machine>/ where OUT is not
set. Without PART the tests run, then the benchmarks of ops and sampler until nine minutes are over; the
sanitizers and training, which need minutes, only where named.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
REQUIRED = {"PAVDIT_REQUIRE_KERNELS": "cpu,cuda", "PYTHONPATH": str(ROOT)}
DEFAULT = ("tests", "ops", "sampler")
DEFAULT_SECONDS, PART_SECONDS = 540, 480
"""Until no further part begins, and for the commands of one part together."""
SAMPLER = (
    ("gemms", "--device", "cuda", "--json"),
    ("attention", "--device", "cuda", "--json"),
    ("sampler", "--preset", "xl", "--guidance", "1", "--no-peer", "--json", "-"),
    (
        "sampler",
        "--preset",
        "xl",
        "--guidance",
        "4",
        "--no-peer",
        "--json",
        "-",
        "--profile",
        "{folder}/profile-xl.json",
    ),
    (
        "sampler",
        "--preset",
        "xl",
        "--guidance",
        "1",
        "--batch",
        "16",
        "--rounds",
        "3",
        "--no-peer",
        "--json",
        "-",
    ),
    ("fast_switches", "--preset", "xl", "--text", "8", "16", "32", "--json"),
    ("sampler", "--preset", "xl", "--guidance", "4", "--rounds", "3", "--json", "-"),
)
"""Ceilings first; the peer, which compiles for minutes, last, over the file that was written without it."""
XL = ("training", "--preset", "xl", "--json", "-")
TRAINING = (
    (*XL, "--batch", "2", "--no-peer"),
    (*XL, "--batch", "64", "--accumulate", "4", "--rounds", "3", "--no-peer"),
    (*XL, "--stage", "autoencoder", "--batch", "4", "--recompute", "--no-peer"),
    (*XL, "--batch", "2", "--rounds", "3"),
)
"""Parts of 16 clips fit into 80 GB; the peer last, as above."""
MOST_WORKERS = 14
"""Processes that share the device; each takes half a gigabyte of it before its first test."""
SANITIZERS = ("memcheck", "racecheck", "initcheck")
SANITIZED_SECONDS = 480
"""For all sanitizers together; they slow a kernel down tenfold to a hundredfold."""
REDUCED = "accuracy and cuda and (one or ragged or strided or unaligned) and not compile and not 70000"
"""The small shapes where nothing divides and no row is aligned: where an index goes wrong if it does."""


def device_or_exit() -> None:
    """End with one line where there is no CUDA device."""
    try:
        import torch
    except ImportError:
        sys.exit("gpu-check: want torch with CUDA in this Python, got no torch")
    if not torch.cuda.is_available():
        sys.exit(f"gpu-check: want a CUDA device, got none (torch {torch.__version__})")


def pytest_command(selection: str, *more: str, where: str = "tests/ops") -> list[str]:
    """Run the selected tests."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-k", selection, "-p", "no:cacheprovider"]
    return [*pytest, *more, where]


def tests() -> bool:
    """Run all CUDA tests with the native library required: side by side, then alone what fills the memory."""
    from benchmarks.harness import header, results_folder

    folder = results_folder()
    begin = time.perf_counter()
    many = min(os.cpu_count() or 1, MOST_WORKERS)
    workers = ("-n", str(many), "--dist", "worksteal") if find_spec("xdist") else ()
    # without PyAV some files cannot be collected; those tests are counted as errors
    more = (*workers, "--continue-on-collection-errors")
    runs = (("cuda and not 31", *more), ("cuda and 31", "--continue-on-collection-errors"))
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    good = True
    for selection, *options in runs:
        report = folder / "gpu-tests.xml"
        command = pytest_command(selection, *options, "-rf", f"--junitxml={report}", where="tests")
        threads = {"OMP_NUM_THREADS": "1"} if workers else {}
        good &= subprocess.run(command, cwd=ROOT, env=os.environ | REQUIRED | threads).returncode == 0
        for suite in ET.parse(report).getroot().iter("testsuite") if report.is_file() else ():
            for key in counts:
                counts[key] += int(suite.get(key, 0))
        report.unlink(missing_ok=True)
    facts = {**header(), **counts, "seconds": round(time.perf_counter() - begin, 1)}
    (folder / "gpu-tests.json").write_text(json.dumps(facts, indent=1) + "\n")
    print("gpu-check tests:", *(f"{key} {value}" for key, value in counts.items()))
    return good and counts["tests"] > counts["skipped"]


def ops() -> bool:
    """Run the benchmark of every op on the device; each one runs the op's tests first."""
    good = True
    for path in sorted((ROOT / "benchmarks" / "ops").glob("*.py")):
        command = [sys.executable, "-m", f"benchmarks.ops.{path.stem}", "--device", "cuda", "--json"]
        good &= subprocess.run(command, cwd=ROOT, env=os.environ | REQUIRED).returncode == 0
    return good


def sampler() -> bool:
    """Run ceilings, attention backends and whole samples of `xl`, as many as fit into the part's time."""
    return benchmarks("sampler", SAMPLER)


def training() -> bool:
    """Run the tests of the update as a graph, then updates of `xl`, as many as fit into the part's time."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/train/test_update.py"]
    if subprocess.run(command, cwd=ROOT, env=os.environ | REQUIRED, timeout=PART_SECONDS).returncode:
        print("gpu-check training: the tests fail, so nothing is timed", flush=True)
        return False
    return benchmarks("training", TRAINING)


def benchmarks(part: str, commands: Iterable[tuple[str, ...]]) -> bool:
    """Run as many benchmarks as fit into a part's time."""
    from benchmarks.harness import results_folder

    folder, end, good = results_folder(), time.monotonic() + PART_SECONDS, True
    # compiled code outlives the part, so that the next one compiles nothing again
    environment = os.environ | REQUIRED | {"PAVDIT_CACHE_DIR": str(ROOT / "out" / "cache")}
    for name, *rest in commands:
        options = [option.format(folder=folder) for option in rest]
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        words = " ".join([name, *options])
        left = end - time.monotonic()
        if left < 1:
            print(f"gpu-check {part}: no time for {words}", flush=True)
            continue
        try:
            code = subprocess.run(command, cwd=ROOT, env=environment, timeout=left).returncode
        except subprocess.TimeoutExpired:
            print(f"gpu-check {part}: time is over in {words}; what it wrote is kept", flush=True)
            continue
        print(f"gpu-check {part}: {words}: {'ok' if code == 0 else f'exit code {code}'}", flush=True)
        good &= code == 0
    return good


def sanitizer_or_exit() -> str:
    """Find compute-sanitizer on PATH or in the CUDA toolkit."""
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), "/usr/local/cuda"]
    candidates = [Path(place, "bin", "compute-sanitizer") for place in places]
    found = shutil.which("compute-sanitizer") or next((str(c) for c in candidates if c.is_file()), None)
    if not found:
        sys.exit("gpu-check: want compute-sanitizer on PATH or in CUDA_HOME, got none")
    return found


def sanitizer_command(program: str, name: str) -> list[str]:
    """Run the reduced list of tests under one sanitizer."""
    options = [f"--tool={name}", "--error-exitcode=99", "--target-processes=all", "--print-limit=20"]
    return [program, *options, *pytest_command(REDUCED, "-x")]


def read_sanitizer(output: str, code: int) -> dict[str, object]:
    """Return the errors that a sanitizer counted (None: it did not come so far) and the tests that ran."""
    errors = re.search(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+) (?:error|hazard)", output)
    passed = re.search(r"(\d+) passed", output)
    return {
        "errors": int(errors[1]) if errors else None,
        "passed": int(passed[1]) if passed else 0,
        "exit_code": code,
    }


def sanitize() -> bool:
    """Run memcheck, racecheck and initcheck over a reduced list of the ops' CUDA tests."""
    from benchmarks.harness import header, results_folder

    program = sanitizer_or_exit()
    # torch's allocator cuts tensors out of large blocks, between which a wrong address would go unseen
    environment = os.environ | REQUIRED | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    facts: dict[str, object] = header()
    end = time.monotonic() + SANITIZED_SECONDS
    good = True
    for name in SANITIZERS:
        command = sanitizer_command(program, name)
        left = end - time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(left, 1)
            )
            found = read_sanitizer(done.stdout + done.stderr, done.returncode)
            clean = found["errors"] == 0 and found["passed"] != 0 and done.returncode == 0
            if not clean:
                print((done.stdout + done.stderr)[-4000:])
        except subprocess.TimeoutExpired:
            found, clean = {"errors": None, "passed": 0, "exit_code": None}, False
        facts[name] = found
        good &= clean
        (results_folder() / "gpu-sanitize.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(f"gpu-check sanitize: {name}:", *(f"{key} {value}" for key, value in found.items()), flush=True)
    return good


PARTS: dict[str, Callable[[], bool]] = {
    "tests": tests,
    "ops": ops,
    "sampler": sampler,
    "training": training,
    "sanitize": sanitize,
}


def main() -> None:
    """Run the parts named on the command line, or the usual ones."""
    wanted = sys.argv[1:] or list(DEFAULT)
    if unknown := [part for part in wanted if part not in PARTS]:
        sys.exit(f"gpu-check: want PART {' or '.join(PARTS)}, got {' '.join(unknown)}")
    device_or_exit()
    begin, good = time.monotonic(), True
    for part in wanted:
        if not sys.argv[1:] and time.monotonic() - begin > DEFAULT_SECONDS:
            print(f"gpu-check: nine minutes are over; left out: {part} (PART={part})")
            continue
        good &= PARTS[part]()
    if not good:
        sys.exit("gpu-check: failed")


if __name__ == "__main__":
    main()
