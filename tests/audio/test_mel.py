"""Mel images: the filterbank, the scale, which samples a column sees."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from numerics import assert_batch_of_two, assert_equation
from torch import Tensor

from pavdit.audio.mel import display, filterbank, hann_window, hz_to_mel, mel_images, mel_to_hz
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig
from pavdit.ops import log_mel_frames

CLIP = ClipSpec(num_frames=4, height=32, width=32)
MEL = MelConfig(n_mels=64)
CPU = torch.device("cpu")
COLUMNS = CLIP.num_frames * CLIP.columns_per_frame


def sine(frequency_hz: float, clip: ClipSpec = CLIP, dtype: torch.dtype = torch.float64) -> Tensor:
    n = torch.arange(clip.num_samples, dtype=torch.float64)
    return torch.sin(2 * math.pi * frequency_hz / clip.sample_rate * n)[None].to(dtype)


def noise(batch: int = 1, clip: ClipSpec = CLIP, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(batch, clip.num_samples, generator=generator, dtype=torch.float64) - 0.5).to(dtype)


def in_columns(images: Tensor) -> Tensor:
    """``(B, 1, T, M, L)`` to ``(B, M, T * L)``."""
    return images.squeeze(1).transpose(1, 2).flatten(2)


def test_mel_scale_has_its_published_points() -> None:
    """Slaney's Auditory Toolbox: 200/3 Hz a step up to 1 kHz, then 27 steps to 6.4 kHz."""
    frequency_hz = torch.tensor([0, 200 / 3, 500, 1000, 6400], dtype=torch.float64)
    mel = torch.tensor([0, 1, 7.5, 15, 42], dtype=torch.float64)
    assert_equation(hz_to_mel(frequency_hz), mel)
    assert_equation(mel_to_hz(mel) / 1000, frequency_hz / 1000)


