"""The sampler's benchmark runs as the README says and measures every stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_sampler_benchmark(tmp_path: Path) -> None:
    assert "python benchmarks/sampler.py" in (ROOT / "README.md").read_text()
    found = tmp_path / "found.json"
    options = ["--preset", "tiny", "--steps", "2", "--rounds", "2", "--threads", "1", "--no-peer"]
    options += ["--tier", "fast", "--text", "8", "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "sampler.py"), *options, str(found)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(found.read_text())
    assert set(facts["rows"]) == {"generator", "decode", "inverse", "end to end"}
    assert all(row["ours"]["median"] > 0 for row in facts["rows"].values())
    assert facts["step"]["dispatched_ours"] <= 0.6 * facts["step"]["dispatched_eager"]
    assert facts["fast"]["exact"]["latent_rms"] == 0
    assert facts["fast"]["absorbed"]["latent_rms"] < facts["fast"]["fp8"]["latent_rms"] < 0.1
