"""Wrong calls of every op end in a Python exception or in a right result: no signal, no silent nonsense.

The calls are made from right ones in `tests/bad_calls`: every argument in turn with another type, dtype,
device, rank, size, stride, with overlapping memory, None, numbers out of range, lists of a wrong length. They
run in children of a worker process, one child per op.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from bad_calls.worker import bisect, verdicts_of

import pavdit.ops
from pavdit.ops import _library

ROOT = Path(__file__).parents[2]
PUBLIC = [f"public:{name}" for name in pavdit.ops.__all__]
RAW = [f"raw:{name}" for name in sorted({n.partition(".")[0] for n in torch._C._dispatch_get_all_op_names()})]
RAW = [name.replace("pavdit::", "") for name in RAW if "pavdit::" in name]
CALLS, CALLS_PER_PROCESS = 1000, 25


SAME_CHECKS = {"absorbed_attention", "gated_residual_adaln_fp8", "gelu_fp8"}
"""Their kernels stand behind the checks that the reference stands behind here, and get contiguous tensors."""

Verdicts = dict[str, list[tuple[str, str]]]
"""Op to its calls and what became of them."""


def run_worker(*ops: str, **more: str) -> Verdicts:
    """Make the calls of these ops, or of all."""
    # MALLOC_PERTURB_: what glibc hands out is not zero
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_PERTURB_": "165"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "bad_calls.worker", *ops],
        cwd=ROOT,
        env=environment | more,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = defaultdict(list)
    for line in done.stdout.splitlines():
        row = json.loads(line)
        found[row["of"]].append((row["call"], row["verdict"]))
    return found


def assert_good(calls: list[tuple[str, str]]) -> None:
    assert len(calls) >= CALLS_PER_PROCESS
    bad = [f"{call}: {verdict}" for call, verdict in calls if verdict.startswith(("WRONG", "CRASH"))]
    assert not bad, "\n".join(bad)
    assert {verdict for call, verdict in calls if call.endswith(" as it is")} == {"right"}


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    return run_worker()


@pytest.mark.parametrize("op", PUBLIC + RAW)
def test_a_bad_call_raises_or_is_right(op: str, verdicts: Verdicts) -> None:
    if op not in verdicts and "cpu" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""):
        pytest.skip("no public op runs it without the native library")
    assert op in verdicts, f"{op}: want a right call in tests/bad_calls/targets.py, got none"
    assert_good(verdicts[op])


@pytest.mark.skipif(find_spec("triton") is None, reason="no triton")
def test_bad_calls_of_triton_kernels() -> None:
    ops = [name for name in PUBLIC + RAW if name.partition(":")[2] in _library._triton_ops - SAME_CHECKS]
    found = run_worker(*ops, TRITON_INTERPRET="1")
    assert found.keys() == set(ops)
    for calls in found.values():
        assert_good(calls)


def test_there_are_enough_bad_calls(verdicts: Verdicts) -> None:
    assert sum(map(len, verdicts.values())) >= CALLS
    both = {verdict.partition(" ")[0] for calls in verdicts.values() for _, verdict in calls}
    assert both == {"raised", "right"}


def good() -> str:
    return "right"


def dies() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "right"


def after(state: list[int], limit: int) -> Callable[[], str]:
    """Dies when it is called the second time in one process, as damaged memory does."""

    def call() -> str:
        state.append(0)
        return dies() if len(state) >= limit else "right"

    return call


def test_a_crash_is_named_and_the_calls_behind_it_run() -> None:
    calls = [good] * 20 + [dies] + [good] * 9
    want = ["right"] * 20 + ["CRASH: want an exception, got SIGKILL"] + ["right"] * 9
    assert list(verdicts_of(calls)) == want


def test_a_crash_that_needs_earlier_calls_is_bisected() -> None:
    damage = after([], 2)
    calls = [good] * 3 + [damage] + [good] * 5 + [damage]
    assert bisect(calls) == 7
    assert list(verdicts_of(calls))[-1] == "CRASH: want an exception, got SIGKILL after the 6 calls before it"


def test_meta_beside_other_tensors_is_refused_by_the_fake() -> None:
    x, m = torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 8, device="meta")
    with pytest.raises(RuntimeError, match="want all tensors on one device, got cpu and meta"):
        torch.ops.pavdit.adaln_modulate(x, m, m, 1e-6)
    assert _library.native("adaln_modulate", m) is False
