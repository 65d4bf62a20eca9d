"""The one command for a machine with a CUDA device: `make gpu-check [PART=tests|ops]`.

Installs nothing: the libraries lie in pavdit/ (built there or carried), torch is the machine's own. Every
part prints a short table last and writes JSON to $OUT, or to benchmarks/results/<machine>/ where OUT is not
set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
REQUIRED = {"PAVDIT_REQUIRE_KERNELS": "cpu,cuda", "PYTHONPATH": str(ROOT)}


def device_or_exit() -> None:
    """End with one line where there is no CUDA device."""
    try:
        import torch
    except ImportError:
        sys.exit("gpu-check: want torch with CUDA in this Python, got no torch")
    if not torch.cuda.is_available():
        sys.exit(f"gpu-check: want a CUDA device, got none (torch {torch.__version__})")


def tests() -> bool:
    """Run the CUDA tests of the ops with the native library required."""
    from benchmarks.harness import header, results_folder

    folder = results_folder()
    report = folder / "gpu-tests.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-k",
        "cuda",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
    ]
    begin = time.perf_counter()
    code = subprocess.run([*command, "tests/ops"], cwd=ROOT, env=os.environ | REQUIRED).returncode
    suites = list(ET.parse(report).getroot().iter("testsuite")) if report.is_file() else []
    counts = {
        key: sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped")
    }
    report.unlink(missing_ok=True)
    facts = {**header(), **counts, "seconds": round(time.perf_counter() - begin, 1)}
    (folder / "gpu-tests.json").write_text(json.dumps(facts, indent=1) + "\n")
    print("gpu-check tests:", *(f"{key} {value}" for key, value in counts.items()))
    return code == 0 and counts["tests"] > counts["skipped"]


def ops() -> bool:
    """Run the benchmark of every op on the device; each one runs the op's tests first."""
    good = True
    for path in sorted((ROOT / "benchmarks" / "ops").glob("*.py")):
        command = [sys.executable, "-m", f"benchmarks.ops.{path.stem}", "--device", "cuda", "--json"]
        good &= subprocess.run(command, cwd=ROOT, env=os.environ | REQUIRED).returncode == 0
    return good


PARTS = {"tests": tests, "ops": ops}


def main() -> None:
    """Run the parts named on the command line, or all."""
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [part for part in wanted if part not in PARTS]:
        sys.exit(f"gpu-check: want PART {' or '.join(PARTS)}, got {' '.join(unknown)}")
    device_or_exit()
    if not all([PARTS[part]() for part in wanted]):
        sys.exit("gpu-check: failed")


if __name__ == "__main__":
    main()
