"""One stream without the other: given alone, or hidden by a mask, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pavdit.config import ModelConfig
from pavdit.latents import Planes
from pavdit.mdsa import MDSA, StreamMasks

Streams = tuple[Tensor, Tensor]


def assert_same(got: Planes, want: Planes) -> None:
    assert torch.equal(got.hw, want.hw) and torch.equal(got.tw, want.tw) and torch.equal(got.th, want.th)


def differ(got: Planes, want: Planes) -> bool:
    return not (torch.equal(got.hw, want.hw) or torch.equal(got.tw, want.tw) or torch.equal(got.th, want.th))


def masks(*, video_sees: bool, audio_sees: bool) -> dict[str, Tensor]:
    return {
        "video_sees_audio": torch.full((2,), video_sees),
        "audio_sees_video": torch.full((2,), audio_sees),
    }


@torch.no_grad()
@pytest.mark.parametrize("fill", [0.0, 1.0, torch.nan, torch.inf], ids=["silence", "loud", "nan", "inf"])
def test_hidden_audio_does_not_touch_the_video_latent(model: MDSA, streams: Streams, fill: float) -> None:
    video, audio = streams
    alone, none = model.encode(video, None)
    assert none is None
    got, _ = model.encode(video, torch.full_like(audio, fill), **masks(video_sees=False, audio_sees=True))
    assert_same(got.mean, alone.mean)


@torch.no_grad()
def test_hidden_video_does_not_touch_the_audio_latent(model: MDSA, streams: Streams) -> None:
    video, audio = streams
    _, alone = model.encode(None, audio)
    _, got = model.encode(video * torch.nan, audio, **masks(video_sees=True, audio_sees=False))
    assert_same(got.mean, alone.mean)


@torch.no_grad()
def test_seen_audio_touches_all_planes_of_the_video(model: MDSA, streams: Streams) -> None:
    video, audio = streams
    alone, _ = model.encode(video, None)
    joint, _ = model.encode(video, audio)
    other, _ = model.encode(video, -audio)
    assert differ(joint.mean, alone.mean) and differ(joint.mean, other.mean)


@torch.no_grad()
def test_mask_is_per_sample(model: MDSA, streams: Streams) -> None:
    first_only = torch.tensor([True, False])
    joint, _ = model.encode(*streams)
    alone, _ = model.encode(streams[0], None)
    got, _ = model.encode(*streams, video_sees_audio=first_only)
    assert torch.equal(got.mean.tw[0], joint.mean.tw[0]) and torch.equal(got.mean.tw[1], alone.mean.tw[1])


@torch.no_grad()
def test_hidden_audio_does_not_touch_the_decoded_video(model: MDSA, streams: Streams) -> None:
    video, audio = (q.mode() for q in model.encode(*streams))
    alone, none = model.decode(video, None)
    assert none is None
    broken = audio.map(lambda plane: plane * torch.nan)
    got, _ = model.decode(video, broken, **masks(video_sees=False, audio_sees=True))
    assert torch.equal(got, alone)
    seen, _ = model.decode(video, audio)
    assert not torch.equal(seen, alone)


@torch.no_grad()
def test_hidden_video_does_not_touch_the_decoded_audio(model: MDSA, streams: Streams) -> None:
    video, audio = (q.mode() for q in model.encode(*streams))
    _, alone = model.decode(None, audio)
    broken = video.map(lambda plane: plane * torch.nan)
    _, got = model.decode(broken, audio, **masks(video_sees=True, audio_sees=False))
    assert torch.equal(got, alone)


@torch.no_grad()
def test_without_exchange_the_streams_are_two_autoencoders(
    system: Callable[..., ModelConfig], streams: Streams
) -> None:
    model = MDSA(system(gcm_attn=False, bi_block_attn=False))
    video, audio = streams
    assert torch.equal(model(video, audio * torch.nan).video, model(video, audio).video)


def test_missing_stream_gives_no_gradient_and_no_nan(model: MDSA, streams: Streams) -> None:
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    video, audio = streams
    output = model(video, audio * torch.nan, StreamMasks(yes, no, no, no, no, no))
    output.video.square().mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(g.isfinite().all() for g in gradients.values())
    assert gradients["video_encoder.patch.proj.weight"].any()
    assert not any(g.any() for n, g in gradients.items() if n.startswith("audio"))
    assert not any(g.any() for n, g in gradients.items() if n.startswith(("gcm_attn", "bi_block_attn")))


def test_nothing_to_encode_is_refused(model: MDSA) -> None:
    with pytest.raises(ValueError, match="encode: want video, audio or both, got neither"):
        model.encode(None, None)


def test_nothing_to_decode_is_refused(model: MDSA) -> None:
    with pytest.raises(ValueError, match="decode: want video planes, audio planes or both, got neither"):
        model.decode(None, None)


def test_wrong_shape_names_the_stream(model: MDSA, streams: Streams) -> None:
    with pytest.raises(
        ValueError, match=r"encode: want audio \(B, 1, 12, 16, 24\), got \(2, 1, 12, 16, 20\)"
    ):
        model.encode(streams[0], streams[1][..., :20])


def test_unequal_batches_are_refused(model: MDSA, streams: Streams) -> None:
    with pytest.raises(ValueError, match="encode: want one batch size, got 2 and 1"):
        model.encode(streams[0], streams[1][:1])


def test_planes_of_another_grid_are_refused(model: MDSA, streams: Streams) -> None:
    video, _ = model.encode(streams[0], None)
    planes = video.mode()
    with pytest.raises(ValueError, match=r"decode: want video planes hw, tw, th of shapes \[\(2, 4, 4, 6\)"):
        model.decode(Planes(planes.hw, planes.th, planes.tw), None)
