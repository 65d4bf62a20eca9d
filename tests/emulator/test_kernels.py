"""The CUDA kernels' arithmetic, without a device: the accuracy tests of the ops, served by the emulator."""

from __future__ import annotations

import pytest
import torch
from ops import test_adaln_modulate, test_gated_residual_adaln, test_multiscale_temporal_attention

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "name", sorted(test_multiscale_temporal_attention.CALLS.keys() - {"model", "longest", "70000-problems"})
)
def test_multiscale_temporal_attention_accuracy(name: str, dtype: torch.dtype) -> None:
    test_multiscale_temporal_attention.test_accuracy(name, dtype, "cpu")


@pytest.mark.parametrize("used", ["half", "full-quarter", "all"])
def test_multiscale_temporal_attention_expanded_and_missing_gradients(used: str) -> None:
    test_multiscale_temporal_attention.test_expanded_and_missing_gradients(used, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_multiscale_temporal_attention_keeps_nan_in_its_problem(dtype: torch.dtype) -> None:
    test_multiscale_temporal_attention.test_what_is_not_a_number_stays_in_its_problem(dtype, "cpu")
