"""griffin_lim_step on CUDA, without a device: its own accuracy tests, served by the emulator."""

from __future__ import annotations

import pytest
import torch
from ops import test_griffin_lim_step as op

from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import mel_images
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig

NAMES = ["17-fps", "odd-power", "whole-window", "long-hops", "small-transform", "no-batch"]


@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name: str) -> None:
    op.test_accuracy(name, "cpu")


@pytest.mark.parametrize("gain", [1e-30, 1e18], ids=["faint", "loud"])
def test_accuracy_of_phases_at_the_ends_of_the_range(gain: float) -> None:
    op.test_accuracy_of_phases_at_the_ends_of_the_range(gain, "cpu")


def test_raw_op() -> None:
    arguments = op.arguments_of(op.SHAPES["small-transform"])
    torch.library.opcheck(torch.ops.pavdit.griffin_lim_step.default, arguments)


def test_silence_stays_silent() -> None:
    clip, mel = ClipSpec(num_frames=4, height=32, width=32), MelConfig(n_mels=64)
    silence = mel_images(torch.zeros(1, clip.num_samples), clip, mel)
    assert invert_mel(silence, clip, mel, num_iterations=2).abs().max() == 0


@pytest.mark.parametrize("n_fft", [64, 8192])
def test_raw_error_text(n_fft: int) -> None:
    bins = torch.zeros(1, 200, n_fft // 2 + 1)
    arguments = [torch.zeros(1, 200, 64), bins + 0j, bins, torch.ones(64), torch.ones(6400)]
    with pytest.raises(RuntimeError, match=f"want n_fft a power of two in 128..4096, got {n_fft}"):
        torch.ops.pavdit.griffin_lim_step(*arguments, n_fft, 32, 0.99)
