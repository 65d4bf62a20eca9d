"""Mel images back to sound: the STFT's round trip, silence, and how near the sound comes."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from numerics import assert_batch_of_two, assert_equation
from torch import Tensor

from pavdit.audio.invert import Vocoder, invert_mel, istft, linear_magnitude, stft
from pavdit.audio.mel import hann_window, mel_images
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig
from pavdit.metrics.signal import border_jump, envelope_correlation, log_spectral_distance_db, psnr

SHORT = ClipSpec(num_frames=4, height=32, width=32)
CLIP = ClipSpec(num_frames=16, height=64, width=64)
MEL = MelConfig(n_mels=256)
CPU = torch.device("cpu")


def sounds(clip: ClipSpec = CLIP) -> Tensor:
    """Struck bars, a gliding voice with pauses, crackling; peak 0.7 over a -65 dB noise floor."""
    generator = torch.Generator().manual_seed(6)
    t = torch.arange(clip.num_samples, dtype=torch.float64) / clip.sample_rate
    bars = torch.zeros_like(t)
    for start, pitch_hz in ((0.07, 310), (0.31, 820), (0.62, 450), (0.93, 1270), (1.33, 610)):
        since = (t - start).clamp(min=0)
        for ratio, decay in ((1, 7), (2.76, 14), (5.4, 25)):
            bars += (
                (t >= start) * torch.exp(-decay * since) * torch.sin(2 * math.pi * pitch_hz * ratio * since)
            )
    pitch_hz = 180 + 60 * torch.sin(2 * math.pi * 0.9 * t)
    phase = 2 * math.pi * pitch_hz.cumsum(0) / clip.sample_rate
    voice = sum(torch.sin(k * phase) / k for k in range(1, 13)) * (torch.sin(2 * math.pi * 2.3 * t) > -0.4)
    crackle = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    crackle *= (torch.rand(t.shape, generator=generator) < 0.02) * torch.rand(t.shape, generator=generator)
    waves = torch.stack([bars, voice, crackle])
    waves = 0.7 * waves / waves.abs().amax(dim=1, keepdim=True)
    return (waves + 10 ** (-65 / 20) * torch.randn(waves.shape, generator=generator)).float()


def spectral_convergence(output: Tensor, original: Tensor, clip: ClipSpec, mel: MelConfig) -> Tensor:
    window = hann_window(mel.win_length, CPU)
    ours, theirs = (stft(w, window, mel.n_fft, clip.hop_length).abs() for w in (output, original))
    return (ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)


@pytest.fixture(scope="module")
def original() -> Tensor:
    return sounds()


@pytest.fixture(scope="module")
def images(original: Tensor) -> Tensor:
    return mel_images(original, CLIP, MEL)


@pytest.fixture(scope="module")
def output(images: Tensor) -> Tensor:
    return invert_mel(images, CLIP, MEL)


@pytest.mark.parametrize(
    ("n_fft", "win_length", "hop_length"), [(2048, 512, 50), (2048, 512, 30), (1024, 401, 100), (64, 64, 32)]
)
def test_istft_undoes_stft(n_fft: int, win_length: int, hop_length: int) -> None:
    wave = torch.rand(2, 40 * hop_length, generator=torch.Generator().manual_seed(7)) * 2 - 1
    window = hann_window(win_length, CPU)
    back = istft(stft(wave, window, n_fft, hop_length), window, n_fft, hop_length)
    assert back.shape == wave.shape and (back - wave).abs().max() < 1e-6
    exact = istft(stft(wave.double(), window.double(), n_fft, hop_length), window.double(), n_fft, hop_length)
    assert_equation(exact, wave.double())


def test_stft_is_torchs_up_to_the_phase_of_the_window() -> None:
    wave = torch.rand(1, 6400, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    window = hann_window(512, CPU, torch.float64)
    padded = torch.nn.functional.pad(wave, (999, 999), mode="reflect")
    theirs = torch.stft(padded, 2048, 50, 512, window, center=False, return_complex=True)
    k = torch.arange(1025, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(k), 2 * math.pi * k * (2048 - 512) / 2 / 2048)  # window to the middle
    ours = stft(wave, window, 2048, 50)
    assert_equation(torch.view_as_real(ours), torch.view_as_real(theirs.transpose(1, 2) * turn))


def test_linear_magnitude_keeps_the_mel_image(images: Tensor, original: Tensor) -> None:
    """256 bands keep most of 1025 magnitudes: relative distance measured 0.033 on these sounds."""
    window = hann_window(MEL.win_length, CPU)
    want = stft(original, window, MEL.n_fft, CLIP.hop_length).abs()
    got = linear_magnitude(images, CLIP, MEL)
    assert got.shape == want.shape and got.min() >= 0
    assert (got - want).norm() < 0.05 * want.norm()


def test_sound_comes_back(original: Tensor, images: Tensor, output: Tensor) -> None:
    """Means of the three sounds; the waves themselves differ, a magnitude does not fix the phase."""
    assert output.shape == original.shape and output.dtype == torch.float32
    assert spectral_convergence(output, original, CLIP, MEL).mean() < 0.15  # measured 0.104
    assert log_spectral_distance_db(output, original).mean() < 2.5  # 2.13
    assert envelope_correlation(output, original, CLIP.sample_rate).mean() > 0.97  # 0.984
    assert border_jump(output, original, CLIP.samples_per_frame).mean() < 1.3  # 1.03
    assert psnr(mel_images(output, CLIP, MEL), images, 2).mean() > 33  # 35.1


def test_more_steps_come_nearer(original: Tensor, images: Tensor, output: Tensor) -> None:
    few = invert_mel(images, CLIP, MEL, num_iterations=4)
    far, near = (spectral_convergence(w, original, CLIP, MEL).mean() for w in (few, output))
    assert near < 0.5 * far  # measured 0.104 and 0.283


def test_batch_of_two_is_two_of_one(images: Tensor) -> None:
    together = invert_mel(images[:2], CLIP, MEL, num_iterations=4)
    apart = torch.cat([invert_mel(one, CLIP, MEL, num_iterations=4) for one in images[:2].split(1)])
    assert_batch_of_two(together, apart)


def test_phase_comes_from_the_generator(images: Tensor) -> None:
    def once(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return invert_mel(images[:1], CLIP, MEL, num_iterations=2, generator=generator)

    assert torch.equal(once(None), once(None))
    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


@pytest.mark.parametrize("n_mels", [64, 256])
def test_silence_comes_back_as_silence(n_mels: int) -> None:
    mel = MelConfig(n_mels=n_mels)
    silence = mel_images(torch.zeros(1, SHORT.num_samples), SHORT, mel)
    assert invert_mel(silence, SHORT, mel, num_iterations=8).abs().max() == 0


def test_a_level_just_above_the_floor_is_below_minus_80_db() -> None:
    """Measured: -81 dBFS. A decoder does not hit the floor exactly."""
    images = torch.full((1, 1, SHORT.num_frames, 256, 32), -0.9999)
    rms = invert_mel(images, SHORT, MEL).square().mean().sqrt()
    assert 20 * math.log10(rms) < -80


def test_17_fps() -> None:
    clip = ClipSpec(num_frames=8, height=32, width=32, fps=Fraction(17), sample_rate=16320)
    wave = sounds(clip)[:1]
    output = invert_mel(mel_images(wave, clip, MEL), clip, MEL)
    assert output.shape == wave.shape
    assert envelope_correlation(output, wave, clip.sample_rate).min() > 0.99  # measured 0.997


def test_values_outside_the_range_are_clamped(images: Tensor) -> None:
    wild = torch.where(images[:1] > 0.2, 3.0, -2.0)
    tame = wild.clamp(-1, 1)
    assert torch.equal(
        invert_mel(wild, CLIP, MEL, num_iterations=1), invert_mel(tame, CLIP, MEL, num_iterations=1)
    )


def test_low_precision_images_give_float32(images: Tensor) -> None:
    wave = invert_mel(images[:1].bfloat16(), CLIP, MEL, num_iterations=1)
    assert wave.dtype == torch.float32 and wave.isfinite().all()


def test_no_value_is_read_on_the_way() -> None:
    """A meta tensor has no values, so this fails where a device would be waited for."""
    images = torch.zeros(2, 1, SHORT.num_frames, 256, 32, device="meta")
    assert invert_mel(images, SHORT, MEL, num_iterations=2).shape == (2, SHORT.num_samples)
    assert mel_images(torch.zeros(2, SHORT.num_samples, device="meta"), SHORT, MEL).shape == images.shape


def test_a_vocoder_can_stand_in(images: Tensor) -> None:
    vocoder: Vocoder = invert_mel
    assert vocoder(images[:1, :, :4, :64], SHORT, MelConfig(n_mels=64)).shape == (1, SHORT.num_samples)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"invert_mel: .* \(B,1,4,256,32\), got \(1, 4, 256, 32\)"):
        invert_mel(torch.zeros(1, 4, 256, 32), SHORT, MEL)
    with pytest.raises(ValueError, match=r"invert_mel: .* \(B,1,4,256,32\), got \(1, 1, 4, 64, 32\)"):
        invert_mel(torch.zeros(1, 1, 4, 64, 32), SHORT, MEL)
    with pytest.raises(TypeError, match="invert_mel: want floating-point images, got torch.uint8"):
        invert_mel(torch.zeros(1, 1, 4, 256, 32, dtype=torch.uint8), SHORT, MEL)
    with pytest.raises(ValueError, match=r"invert_mel: want num_iterations >= 0, got -1"):
        invert_mel(torch.zeros(1, 1, 4, 256, 32), SHORT, MEL, num_iterations=-1)
    with pytest.raises(ValueError, match=r"invert_mel: want win_length >= 2 \* hop_length, got 64 < 2 \* 50"):
        invert_mel(torch.zeros(1, 1, 4, 256, 32), SHORT, MelConfig(win_length=64))
    with pytest.raises(ValueError, match=r"istft: want win_length >= 2 \* hop_length, got 16 < 2 \* 12"):
        istft(torch.zeros(1, 8, 17, dtype=torch.complex64), torch.ones(16), 32, 12)
    with pytest.raises(ValueError, match=r"stft: want more samples .* = 999, got 950"):
        stft(torch.zeros(1, 950), torch.ones(512), 2048, 50)
