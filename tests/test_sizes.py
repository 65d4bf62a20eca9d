"""Sizes and rates are configuration: other lengths, pictures and rates go the whole way."""

import pytest
import torch

from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import mel_images
from pavdit.config import ModelConfig, tiny
from pavdit.flow.path import draw_noise
from pavdit.flow.sampler import sample
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.stdit.model import STDiT

SIZES = {
    "16 frames, 64": ({"num_frames": 16, "height": 64, "width": 64}, 4, 128, "six"),
    "16 frames, 128": ({"num_frames": 16, "height": 128, "width": 128}, 8, 256, "six"),
    "12 frames": ({"num_frames": 12, "height": 64, "width": 64}, 4, 64, "cut"),
    "17 fps": ({"num_frames": 8, "height": 32, "width": 32, "fps": "17", "sample_rate": 16320}, 4, 64, "six"),
    "4 s at 17 fps": (
        {"num_frames": 68, "height": 16, "width": 16, "fps": "17", "sample_rate": 16320},
        4,
        64,
        "fold",
    ),
    "4 s at 18 fps": (
        {"num_frames": 72, "height": 64, "width": 64, "fps": "18", "sample_rate": 16128},
        4,
        64,
        "fold",
    ),
    "wide": ({"num_frames": 4, "height": 16, "width": 32}, 4, 64, "fold"),
    "tall": ({"num_frames": 8, "height": 64, "width": 32}, 4, 64, "fold"),
}


def sized(clip, patch_size, n_mels) -> ModelConfig:
    tree = tiny().model_dump(mode="json")
    tree["clip"] = {**tree["clip"], **clip}
    tree["mel"]["n_mels"] = n_mels
    tree["mdsa"] |= {"patch_size": patch_size, "width": 32, "encoder_depth": 1, "decoder_depth": 1}
    tree["mdsa"] |= {"projector_depth": 1, "projector_mlp_dim": 32, "fusion_num_heads": 1, "head_dim": 16}
    tree["stdit"] |= {"width": 32, "depth": 1, "num_heads": 1, "text_dim": 16}
    return ModelConfig.model_validate(tree)


@pytest.mark.parametrize(("clip", "patch_size", "n_mels", "layout_name"), SIZES.values(), ids=SIZES)
@torch.no_grad()
def test_a_clip_of_any_size_goes_the_whole_way(clip, patch_size, n_mels, layout_name):
    config = sized(clip, patch_size, n_mels)
    spec = config.clip
    layout = PlaneLayout.choose(config.grid)
    assert layout.name == layout_name
    torch.manual_seed(0)
    mdsa, stdit = MDSA(config).eval(), STDiT(config.stdit, layout, config.mdsa.latent_channels).eval()

    volume = torch.rand(1, 3, spec.num_frames, spec.height, spec.width) * 2 - 1
    wave = 0.1 * torch.randn(1, spec.num_samples)
    images = mel_images(wave, spec, config.mel)
    assert images.shape == (1, 1, spec.num_frames, n_mels, spec.columns_per_frame)
    video, audio = mdsa.encode(volume, images)
    latent = layout.stack(video.mode(), audio.mode())

    def velocity(point, t, guided):
        return stdit(
            point,
            torch.full((1, 1), t),
            torch.zeros(1, 8, 16),
            task=torch.zeros(1, dtype=torch.long),
            fps=torch.full((1,), float(spec.fps)),
        )

    noise = draw_noise(latent.shape[1:], [torch.Generator().manual_seed(0)])
    generated = sample(velocity, noise, num_steps=1)
    assert generated.shape == latent.shape
    frames, mel = mdsa.decode(*layout.unstack(generated))
    assert frames.shape == volume.shape
    assert mel.shape == images.shape
    back = invert_mel(mel.clamp(-1, 1), spec, config.mel, num_iterations=1)
    assert back.shape == (1, spec.num_samples)
    assert torch.isfinite(back).all()
