"""multiscale_temporal_attention's CUDA kernels on the host: packed tiles, pairs of tiles, and all else."""

from __future__ import annotations

import pytest
import torch
from ops import test_multiscale_temporal_attention as op_tests

LONG = {"model", "longest", "70000-problems"}  # many problems, nothing new; more frames than CUDA takes


@pytest.mark.parametrize("dtype", op_tests.LOW, ids=str)
@pytest.mark.parametrize("name", sorted(op_tests.CALLS.keys() - LONG))
def test_accuracy(name: str, dtype: torch.dtype) -> None:
    op_tests.test_accuracy(name, dtype, "cpu")


@pytest.mark.parametrize("used", ["half", "full-quarter", "all"])
def test_expanded_and_missing_gradients(used: str) -> None:
    op_tests.test_expanded_and_missing_gradients(used, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_a_number_stays_in_its_problem(dtype: torch.dtype) -> None:
    op_tests.test_what_is_not_a_number_stays_in_its_problem(dtype, "cpu")


def test_too_many_frames_are_refused() -> None:
    with pytest.raises(RuntimeError, match="multiscale_temporal_attention: want T a multiple of 4 in 4..32"):
        torch.ops.pavdit.multiscale_temporal_attention(torch.zeros(1, 36, 1, 3, 1, 8))
