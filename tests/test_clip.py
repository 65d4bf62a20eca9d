"""Rates, sizes, and what a clip refuses."""

from fractions import Fraction

import pytest
import torch

from pavdit.clip import Clip, ClipSpec, frames_to_volume, volume_to_frames


def test_the_papers_clip():
    spec = ClipSpec(num_frames=16, height=256, width=256)
    assert (spec.hop_length, spec.samples_per_frame, spec.num_samples) == (50, 1600, 25600)
    assert spec.duration_seconds == Fraction(8, 5)


def test_uniforms_clip():
    spec = ClipSpec(num_frames=68, height=256, width=256, fps=17, sample_rate=16320)
    assert (spec.hop_length, spec.samples_per_frame, spec.duration_seconds) == (30, 960, 4)


def test_a_rate_without_a_whole_hop_names_one_that_works():
    with pytest.raises(ValueError, match="the next rate that works is 16320 Hz"):
        ClipSpec(num_frames=68, height=256, width=256, fps=17)


@pytest.mark.parametrize("rate", ["30000/1001", 12.5, 24, Fraction(24000, 1001)])
def test_the_rate_it_names_does_work(rate):
    try:
        spec = ClipSpec(num_frames=4, height=8, width=8, fps=rate, sample_rate=16001)
    except ValueError as error:
        named = int(str(error).split(" is ")[1].split()[0])
        assert named >= 16001
        spec = ClipSpec(num_frames=4, height=8, width=8, fps=rate, sample_rate=named)
    assert spec.samples_per_frame * spec.fps == spec.sample_rate


def test_a_float_rate_is_the_decimal_it_shows():
    assert ClipSpec(1, 8, 8, fps=12.5, sample_rate=16000).fps == Fraction(25, 2)


def test_an_empty_clip_is_refused():
    with pytest.raises(ValueError, match="num_frames > 0, got 0"):
        ClipSpec(num_frames=0, height=8, width=8)


def make(**changes):
    parts = {
        "frames": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        "wave": torch.zeros(3200),
        "fps": 10,
        "sample_rate": 16000,
        "name": "a.mp4",
    }
    return Clip(**{**parts, **changes})


def test_a_clip_that_fits_its_spec_passes():
    clip = make()
    assert clip.require(ClipSpec(2, 8, 8)) is clip


def test_a_clip_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="clip a.mp4: want .* 4800, 16000.*, got .* 3200, 16000"):
        make().require(ClipSpec(3, 8, 8))


def test_float_frames_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        make(frames=torch.zeros(2, 3, 8, 8))


def test_a_stereo_wave_is_refused():
    with pytest.raises(ValueError, match=r"wave \(S,\) float32"):
        make(wave=torch.zeros(2, 3200))


def test_frames_survive_the_way_through_a_volume():
    frames = torch.randint(
        0, 256, (3, 5, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    volume = frames_to_volume(frames)
    assert volume.shape == (3, 3, 5, 4, 6)
    assert torch.equal(volume[1, 2, 4], frames[1, 4, 2].float() / 127.5 - 1)
    assert torch.equal(volume_to_frames(volume), frames)


def test_a_volume_outside_the_range_is_clamped():
    volume = torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2).expand(3, 1, 1, 2)
    assert volume_to_frames(volume)[0, 0, 0].tolist() == [0, 255]
