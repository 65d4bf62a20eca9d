"""Measures of pictures and sounds against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import assert_equation
from torch import Tensor

from pavdit.metrics.signal import border_jump, envelope_correlation, log_spectral_distance_db, psnr


def waves(batch: int, samples: int = 6400, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, samples, generator=generator, dtype=torch.float64) - 0.5


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_psnr_of_a_known_error() -> None:
    a = torch.zeros(2, 3, 4, 5, 5)
    b = a + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1, 1)
    assert psnr(a, b, 1).tolist() == pytest.approx([20, 40], abs=1e-5)
    assert psnr(a, a, 1).tolist() == [math.inf, math.inf]


def test_psnr_on_either_range_is_one_number() -> None:
    a, b = waves(2), waves(2, seed=1)
    assert_equation(psnr(a, b, 2), psnr((a + 1) / 2, (b + 1) / 2, 1))


def test_psnr_of_bytes_does_not_wrap_around() -> None:
    a = torch.zeros(1, 4, dtype=torch.uint8)
    assert psnr(a, a + 255, 255).tolist() == [0.0]


def test_lsd_is_its_definition() -> None:
    output, original = waves(2), waves(2, seed=1) * torch.linspace(0, 1, 6400, dtype=torch.float64) ** 9
    window = [0.5 - 0.5 * math.cos(2 * math.pi * i / 1024) for i in range(1024)]
    want = []
    for ours, theirs in zip(output, original, strict=True):
        levels = []
        for wave in (ours, theirs):
            pieces = [wave[s : s + 1024] * column(*window) for s in range(0, 6400 - 1024 + 1, 256)]
            levels.append(torch.stack([20 * torch.fft.rfft(piece).abs().log10() for piece in pieces]))
        floor = float(levels[1].max()) - 60
        raised = [level.clamp(min=floor) for level in levels]
        assert (levels[1] < floor).any()
        per_frame = [math.sqrt(float((a - b).square().mean())) for a, b in zip(*raised, strict=True)]
        want.append(sum(per_frame) / len(per_frame))
    assert_equation(log_spectral_distance_db(output, original), column(*want))


def test_lsd_of_a_gain_is_the_gain() -> None:
    wave = waves(1)
    assert log_spectral_distance_db(0.5 * wave, wave).item() == pytest.approx(6.0206, abs=1e-3)
    assert log_spectral_distance_db(wave, wave).item() == 0


def test_lsd_with_silence() -> None:
    """Silence is 60 dB below the original's peak and no lower; a silent original has no peak."""
    wave = torch.zeros(1, 6400, dtype=torch.float64)
    wave[0, ::1024] = 1  # one click in each column: a flat spectrum, but for the window over the click
    assert 0 < log_spectral_distance_db(torch.zeros_like(wave), wave).item() <= 60
    assert log_spectral_distance_db(wave, torch.zeros_like(wave)).isnan().all()


@pytest.mark.parametrize("sample_rate", [16000, 16320])
def test_envelope_correlation_is_pearsons(sample_rate: int) -> None:
    loudness = torch.linspace(0.1, 1, 6400, dtype=torch.float64)
    output, original = waves(1) * loudness, waves(1, seed=1) * loudness.sqrt()
    step = sample_rate / 100
    envelopes = []
    for wave in (output[0], original[0]):
        ends = [round(i * step) for i in range(int(6400 / step) + 1)]
        envelopes.append(
            [float(wave[a:b].square().mean().sqrt()) for a, b in zip(ends, ends[1:], strict=False)]
        )
    want = torch.corrcoef(torch.tensor(envelopes, dtype=torch.float64))[0, 1]
    assert len(envelopes[0]) == (40 if sample_rate == 16000 else 39)
    assert_equation(envelope_correlation(output, original, sample_rate), want[None])


def test_envelope_does_not_see_the_phase_but_sees_the_time() -> None:
    loudness = torch.zeros(1, 6400, dtype=torch.float64)
    loudness[0, 1600:2400] = 1
    sound = waves(1) * loudness
    assert envelope_correlation(-3 * sound, sound, 16000).item() == pytest.approx(1)
    assert envelope_correlation(sound.roll(1600, 1), sound, 16000).item() < 0
    assert envelope_correlation(sound, torch.zeros_like(sound), 16000).isnan().all()


def test_border_jump_is_its_definition() -> None:
    output, original = waves(2), waves(2, seed=1)
    want = []
    for b in range(2):
        roughness = []
        for wave in (output[b].tolist(), original[b].tolist()):
            steps = [abs(y - x) for x, y in zip(wave, wave[1:], strict=False)]
            borders = [abs(wave[k] - wave[k - 1]) for k in range(1600, 6400, 1600)]
            roughness.append(sum(borders) / len(borders) / (sum(steps) / len(steps)))
        want.append(roughness[0] / roughness[1])
    assert_equation(border_jump(output, original, 1600), column(*want))


def test_border_jump_sees_a_buzz_at_frame_rate() -> None:
    smooth = torch.sin(torch.linspace(0, 40, 6400, dtype=torch.float64))[None]
    gain = torch.tensor([1.0, 0.8, 1.0, 0.8], dtype=torch.float64).repeat_interleave(1600)
    assert border_jump(smooth * gain, smooth, 1600).item() > 3
    assert border_jump(smooth, smooth, 1600).item() == 1


def test_wrong_shapes() -> None:
    wave = waves(1)
    with pytest.raises(
        ValueError, match=r"psnr: want two tensors \(B,...\) of one shape, got \(1, 6400\), \(2, 64"
    ):
        psnr(wave, waves(2), 1)
    with pytest.raises(
        ValueError, match=r"log_spectral_distance_db: .* S >= 1024, got \(1, 1000\), \(1, 1000\)"
    ):
        log_spectral_distance_db(waves(1, 1000), waves(1, 1000))
    with pytest.raises(ValueError, match=r"envelope_correlation: .* got \(6400,\), \(6400,\)"):
        envelope_correlation(wave[0], wave[0], 16000)
    with pytest.raises(ValueError, match=r"border_jump: .* S >= 1601, got \(1, 1600\), \(1, 1600\)"):
        border_jump(waves(1, 1600), waves(1, 1600), 1600)
