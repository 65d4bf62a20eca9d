"""The smallest AV-DiT, and frozen weights for it, made on the spot under the names of the public ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pavdit.baselines.av_dit.config import AVDiTConfig, DiTConfig
from pavdit.baselines.av_dit.dit import ImageDiT
from pavdit.baselines.av_dit.image_weights import DIFFUSERS, DIFFUSERS_BLOCK, FACEBOOK, FACEBOOK_BLOCK
from pavdit.clip import ClipSpec

SPEC = ClipSpec(num_frames=4, height=16, width=16)
MODEL: dict[str, object] = {
    "clip": {"num_frames": 4, "height": 16, "width": 16},
    "mel": {"n_mels": 16},
    "dit": {"width": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "num_classes": 3},
    "adaptation": {"rank": 4, "temporal_ratio": 4},
    "picture": {"channels": 4, "ratio": 2},
    "sound": {"channels": 8, "ratio": 4},
    "spectrogram": {"n_mels": 16, "n_fft": 512},
}


def nano() -> AVDiTConfig:
    return AVDiTConfig.model_validate(MODEL)


def image_dit(config: DiTConfig | None = None, channels: int = 4) -> ImageDiT:
    torch.manual_seed(0)
    model = ImageDiT(config or nano().dit, channels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)
    return model.eval().requires_grad_(False)


def public_names(model: ImageDiT, kind: str) -> dict[str, Tensor]:
    """The weights as facebookresearch/DiT (``facebook``) or ``diffusers`` stores them."""
    names, block_names = {
        "facebook": (FACEBOOK, FACEBOOK_BLOCK),
        "diffusers": (DIFFUSERS, DIFFUSERS_BLOCK),
    }[kind]
    own, stored = model.state_dict(), {}
    channels, outs = model.channels, 2 * model.channels
    for part in ("weight", "bias"):
        last = own[f"final.{part}"].unflatten(0, (outs, 2, 2)).movedim(0, 2).flatten(0, 2)
        own = own | {f"final.{part}": last}
    own["embed.weight"] = own["embed.weight"].unflatten(1, (channels, 2, 2))
    for ours, theirs in names.items():
        stored |= {f"{theirs}.{p}": own[f"{ours}.{p}"] for p in ("weight", "bias") if f"{ours}.{p}" in own}
    for i in range(len(model.blocks)):
        prefix = f"{'blocks' if kind == 'facebook' else 'transformer_blocks'}.{i}"
        for part in ("weight", "bias"):
            for ours, theirs in block_names.items():
                stored[f"{prefix}.{theirs}.{part}"] = own[f"blocks.{i}.{ours}.{part}"]
            if kind == "facebook":
                packed = torch.cat([own[f"blocks.{i}.attention.{x}.{part}"] for x in "qkv"])
                stored[f"{prefix}.attn.qkv.{part}"] = packed
    return stored


def write_frozen(folder: Path) -> dict[str, str]:
    """All four of `pavdit.baselines.av_dit.config.FrozenConfig`, random."""
    from diffusers import AutoencoderKL
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(public_names(image_dit(), "facebook"), folder / "dit.pt")
    torch.manual_seed(1)
    for name, channels, latent, levels in (("image_vae", 3, 4, 2), ("mel_vae", 1, 8, 3)):
        AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(4,) * levels,
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=latent,
            sample_size=16,
        ).save_pretrained(folder / name)
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=16,
        sampling_rate=16000,
        upsample_initial_channel=8,
        upsample_rates=[10, 16],
        upsample_kernel_sizes=[21, 32],  # the first makes a sample more, as the public one's does
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        normalize_before=False,
    )
    SpeechT5HifiGan(vocoder).save_pretrained(folder / "vocoder")
    paths = {name: str(folder / name) for name in ("image_vae", "mel_vae", "vocoder")}
    return {"image_dit": str(folder / "dit.pt"), **paths}
