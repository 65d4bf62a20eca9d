"""The coupled U-Nets: size, random-shift attention against plain loops, what depends on what."""

from __future__ import annotations

import math

import pytest
import torch
from mm_diffusion_nano import CLIP, MODEL, UNET, noisy, small_unet
from torch.nn.functional import layer_norm

from pavdit.baselines.mm_diffusion.config import MMDiffusionConfig, UNetConfig
from pavdit.baselines.mm_diffusion.cross_attention import RandomShiftAttention, cross_attend, window_frames
from pavdit.baselines.mm_diffusion.unet import CoupledUNet
from pavdit.nn.recompute import recompute_layers


def test_the_papers_size():
    with torch.device("meta"):
        unet = CoupledUNet(UNetConfig(), num_frames=16)
    assert sum(p.numel() for p in unet.parameters()) == 133_675_524  # 133.68 M
    assert unet.windows == [1, 1, 4, 4, 8, 8, 8, 8, 8, 4, 4, 4, 1, 1, 1]


def test_sound_dilates_up_to_the_middle_and_back():
    with torch.device("meta"):
        unet = CoupledUNet(UNetConfig(), num_frames=16)
    down = [layer.block.audio_in.dilation[0] for layer in unet.down]
    up = [layer.block.audio_in.dilation[0] for layer in unet.up]
    assert down == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1, 2]
    assert up == [2, 1, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize(("window", "shift"), [(1, 0), (1, 3), (3, 1), (4, 0), (4, 2)])
def test_random_shift_attention_is_its_equation(window, shift):
    batch, num_frames, n, m, heads, dim = 2, 4, 3, 2, 2, 5
    random = torch.Generator().manual_seed(0)
    q = torch.randn(batch, num_frames, n, heads, dim, generator=random, dtype=torch.float64)
    kv = torch.randn(batch, num_frames, m, 2, heads, dim, generator=random, dtype=torch.float64)
    want = torch.zeros_like(q)
    for b in range(batch):
        for i in range(num_frames):
            keys = [kv[b, (i + shift + j) % num_frames, k] for j in range(window) for k in range(m)]
            for a in range(heads):
                for token in range(n):
                    scores = [math.exp(q[b, i, token, a] @ key[0, a] / dim**0.5) for key in keys]
                    for score, key in zip(scores, keys, strict=True):
                        want[b, i, token, a] += score / sum(scores) * key[1, a]
    frames = window_frames(num_frames, window, torch.tensor(shift))
    torch.testing.assert_close(cross_attend(q, kv, frames), want)
    if window == num_frames:  # no shift changes it, so it takes the shorter way
        torch.testing.assert_close(cross_attend(q, kv, None), want)


def test_the_sound_of_a_frame_attends_to_shifted_frames_alone():
    torch.manual_seed(0)
    block = RandomShiftAttention(8, 4, 1, window=1).double()
    torch.nn.init.normal_(block.audio_out.weight)
    video = torch.randn(1, 8, 4, 2, 2, dtype=torch.float64)
    audio = torch.randn(1, 8, 12, dtype=torch.float64, requires_grad=True)
    block.video_norm = torch.nn.Identity()  # which would see all frames
    video.requires_grad_()
    block(video, audio, torch.tensor(2))[1][..., 3:6].square().sum().backward()  # the sound of frame 1
    assert video.grad.any(dim=1).flatten(2).any(-1).tolist() == [[False, False, False, True]]


def test_shifts_are_drawn_from_0_to_what_the_window_leaves():
    unet = small_unet()
    random = torch.Generator().manual_seed(0)
    drawn = torch.stack([unet.draw_shifts(random) for _ in range(200)])
    for place, window in enumerate(unet.windows):
        assert set(drawn[:, place].tolist()) == set(range(4 - window + 1))


def test_attention_between_the_streams_compiles_whole_and_once_for_every_shift():
    block = next(layer.cross for layer in small_unet().down if layer.cross is not None)
    video, audio, graphs = torch.randn(2, 8, 4, 2, 2), torch.randn(2, 8, 16), []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(block, backend=count, fullgraph=True, dynamic=False)
    for shift in (0, 3):
        torch.testing.assert_close(
            compiled(video, audio, torch.tensor(shift)), block(video, audio, torch.tensor(shift))
        )
    assert len(graphs) == 1


def test_attention_over_time_normalises_a_pixel_over_its_frames():
    block = small_unet().middle.block.frames
    volume = torch.randn(1, 16, 4, 2, 2)
    pixel = volume[0, :, :, 1, 0]  # (C, T)
    normal = layer_norm(pixel.unflatten(0, (4, -1)), (4, 4)).flatten(0, 1).T
    added = block.attend((normal * block.norm.weight + block.norm.bias)[None])[0]
    torch.testing.assert_close(block(volume)[0, :, :, 1, 0], pixel + added.T)


def test_the_network_begins_at_zero_and_every_parameter_learns():
    video, audio, t = noisy()
    fresh = CoupledUNet(UNetConfig(**UNET), 4)
    assert not any(out.any() for out in fresh(video, audio, t, fresh.draw_shifts()))
    unet = small_unet()
    out = unet(video, audio, t, unet.draw_shifts())
    assert [o.shape for o in out] == [video.shape, audio.shape]
    sum(o.square().mean() for o in out).backward()
    assert [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_clip_of_a_batch_is_the_clip_alone_and_recomputing_changes_nothing():
    unet = small_unet(dropout=0.5).train()
    video, audio, t = noisy()
    shifts = torch.tensor([1] * len(unet.windows))
    unet.eval()
    both, alone = (unet(video[s], audio[s], t[s], shifts)[0] for s in (slice(2), slice(1)))
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-4)
    unet.train()
    gradients = []
    for recompute in (False, True):
        recompute_layers(unet, recompute)
        torch.manual_seed(5)
        sum(o.square().mean() for o in unet(video, audio, t, shifts)).backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters()})
        unet.zero_grad()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("unet", "clip", "words"),
    [
        ({"cross_attention": {3: 1}}, {}, "cross_attention at factors of \\[1, 2\\], got \\[3\\]"),
        ({"groups": 3}, {}, "a multiple of groups = 3, got 8"),
        ({"cross_attention": {2: 5}}, {}, "windows of 1 to 4 frames, got 5"),
        ({}, {"height": 9}, "multiples of 2\\^\\(levels - 1\\) = 2, got 9 x 8"),
        (
            {},
            {"fps": 25, "sample_rate": 8050, "columns_per_frame": 2},
            "samples_per_frame a multiple of 4\\^",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(unet, clip, words):
    with pytest.raises(ValueError, match=words):
        MMDiffusionConfig.model_validate(MODEL | {"unet": UNET | unet, "clip": CLIP | clip})
