"""The benchmark's arithmetic: what bounds a row, which attention backends run, no time on red."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Case, Peaks, Times, row_text
from benchmarks.sdpa import SDPA, sdpa_backends

ROOT = Path(__file__).parents[2]


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> Peaks:
    """A machine that copies 100 bytes and multiplies 1000 flops in a second, 4000 in bfloat16."""
    monkeypatch.setattr(harness, "copy_bandwidth", lambda device: 100.0)
    speeds = {torch.float32: 1000.0, torch.bfloat16: 4000.0}
    monkeypatch.setattr(harness, "matmul_speed", lambda device, dtype: speeds[dtype])
    return Peaks("cpu")


@pytest.mark.parametrize(
    ("dtype", "flops", "want"),
    [
        ("fp32", None, ("copy", 2.0)),
        ("fp32", 1999, ("copy", 2.0)),
        ("fp32", 3000, ("matmul", 3.0)),
        ("bf16 masked", 3000, ("copy", 2.0)),
        ("bf16+fp32 mod", 12000, ("matmul", 3.0)),
    ],
)
def test_the_slower_limit_bounds(
    dtype: str, flops: int | None, want: tuple[str, float], peaks: Peaks
) -> None:
    assert peaks.bound(Case("fwd", "1", dtype, {}, 200, flops)) == want


def test_a_product_is_measured_only_where_a_row_has_flops(peaks: Peaks) -> None:
    peaks.bound(Case("fwd", "1", "fp32", {}, 200))
    assert peaks.matmul == {}
    peaks.bound(Case("fwd", "1", "fp32", {}, 200, 1))
    assert peaks.matmul == {"fp32": 1000.0}


def test_a_row_names_its_bound() -> None:
    case = Case("fwd", "4x8", "bf16", {}, 2_000_000, 5_000_000)
    text = row_text("op", case, {"ours": Times(1.0, 0.9, 1.1), "eager": Times(3.0, 2.0, 4.0)}, "matmul", 0.25)
    assert text.endswith(
        "ours 1.000 ms [0.900 1.100]  eager 3.000 (3.0x)  2.0 GB/s 5.0 GFLOP/s 25% of matmul"
    )


def test_backends_of_attention_by_name() -> None:
    def attend(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q)

    q = torch.randn(2, 1, 4, 8)
    ways = sdpa_backends(attend, q)
    assert {"sdpa math", "sdpa flash"} <= ways.keys()
    assert "sdpa cudnn" not in ways
    assert all(isinstance(way(q), Tensor) for way in ways.values())
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.math_sdp_enabled()
    assert len(SDPA) == 4


def test_no_time_without_a_passing_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    (tmp_path / "tests" / "ops").mkdir(parents=True)
    test = tmp_path / "tests" / "ops" / "test_op.py"
    test.write_text("def test_cpu(): assert True\n")
    assert harness.gate("op", "cpu") == "1 tests passed"
    test.write_text("def test_cpu(): assert False\n")
    with pytest.raises(SystemExit, match="benchmark op: want its tests to pass"):
        harness.gate("op", "cpu")
    test.write_text("import pytest\ndef test_cpu(): pytest.skip('no device')\n")
    with pytest.raises(SystemExit, match="benchmark op: want tests that run on cpu, got none"):
        harness.gate("op", "cpu")


def test_json_has_bytes_flops_and_bound(tmp_path: Path) -> None:
    code = """
from benchmarks import harness
harness.gate = lambda op, device: "none"
harness.copy_bandwidth, harness.matmul_speed = lambda device: 1e9, lambda device, dtype: 1e9
calls = {"ours": lambda: None, "eager": lambda: None}
harness.main("op", lambda device: [harness.Case("fwd", "1", "fp32", calls, 8, 4)])
"""
    command = [sys.executable, "-c", code, "--json"]
    environment = os.environ | {"OUT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "op.json").read_text())
    (row,) = written["rows"]
    assert (row["moved_bytes"], row["flops"], row["bound"]) == (8, 4, "copy")
    assert written["matmul_gflop_per_s"] == {"fp32": 1.0}
    assert row["ours"].keys() == {"median_ms", "p10_ms", "p90_ms"}