@pytest.mark.parametrize(
    "mel", [MEL, MelConfig(n_mels=256), MelConfig(n_mels=40, f_min_hz=80, f_max_hz=7600)]
)
def test_filterbank_is_triangles_whose_rows_sum_to_one(mel: MelConfig) -> None:
    bank = filterbank(mel, 16000, CPU, torch.float64)
    lowest, highest = hz_to_mel(torch.tensor([mel.f_min_hz, mel.f_max_hz], dtype=torch.float64)).tolist()
    step = (highest - lowest) / (mel.n_mels + 1)
    corners = mel_to_hz(lowest + step * torch.arange(mel.n_mels + 2, dtype=torch.float64)).tolist()
    want = torch.zeros(mel.n_mels, mel.n_fft // 2 + 1, dtype=torch.float64)
    for m in range(mel.n_mels):
        for k in range(mel.n_fft // 2 + 1):
            f = k * 16000 / mel.n_fft
            if corners[m] < f <= corners[m + 1]:
                want[m, k] = (f - corners[m]) / (corners[m + 1] - corners[m])
            elif corners[m + 1] < f < corners[m + 2]:
                want[m, k] = (corners[m + 2] - f) / (corners[m + 2] - corners[m + 1])
    assert_equation(bank, want / want.sum(dim=1, keepdim=True))
    assert_equation(bank.sum(dim=1), torch.ones(mel.n_mels, dtype=torch.float64))


def test_filters_of_every_preset_are_independent() -> None:
    """Otherwise the pseudo-inverse could not bring the bands back."""
    assert int(torch.linalg.matrix_rank(filterbank(MelConfig(n_mels=256), 16000, CPU, torch.float64))) == 256


def test_hann_window_is_periodic() -> None:
    assert_equation(hann_window(512, CPU, torch.float64), torch.hann_window(512, dtype=torch.float64))


def test_full_scale_sine_is_0_db_at_its_bin() -> None:
    frequency_hz = 128 * 16000 / MEL.n_fft
    every_bin = torch.eye(MEL.n_fft // 2 + 1, dtype=torch.float64)
    window = hann_window(MEL.win_length, CPU, torch.float64)
    images = log_mel_frames(sine(frequency_hz), window, every_bin, MEL.n_fft, CLIP.hop_length, 32, -100.0)
    inner = images[:, 1:-1]  # the mirrored ends are no sine
    assert inner.argmax(dim=2).unique().tolist() == [128]
    assert_equation(inner[:, :, 128], torch.ones_like(inner[:, :, 128]))


def test_sine_peaks_in_its_band_and_20_db_are_20_db() -> None:
    bank = filterbank(MEL, 16000, CPU, torch.float64)
    for band in (10, 30, 60):
        frequency_hz = float(bank[band].argmax()) * 16000 / MEL.n_fft
        loud, soft = (in_columns(mel_images(gain * sine(frequency_hz), CLIP, MEL)) for gain in (0.5, 0.05))
        inner = slice(COLUMNS // 4, -COLUMNS // 4)
        assert loud[..., inner].argmax(dim=1).unique().tolist() == [band]
        drop = loud[:, band, inner] - soft[:, band, inner]
        assert_equation(drop, torch.full_like(drop, 0.4))  # 100 dB are 2


def test_shape_dtype_and_range() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        images = mel_images(noise(2, dtype=dtype), CLIP, MEL)
        assert images.shape == (2, 1, 4, 64, 32) and images.dtype == dtype
    loud_and_silent = torch.cat([40 * noise(), 0 * noise()])
    images = mel_images(loud_and_silent, CLIP, MEL)
    assert images[0].max() == 1 and images[1].unique().tolist() == [-1.0]


@pytest.mark.parametrize("column", [8, 31, 32, 70, COLUMNS - 9])
def test_click_is_loudest_in_the_column_centred_on_it(column: int) -> None:
    wave = torch.zeros(1, CLIP.num_samples, dtype=torch.float64)
    wave[0, column * CLIP.hop_length + CLIP.hop_length // 2] = 1
    images = mel_images(wave, CLIP, MEL)
    frame, inside = divmod(column, CLIP.columns_per_frame)
    assert int(images[0, 0, frame].mean(dim=0).argmax()) == inside
    level = in_columns(images)[0].mean(dim=0)
    assert int(level.argmax()) == column
    reach = -(-MEL.win_length // (2 * CLIP.hop_length))
    assert_equation(level[column - reach : column], level[column + 1 : column + reach + 1].flip(0))


def test_later_by_a_frame_is_later_by_an_image() -> None:
    wave = noise(dtype=torch.float64)
    images = mel_images(wave, CLIP, MEL)
    later = mel_images(wave.roll(CLIP.samples_per_frame, dims=1), CLIP, MEL)
    reach = MEL.win_length // (2 * CLIP.hop_length) + 1  # columns whose window crosses an end of the wave
    a, b = in_columns(images)[..., reach:-reach], in_columns(later)[..., reach:-reach]
    assert_equation(b[..., 32 + reach :], a[..., reach:-32])


def test_a_clip_does_not_depend_on_its_neighbours() -> None:
    waves = noise(2)
    apart = torch.cat([mel_images(wave, CLIP, MEL) for wave in waves.split(1)])
    assert_batch_of_two(mel_images(waves, CLIP, MEL), apart)


def test_17_fps() -> None:
    clip = ClipSpec(num_frames=12, height=32, width=32, fps=Fraction(17), sample_rate=16320)
    assert clip.hop_length == 30
    images = mel_images(noise(clip=clip), clip, MEL)
    assert images.shape == (1, 1, 12, 64, 32) and images.isfinite().all()


def test_tables_made_in_inference_serve_training() -> None:
    mel = MelConfig(n_mels=33)
    with torch.inference_mode():
        mel_images(noise(), CLIP, mel)
    wave = noise().requires_grad_()
    mel_images(wave, CLIP, mel).sum().backward()
    assert wave.grad is not None and wave.grad.abs().max() > 0


def test_tables_are_made_once() -> None:
    assert filterbank(MEL, 16000, CPU) is filterbank(MelConfig(n_mels=64), 16000, CPU)
    assert filterbank(MEL, 16000, CPU) is not filterbank(MEL, 16320, CPU)


def test_display_repeats_and_puts_low_below() -> None:
    images = torch.arange(2 * 2 * 3.0).reshape(1, 1, 2, 2, 3)
    pictures = display(images, 4, 6)
    want = images.flip(3).repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    assert torch.equal(pictures, want)


@pytest.mark.parametrize(
    ("wave", "kind", "message"),
    [
        (torch.zeros(1, 6399), ValueError, r"mel_images: want wave \(B,6400\), got \(1, 6399\)"),
        (torch.zeros(6400), ValueError, r"mel_images: want wave \(B,6400\), got \(6400,\)"),
        (torch.zeros(1, 6400, dtype=torch.int16), TypeError, "log_mel_frames: want wave .*, got torch.int16"),
    ],
    ids=["length", "rank", "dtype"],
)
def test_wrong_waves(wave: Tensor, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mel_images(wave, CLIP, MEL)


def test_wrong_configurations() -> None:
    with pytest.raises(ValueError, match=r"f_max_hz <= sample_rate / 2 = 4000, got 8000"):
        filterbank(MEL, 8000, CPU)
    with pytest.raises(ValueError, match=r"a bin in each of 256 filters, got \d+ empty ones at n_fft 512"):
        filterbank(MelConfig(n_mels=256, n_fft=512), 16000, CPU)
    with pytest.raises(ValueError, match=r"display: want images \(B,1,T,M,L\), got \(4, 64, 32\)"):
        display(torch.zeros(4, 64, 32), 64, 64)
