"""The CUDA kernels' arithmetic, without a device: the accuracy tests of the ops, served by the emulator."""

from __future__ import annotations

import pytest
from ops import test_adaln_modulate, test_gated_residual_adaln

DTYPES = ["fp32", "bf16", "fp16"]
LARGE = {"70000-rows", "model", "model-no-gate", "widest", "small"}  # many rows, nothing new


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(test_adaln_modulate.CASES.keys() - LARGE))
def test_adaln_modulate_accuracy(name: str, dtype: str) -> None:
    test_adaln_modulate.test_accuracy(name, dtype, "same", "cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(test_gated_residual_adaln.NATIVE_CASES.keys() - LARGE))
def test_gated_residual_adaln_accuracy(name: str, dtype: str) -> None:
    test_gated_residual_adaln.test_accuracy(name, dtype, "same", "cpu")
