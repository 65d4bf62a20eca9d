"""How pictures are resized and frames chosen, against MM-Diffusion, PVDM and torchvision's VideoClips."""

import numpy as np
import pytest
import torch

from pavdit.media.numbered import frame_numbers, num_resampled
from pavdit.media.resize import resize_picture, scaled


@pytest.mark.parametrize(("suffix", "rule"), [("0", "mmdiffusion"), ("1", "mmdiffusion-antialiased")])
@pytest.mark.parametrize("side", [64, 256])
def test_mmdiffusion_pictures(golden, side, suffix, rule):
    stored = golden("resize.npz")
    for raw, want in zip(stored["raw"], stored[f"mmdiff_pad_{side}_antialias{suffix}"], strict=True):
        assert np.array_equal(resize_picture(raw, side, side, rule), want)


def test_pvdm_pictures(golden):
    stored = golden("resize.npz")
    for raw, want in zip(
        stored["raw"], stored["pvdm_centercrop_bilinear_256"].transpose(1, 0, 2, 3), strict=True
    ):
        got = scaled(torch.from_numpy(raw).permute(2, 0, 1).float(), 256, 256, "pvdm")
        assert np.abs(got.numpy() - want).max() <= 1e-3


def test_frame_numbers(golden):
    for case in golden("videoclips_10fps_index.json"):
        rate = case["src_fps"]
        clips = num_resampled(case["n_frames"], rate, 10.0) - 16 + 1
        assert clips == case["n_clips"], case
        assert frame_numbers(16, 0, rate, 10.0).tolist() == case["first_clip_pts"], case
        assert frame_numbers(16, clips - 1, rate, 10.0).tolist() == case["last_clip_pts"], case
