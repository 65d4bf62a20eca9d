"""AV-Align against TempoTokens (2025-02, 2023-10) and JavisDiT, with librosa's onsets and OpenCV's flow."""

import wave

import av
import numpy as np
import pytest
import torch

from pavdit.metrics.av_align import Alignment, coinciding, grey, motion, motion_peaks, short_side
from pavdit.metrics.librosa_onsets import onset_times

FLOW, FLOW_OF_A_FILE = 1e-4, 1e-3
"""Relative above one pixel: of the same frames (1.3e-5 found), and of a file's (1.9e-4, median 4e-6)."""


@pytest.fixture(scope="module")
def stored(golden):
    return golden("av_align/av_align.json")


def sound(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768, file.getframerate()


def off(lengths, want):
    return (np.abs(lengths - want) / np.maximum(1, want)).max()


def holds(case, onsets, lengths, fps):
    """Times and scores of a case, given how far things moved."""
    assert onsets.tolist() == case["audio_peaks_s"]
    for version, suffix, name in (("2025", "", ""), ("2023", "_2023", "_2023")):
        peaks = motion_peaks(lengths, fps, version)
        assert peaks.tolist() == case[f"video_peaks{suffix}_s"]
        got = Alignment(len(onsets), len(peaks), coinciding(onsets, peaks, fps, version))
        assert got.score == case[f"av_align_tempotokens{name}"]


def test_lists_of_times(stored):
    for case in stored["iou_logic"]:
        for version in ("2025", "2023"):
            matches = coinciding(np.array(case["a"]), np.array(case["v"]), case["fps"], version)
            got = Alignment(len(case["a"]), len(case["v"]), matches)
            assert got.score == case[f"tempotokens_{version}"]
        # JavisDiT's form is that of 2023 with a constant in the denominator.
        union = got.onsets + got.peaks - got.coinciding
        assert got.coinciding / (union + 1e-6) == pytest.approx(case["javis"], rel=1e-12)


def test_sixteen_frames(stored, golden):
    frames = golden("av_align/frames16_128_rgb.npz")
    for case in stored["cases"]:
        pictures = torch.from_numpy(frames[case["clip"]]).permute(0, 3, 1, 2)
        lengths = motion(grey(pictures))
        assert off(lengths, case["clip16"]["flow"]) <= FLOW, case["clip"]
        holds(case["clip16"], onset_times(*sound(golden(f"av_align/{case['clip']}_1p6s.wav"))), lengths, 10.0)


def test_onsets_of_whole_files(stored, golden):
    for case in stored["cases"]:
        onsets = onset_times(*sound(golden(f"av_align/{case['clip']}.wav")))
        assert onsets.tolist() == case["full"]["audio_peaks_s"], case["clip"]


def test_motion_in_whole_files(stored, golden):
    found = 0
    for case in stored["cases"]:
        path = golden(f"../{case['source']}").resolve()
        if not path.exists():
            continue
        found += 1
        with av.open(str(path)) as file:
            # OpenCV spreads colour as swscale's bicubic filter does.
            frames = [f.to_ndarray(format="rgb24", interpolation="BICUBIC") for f in file.decode(video=0)]
        pictures = short_side(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))
        assert list(pictures.shape[2:]) == case["flow_frame_size"]
        lengths = motion(grey(pictures))
        assert off(lengths, case["full"]["flow"]) <= FLOW_OF_A_FILE, case["clip"]
        holds(case["full"], np.array(case["full"]["audio_peaks_s"]), lengths, case["fps"])
    assert found, f"no clip of {[case['source'] for case in stored['cases']]} lies beside the folder"
