"""AV-Align and its parts where the answer is known; against the peers' own code in `tests/golden`."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pavdit.clip import Clip
from pavdit.metrics.av_align import (
    Alignment,
    av_align,
    coinciding,
    grey,
    motion,
    motion_peaks,
    short_side,
)
from pavdit.metrics.librosa_onsets import onset_times, pick_onsets
from pavdit.metrics.optical_flow import farneback_flow


def texture(rows: int, columns: int) -> torch.Tensor:
    """Grey, smooth at the scale of some pixels."""
    noise = torch.rand(1, 1, rows // 4, columns // 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (rows, columns), mode="bicubic")[0, 0].clamp(0, 1) * 255


@pytest.mark.parametrize("size", [(64, 96), (40, 40)])
def test_flow_follows_what_moves(size):
    before = texture(size[0] + 8, size[1] + 8)
    window = [before[4 - dy : 4 - dy + size[0], 4 - dx : 4 - dx + size[1]] for dx, dy in ((0, 0), (2, -1))]
    flow = farneback_flow(torch.stack(window))
    inner = flow[0, :, 12:-12, 12:-12]
    assert flow.shape == (1, 2, *size)
    assert inner.mean(dim=(1, 2)).tolist() == pytest.approx([2, -1], abs=0.05)
    assert inner.std(dim=(1, 2)).max() < 0.1


def test_nothing_moves_without_texture():
    assert motion(torch.full((3, 32, 48), 7, dtype=torch.uint8)).tolist() == [0, 0, 0]


def test_motion_does_not_depend_on_how_frames_are_grouped():
    pictures = torch.stack([texture(32, 32).roll(i * i, 1) for i in range(7)])
    pairs = [farneback_flow(pictures[i : i + 2]).norm(dim=1).mean().item() for i in range(6)]
    assert motion(pictures) == pytest.approx([pairs[0], *pairs], rel=1e-5)


def test_peaks_of_motion_are_strict_and_those_of_2025_move():
    lengths = np.array([9.0, 1.0, 2.0, 2.0, 1.0, 3.0, 0.01, 0.09, 0.01, 5.0])
    assert motion_peaks(lengths, 10).tolist() == [0.5]
    assert motion_peaks(lengths, 10, "2023").tolist() == [0.5, 0.7]


def test_one_peak_answers_one_onset_or_in_2023_many():
    onsets, peaks = np.array([0.11, 0.15, 0.19, 0.72]), np.array([0.1, 0.7])
    assert Alignment(4, 2, coinciding(onsets, peaks, 10)).score == 2 / 4
    assert Alignment(4, 2, coinciding(onsets, peaks, 10, "2023")).score == 4 / 2
    assert coinciding(np.array([0.5]), np.array([1.0]), 2) == 0  # a whole frame apart


def test_without_anything_there_is_no_score():
    assert math.isnan(Alignment(0, 0, 0).score)
    assert Alignment(3, 0, 0).score == 0


def test_onsets_are_where_clicks_are():
    wave = np.zeros(16000)
    for at in (4000, 10000):
        wave[at : at + 400] = np.sin(np.arange(400)) * np.exp(-np.arange(400) / 80)
    found = onset_times(wave, 16000)
    assert found == pytest.approx([0.25, 0.625], abs=0.035)
    assert not len(onset_times(np.zeros(16000), 16000))


def test_onsets_stand_out_and_wait():
    strength = np.array([0, 0, 0, 9, 10, 0, 0, 8, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0, 0.9, 0, 0, 0, 0, 0])
    # 10 follows too soon on 9; 0.5 is less than 0.07 of the highest above its surroundings.
    assert pick_onsets(strength).tolist() == [3, 7, 19]


def test_grey_weighs_colours_as_opencv_does():
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    assert grey(colours.T[None, :, None]).flatten().tolist() == [76, 150, 29, 255]


def test_pictures_have_one_short_side():
    checks = torch.tensor([0, 100], dtype=torch.uint8).repeat(20, 30, 15)[None, :3]  # (1, 3, 30, 30)
    assert (short_side(checks, 15) == 50).all()
    wide = torch.arange(40, dtype=torch.uint8).expand(1, 3, 24, 40)
    third = short_side(wide, 16)
    assert third.shape == (1, 3, 16, 27)
    assert third[0, 0, 0, :2].tolist() == [round((0 + 0.48148) / 1.48148), 2]
    assert short_side(wide, 48).shape == (1, 3, 48, 80)


def test_a_jump_and_a_click_together():
    scene = texture(64, 64).byte()
    frames = torch.stack([scene.roll(shift, 1).expand(3, -1, -1) for shift in (0, 0, 3, 3)])
    wave = torch.zeros(16000)
    wave[8000:8400] = torch.sin(torch.arange(400.0)) * torch.exp(-torch.arange(400) / 80)
    assert av_align(Clip(frames, wave, Fraction(4), 16000)) == Alignment(1, 1, 1)


def test_pictures_that_have_no_flow_are_refused():
    with pytest.raises(ValueError, match=r"^farneback_flow: want at least 2 pictures .* got \(1, 32, 32\)"):
        farneback_flow(torch.zeros(1, 32, 32))


def test_sound_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"^onset_strength: want a finite wave \(S,\), got shape \(2,\)"):
        onset_times(np.array([0.0, np.nan]), 16000)
