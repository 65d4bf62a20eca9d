"""MDSA as a whole: sizes, gradients, ablations, save and load, one clip whatever its batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from numerics import assert_batch_of_two
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pavdit.clip import ClipSpec
from pavdit.config import PRESETS, ModelConfig, tiny, xl
from pavdit.encoders import Autoencoder
from pavdit.latents import Planes
from pavdit.mdsa import MDSA, draw_frames, draw_noise, mdsa_loss

Config = Callable[..., ModelConfig]
Streams = tuple[Tensor, Tensor]


def count(*modules: nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module is not None for p in module.parameters())


def stream_parameters(model: MDSA) -> int:
    """The video stream without what PAV-DiT adds to a TimeSformer autoencoder with projectors."""
    encoder, decoder = model.video_encoder, model.video_decoder
    return count(encoder, model.video_to_latent, decoder) - count(encoder.plane_attention)


def on_meta(config: ModelConfig) -> MDSA:
    with torch.device("meta"):
        return MDSA(config)


def inputs(config: ModelConfig, batch: int = 1, device: str = "cpu") -> Streams:
    clip = config.clip
    video = torch.rand(batch, 3, clip.num_frames, clip.height, clip.width, device=device) * 2 - 1
    audio = torch.rand(batch, 1, clip.num_frames, config.mel.n_mels, clip.columns_per_frame, device=device)
    return video, audio * 2 - 1


def latent_noise(model: MDSA, batch: int = 2) -> tuple[Planes, Planes]:
    generator = torch.Generator().manual_seed(0)
    video, audio = (draw_noise(batch, model.latent_channels, model.grid, generator) for _ in range(2))
    return video, audio


def shapes(planes: Planes) -> tuple[tuple[int, ...], ...]:
    return tuple(planes.hw.shape), tuple(planes.tw.shape), tuple(planes.th.shape)


@pytest.fixture(scope="module")
def largest() -> MDSA:
    return on_meta(xl())


def test_video_stream_of_xl_has_the_parameters_of_pvdm(largest: MDSA) -> None:
    assert abs(stream_parameters(largest) / 62.06e6 - 1) < 0.005


def test_xl_makes_8192_values_a_stream_and_returns_what_it_was_given(largest: MDSA) -> None:
    video, audio = inputs(xl(), device="meta")
    output = largest(video, audio)
    assert output.video.shape == video.shape and output.audio.shape == audio.shape
    for posterior in (output.video_posterior, output.audio_posterior):
        planes = posterior.mode()
        assert planes.hw.numel() + planes.tw.numel() + planes.th.numel() == 8192


@pytest.mark.parametrize("preset", ["tiny", "small", "medium"])  # base has the autoencoder of xl
def test_presets_return_what_they_were_given(preset: str) -> None:
    config = PRESETS[preset]()
    video, audio = inputs(config, batch=2, device="meta")
    output = on_meta(config)(video, audio)
    assert output.video.shape == video.shape and output.audio.shape == audio.shape
    t, h, w = config.grid
    assert shapes(output.video_posterior.mean) == ((2, 4, h, w), (2, 4, t, w), (2, 4, t, h))


CLIPS = {
    "one_block_of_frames": ClipSpec(4, 32, 32),
    "T16_at_64": ClipSpec(16, 64, 64),
    "T16_at_128": ClipSpec(16, 128, 128),
    "T12": ClipSpec(12, 32, 32),
    "17_fps": ClipSpec(8, 32, 32, fps=17, sample_rate=16320),
    "wide": ClipSpec(8, 32, 64),
}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_sizes_come_from_the_configuration(clip: ClipSpec) -> None:
    patch = 8 if clip.height == 128 else 4
    mdsa = {"encoder_depth": 1, "decoder_depth": 1, "projector_depth": 1, "width": 64, "patch_size": patch}
    config = tiny().model_copy(update={"clip": clip, "mdsa": tiny().mdsa.model_copy(update=mdsa)})
    config = ModelConfig.model_validate(config.model_dump())
    video, audio = inputs(config)
    with torch.no_grad():
        output = MDSA(config)(video, audio)
    t, h, w = config.grid
    assert (t, h, w) == (clip.num_frames, clip.height // patch, clip.width // patch)
    assert output.video.shape == video.shape and output.audio.shape == audio.shape
    assert shapes(output.audio_posterior.mean) == ((1, 4, h, w), (1, 4, t, w), (1, 4, t, h))
    assert output.video.isfinite().all() and output.audio.isfinite().all()


def test_gradient_reaches_every_parameter(model: MDSA, streams: Streams) -> None:
    output = model(*streams, noise=latent_noise(model))
    frames = draw_frames(2, 12, torch.Generator().manual_seed(0))
    mdsa_loss(output, *streams, frames, kl_target="latent")["loss"].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_first_stage_leaves_the_variance_heads_alone(model: MDSA, streams: Streams) -> None:
    frames = draw_frames(2, 12)
    mdsa_loss(model(*streams), *streams, frames)["loss"].backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert idle and all("log_variance" in name for name in idle)


def test_sampling_is_the_only_difference_of_the_second_stage(model: MDSA, streams: Streams) -> None:
    model.eval()
    first, again = (model(*streams, noise=latent_noise(model)) for _ in range(2))
    assert torch.equal(first.video, again.video)
    assert not torch.equal(first.video, model(*streams).video)
    silent = tuple(planes.map(torch.zeros_like) for planes in latent_noise(model))
    assert torch.equal(model(*streams, noise=silent).audio, model(*streams).audio)


@pytest.mark.parametrize(
    ("switch", "part"),
    [("gcm_attn", "gcm_attn"), ("bi_block_attn", "bi_block_attn"), ("mt_self_attn", "plane_attention.t")],
)
def test_ablation_removes_the_module(switch: str, part: str, system: Config, streams: Streams) -> None:
    whole, ablated = MDSA(system()), MDSA(system(**{switch: False}))
    gone = {n for n, _ in whole.named_parameters()} - {n for n, _ in ablated.named_parameters()}
    assert gone and all(part in name for name in gone)
    assert not any(part in name for name, _ in ablated.named_parameters())
    assert ablated(*streams).video.shape == streams[0].shape


def test_sparse_blocks_and_own_scales_run(system: Config, streams: Streams) -> None:
    output = MDSA(system(bi_block=(4, 2, 3), share_scales=False))(*streams)
    assert output.video.isfinite().all() and output.audio.isfinite().all()


def test_batch_of_two_is_two_batches_of_one(model: MDSA, streams: Streams) -> None:
    video, audio = streams
    with torch.no_grad():
        together = model(video, audio)
        apart = [model(video[i : i + 1], audio[i : i + 1]) for i in range(2)]
    assert_batch_of_two(together.video, torch.cat([one.video for one in apart]), what="video")
    assert_batch_of_two(together.audio, torch.cat([one.audio for one in apart]), what="audio")


@pytest.mark.parametrize("gcm_attn", [True, False])
def test_both_ways_of_encoding_are_what_encode_gives(
    gcm_attn: bool, system: Config, streams: Streams
) -> None:
    model = MDSA(system(gcm_attn=gcm_attn)).eval()
    with torch.no_grad():
        joint, alone = model.latents_both_ways(*streams)
        want_joint, want_alone = Autoencoder.latents_both_ways(model, *streams)
        modes = [None if q is None else q.mode() for q in model.encode(*streams)]
    for got, want in zip((*joint, *alone, *joint), (*want_joint, *want_alone, *modes), strict=True):
        assert want is not None
        for name in ("hw", "tw", "th"):
            assert torch.equal(getattr(got, name), getattr(want, name))


def test_saved_weights_give_the_same_clip(
    model: MDSA, system: Config, streams: Streams, tmp_path: Path
) -> None:
    save_file(model.state_dict(), tmp_path / "mdsa.safetensors")
    other = MDSA(system())
    other.load_state_dict(load_file(tmp_path / "mdsa.safetensors"))
    assert torch.equal(other(*streams).video, model(*streams).video)


def test_autocast_keeps_the_clip_close(model: MDSA, streams: Streams) -> None:
    with torch.no_grad():
        want = model(*streams).video
        with torch.autocast("cpu", torch.bfloat16):
            got = model(*streams).video
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().mean() < 0.03 * want.abs().mean()


def test_bfloat16_weights_run(model: MDSA, streams: Streams) -> None:
    video, audio = (x.bfloat16() for x in streams)
    assert model.bfloat16()(video, audio).audio.isfinite().all()


@torch.no_grad()
def test_calibration_takes_level_and_contrast_out_of_the_tokens_and_puts_the_level_into_the_frames():
    config = tiny()
    torch.manual_seed(0)
    model = MDSA(config)
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(3, *model.video_shape, generator=generator) * 0.05 - 0.6
    video[:, 1] += 0.3
    audio = torch.randn(3, *model.audio_shape, generator=generator) * 0.3 - 0.8
    mean = video.mean((0, 2, 3, 4))
    standard = (video - mean.view(-1, 1, 1, 1)) / (video - mean.view(-1, 1, 1, 1)).square().mean().sqrt()
    want = model.video_encoder.patch(standard) - model.video_encoder.patch.proj.bias
    bias = model.video_encoder.patch.proj.bias.clone()
    model.calibrate(video, audio)
    torch.testing.assert_close(model.video_encoder.patch(video), want + bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.video_decoder.to_pixels.bias, mean)
    torch.testing.assert_close(model.audio_decoder.to_pixels.bias, audio.mean((0, 2, 3, 4)))


@torch.no_grad()
def test_clips_of_one_colour_can_be_calibrated_on():
    model = MDSA(tiny())
    video, audio = torch.full((1, *model.video_shape), -1.0), torch.full((1, *model.audio_shape), -1.0)
    model.calibrate(video, audio)
    assert all(torch.isfinite(p).all() for p in model.parameters())
