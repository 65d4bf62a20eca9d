"""Run a test file of an op once more, with its Triton kernel, interpreted, in the place of the reference."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether this process is such a run. A program takes milliseconds there, so grids stay below some 64."""


def repair_interpreter() -> None:
    """Do right what Triton 3.9's interpreter does wrong and a GPU does right.

    Its rounding to e4m3 loses the carry into the exponent and cuts subnormal numbers off; its product of
    bfloat16 multiplies their bits as integers.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def converted(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) != (tl.float32, tl.float8e4nv):
            return convert(data, source, target, rounding)
        return torch.from_numpy(data).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    def product(self: Any, a: Any, b: Any, *more: Any) -> Any:
        if a.dtype == tl.bfloat16:
            a, b = (self.cast_impl(x, tl.float32) for x in (a, b))
        return dot(self, a, b, *more)

    interpreter._convert_float, interpreter.InterpreterBuilder.create_dot = converted, product


if INTERPRETED and importlib.util.find_spec("triton") is not None:
    repair_interpreter()


def assert_passes_interpreted(*files: str) -> None:
    """Every test of the files that has a device passes with the kernels serving the CPU.

    A process of its own: Triton reads the variable when it is imported, and Inductor uses Triton too.
    """
    if importlib.util.find_spec("triton") is None:
        if os.environ.get("PAVDIT_REQUIRE_KERNELS"):
            pytest.fail("PAVDIT_REQUIRE_KERNELS is set: want triton installed, got none")
        pytest.skip("triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "cpu or the_kernel_serves"]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
