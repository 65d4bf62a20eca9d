"""block_attention's CUDA kernels without a device: the ops' own tests, served by the emulator."""

from __future__ import annotations

import pytest
import torch
from block_calls import LOW
from ops import test_block_attention, test_block_cross_attention

LARGE = {"70000-problems", "stdit", "tall-frame", "nearly-all", "batch-of-3"}
"""Nothing new but more of it; one dtype shows that."""


def calls_of(names: list[str]) -> list[tuple[str, torch.dtype]]:
    """The small calls in every dtype, the large ones in bfloat16, the largest not at all."""
    small = [(name, dtype) for name in names if name not in LARGE for dtype in LOW]
    return small + [(name, torch.bfloat16) for name in names if name in LARGE - {"70000-problems"}]


@pytest.mark.parametrize(("name", "dtype"), calls_of(list(test_block_attention.CALLS)), ids=str)
def test_accuracy(name: str, dtype: torch.dtype) -> None:
    test_block_attention.test_accuracy(name, dtype, "cpu")


@pytest.mark.parametrize(("name", "dtype"), calls_of(list(test_block_cross_attention.CALLS)), ids=str)
def test_cross_accuracy(name: str, dtype: torch.dtype) -> None:
    test_block_cross_attention.test_accuracy(name, dtype, "cpu")


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_weights_in_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    test_block_attention.test_accuracy_with_weights_in_the_dtype_of_the_input(dtype, "cpu")


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (2, 1, 1, 1)], ids=str)
def test_masks_that_broadcast(shape: tuple[int, ...]) -> None:
    test_block_attention.test_accuracy_with_masks_that_broadcast(shape, "cpu")


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_hidden_rows_and_rows_that_are_not_numbers(dtype: torch.dtype) -> None:
    test_block_attention.test_masked_rows_are_never_read(dtype, "cpu")
    test_block_attention.test_what_is_not_a_number_stays_in_its_problem(dtype)
