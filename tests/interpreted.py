"""Run a test file of an op once more, with its Triton kernel, interpreted, in the place of the reference."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether this process is such a run. A program takes milliseconds there, so grids stay below some 64."""


def assert_passes_interpreted(file: str) -> None:
    """Every test of `file` that has a device passes with the kernel serving the CPU.

    A process of its own: Triton reads the variable when it is imported, and Inductor uses Triton too.
    """
    if importlib.util.find_spec("triton") is None:
        if os.environ.get("PAVDIT_REQUIRE_KERNELS"):
            pytest.fail("PAVDIT_REQUIRE_KERNELS is set: want triton installed, got none")
        pytest.skip("triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "cpu or the_kernel_serves"]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", file],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
