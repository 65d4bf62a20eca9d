"""Frames by number: the peers' arithmetic, and what a file gives."""

from fractions import Fraction

import numpy as np
import pytest
from media_files import burst, burst_time, flat, write_media

from pavdit.clip import ClipSpec, DataError
from pavdit.media import read_clip
from pavdit.media.numbered import frame_numbers, num_resampled

SPEC = ClipSpec(num_frames=16, height=32, width=32)


def test_numbers_are_rounded_down():
    assert frame_numbers(6, 0, 30000 / 1001, 10).tolist() == [0, 2, 5, 8, 11, 14]
    assert frame_numbers(4, 3, 30, 10).tolist() == [9, 12, 15, 18]
    assert frame_numbers(6, 0, 8, 10).tolist() == [0, 0, 1, 2, 3, 4]


def test_the_last_number_lies_in_the_file():
    for frames, rate in ((301, 30.0), (300, 30000 / 1001), (64, 8.0), (62, 14.96), (1, 24.0)):
        count = num_resampled(frames, rate, 10)
        assert not count or frame_numbers(1, count - 1, rate, 10)[0] < frames
        assert frame_numbers(1, count + 1, rate, 10)[0] >= frames


def test_a_file_gives_the_frames_of_these_numbers_and_their_sound(tmp_path):
    levels = 20 + 4 * np.arange(50)
    path = write_media(
        tmp_path / "clip.mp4", pictures=flat(levels), fps=Fraction(25), sound=burst(2.0, 1.0, 16000)
    )
    clip = read_clip(path, SPEC, start_seconds=Fraction(3, 10), frame_rule="number")
    numbers = [7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 42, 45]
    assert np.abs(clip.frames.float().mean((1, 2, 3)).numpy() - levels[numbers]).max() <= 2
    assert burst_time(clip.wave.numpy(), 16000) == pytest.approx(1.0 - 7 / 25, abs=1e-3)


def test_a_file_with_fewer_frames_than_its_rate_says_is_an_error(tmp_path):
    # The pictures end early, the sound does not, and the header speaks of both.
    path = write_media(
        tmp_path / "clip.mkv", pictures=flat([80] * 15), fps=Fraction(10), sound=burst(2.0, 1.0, 16000)
    )
    with pytest.raises(DataError, match="clip.mkv: want"):
        read_clip(path, SPEC, frame_rule="number")
