"""Stage 1: where it begins, and what its measures are."""

import pytest
import torch
from nano import nano, nano_run

from pavdit.audio.mel import mel_images
from pavdit.clip import frames_to_volume
from pavdit.data.bounce import BounceClips
from pavdit.train.autoencoder import AutoencoderStage

CPU = torch.device("cpu")


@pytest.fixture
def stage(tmp_path):
    torch.manual_seed(0)
    return AutoencoderStage(
        nano_run(tmp_path), BounceClips(4, nano().clip), BounceClips(2, nano().clip, 1), CPU
    )


def tensors(clips):
    everything = [clips[i] for i in range(len(clips))]
    video = torch.stack([frames_to_volume(c.frames) for c in everything])
    return video, mel_images(torch.stack([c.wave for c in everything]), nano().clip, nano().mel)


def test_the_decoders_begin_at_the_mean_colour_and_level(stage):
    video, mel = tensors(stage.train)
    torch.testing.assert_close(stage.model.video_decoder.to_pixels.bias.detach(), video.mean((0, 2, 3, 4)))
    torch.testing.assert_close(stage.model.audio_decoder.to_pixels.bias.detach(), mel.mean((0, 2, 3, 4)))


def test_the_measures_are_the_mean_over_clips_in_db(stage):
    video, mel = tensors(stage.validation)
    mean_v, mean_a = (x.mean(0, keepdim=True) for x in tensors(stage.train))

    def psnr(got, want):  # on [0, 1]
        mse = ((got.clamp(-1, 1) - want) / 2).square().flatten(1).mean(1)
        return (-10 * mse.log10()).mean().item()

    with torch.no_grad():
        got = stage.model(video, mel)
    assert stage.validate(stage.model) == pytest.approx(
        {
            "held_out_video_psnr_db": psnr(got.video, video),
            "held_out_mel_psnr_db": psnr(got.audio, mel),
            "held_out_mean_clip_video_psnr_db": psnr(mean_v, video),
            "held_out_mean_clip_mel_psnr_db": psnr(mean_a, mel),
        },
        abs=1e-4,
    )


def test_without_held_out_clips_the_measures_say_that_they_are_of_training_clips(tmp_path):
    clips = BounceClips(2, nano().clip)
    stage = AutoencoderStage(nano_run(tmp_path), clips, BounceClips(0, nano().clip), CPU)
    assert all(name.startswith("train_") for name in stage.validate(stage.model))


def test_the_loss_is_a_function_of_weights_and_step(stage):
    terms = [stage.loss(step)["loss"].item() for step in (0, 1, 2, 1, 0)]
    assert terms[:2] == [terms[4], terms[3]] and terms[0] != terms[1]


def test_the_perceptual_weight_is_the_configurations(tmp_path):
    losses = []
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        clips = BounceClips(4, nano().clip)
        stage = AutoencoderStage(nano_run(tmp_path, perceptual_weight=weight), clips, clips, CPU)
        terms = stage.loss(0)
        losses.append(terms["loss"].item())
    perceptual = terms["video_perceptual"] + terms["audio_perceptual"]
    assert losses[1] - losses[0] == pytest.approx(0.5 * 2.0 * perceptual.item(), rel=1e-4)
