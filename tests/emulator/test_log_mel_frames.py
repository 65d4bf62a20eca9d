"""log_mel_frames on CUDA, without a device: its own accuracy tests, served by the emulator."""

from __future__ import annotations

import math

import pytest
import torch
from ops import test_log_mel_frames as op

from pavdit.ops import log_mel_frames

NAMES = [
    *("sine", "quiet", "silence", "17-fps", "no-frames", "shortest", "odd-power", "wide", "whole-window"),
    *("small-transform", "strided", "unaligned", "no-batch", "no-mels"),
]


@pytest.mark.parametrize("dtype", op.LOW, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name: str, dtype: torch.dtype) -> None:
    op.test_accuracy(name, dtype, "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
def test_what_is_not_finite_breaks_the_columns_that_see_it(value: float) -> None:
    op.test_what_is_not_finite_breaks_the_columns_that_see_it(torch.float32, value)


@pytest.mark.parametrize("gain", [0.0, 1e-9, 1e3], ids=["silence", "below_floor", "above_full_scale"])
def test_clamped_levels_are_the_bounds_themselves(gain: float) -> None:
    op.test_clamped_levels_are_the_bounds_themselves(gain)


def test_raw_op() -> None:
    torch.library.opcheck(
        torch.ops.pavdit.log_mel_frames.default, op.inputs_of(op.CALLS["small-transform"], torch.bfloat16)
    )


@pytest.mark.parametrize("n_fft", [64, 8192])
def test_raw_error_text(n_fft: int) -> None:
    wave, window, bank = torch.zeros(1, 8192), torch.ones(64), torch.zeros(2, n_fft // 2 + 1)
    with pytest.raises(RuntimeError, match=f"want n_fft a power of two in 128..4096, got {n_fft}"):
        torch.ops.pavdit.log_mel_frames(wave, window, bank, n_fft, 32, 4, -100.0)


def test_gradient_reaches_the_wave() -> None:
    wave, *rest = op.inputs_of(op.CALLS["small-transform"], torch.float32)
    wave.requires_grad_()
    log_mel_frames(wave, *rest).sum().backward()
    assert wave.grad is not None and wave.grad.abs().max() > 0
