"""The fault scripts with three faults each; `benchmarks/faults/*.py` alone do a hundred."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"


@pytest.mark.parametrize(
    ("script", "options", "count"),
    [
        ("kill9.py", "--kills 3", "3 of 3 newest checkpoints load and are right"),
        (
            "bit_flips.py",
            "--flips 3",
            "3 of 3 flips are found, the previous checkpoint is used, the loss said",
        ),
        # three cut points, three of a sharded run, and the 6 losses of 1 -> 2 -> 1 ranks
        (
            "resume.py",
            "--cuts 3 --steps 6 --stages generator --workers 0 --accumulate 2 --ranks 2 --sharded",
            "12 of 12 comparisons hold",
        ),
    ],
    ids=["kill-9", "bit-flips", "resume-on-two-ranks"],
)
def test_three_faults(tmp_path, script, options, count):
    done = subprocess.run(
        [sys.executable, str(FAULTS / script), *options.split(), "--folder", str(tmp_path / "work")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert count in done.stdout
