"""Resampling is the ideal filter but for its transition."""

import math

import pytest
import torch

from pavdit.audio.resample import resample


def sine(frequency_hz: float, sample_rate: int, seconds: float = 0.25) -> torch.Tensor:
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return torch.sin(2 * math.pi * frequency_hz * time)[None]


@pytest.mark.parametrize(
    ("source", "target"), [(16000, 22050), (44100, 16000), (16320, 16000), (8000, 22050)]
)
def test_a_sine_stays_where_it_is(source, target):
    frequency = 0.9 * min(source, target) / 2
    got, want = resample(sine(frequency, source), source, target), sine(frequency, target, seconds=0.3)
    assert got.shape[1] == -(-round(0.25 * source) * target // source)
    inner = slice(target // 20, -target // 20)
    assert (got[:, inner] - want[:, : got.shape[1]][:, inner]).abs().max() < 1e-5


def test_what_the_lower_rate_cannot_hold_is_gone():
    got = resample(sine(9000, 44100), 44100, 16000)
    assert got[:, 800:-800].abs().max() < 1e-5


def test_one_rate_changes_nothing():
    wave = torch.rand(2, 100)
    assert resample(wave, 16000, 16000) is wave


def test_rates_below_1_are_refused():
    with pytest.raises(
        ValueError, match=r"^resample: want wave \(B,S\) and rates above 0, got \(1, 4\), 0 and 8"
    ):
        resample(torch.zeros(1, 4), 0, 8)
