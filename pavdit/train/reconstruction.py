"""What an autoencoder makes of clips: in decibels, and for eyes and ears."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import display
from pavdit.clip import Clip, volume_to_frames
from pavdit.config import ModelConfig
from pavdit.metrics.signal import psnr
from pavdit.train.examples import Examples
from pavdit.train.shown import Shown

SIDE = 96  # pixels of a frame's height in a picture, about


def shown_to(config: ModelConfig, examples: Examples) -> tuple[Tensor | None, Tensor | None]:
    """What an autoencoder takes of clips: frames and mel images, None where it has no such stream."""
    has = config.mdsa.has
    return examples.video if has("video") else None, examples.mel if has("audio") else None


@torch.no_grad()
def reconstruction_psnr(
    model: nn.Module, sets: Iterable[Examples], mean: tuple[Tensor, Tensor], config: ModelConfig
) -> dict[str, float]:
    """PSNR of frames and of mel images, in dB, mean over clips, and that of the constant clip `mean`; of a
    stream that `model` does not have there is none."""
    measured: dict[str, list[Tensor]] = {}
    for examples in sets:
        output = model(*shown_to(config, examples))
        for name, got, constant, want in (
            ("video", output.video, mean[0], examples.video),
            ("mel", output.audio, mean[1], examples.mel),
        ):
            if got is None:
                continue
            measured.setdefault(f"{name}_psnr_db", []).append(psnr(got.clamp(-1, 1), want, peak=2.0))
            measured.setdefault(f"mean_clip_{name}_psnr_db", []).append(
                psnr(constant.to(want).expand_as(want), want, peak=2.0)
            )
    return {name: torch.cat(values).mean().item() for name, values in measured.items()}


@torch.no_grad()
def show_reconstructions(
    model: nn.Module, clips: list[Clip], examples: Examples, config: ModelConfig
) -> Shown:
    """Every clip beside its reconstruction.

    Args:
        model: an autoencoder.
        clips: some clips.
        examples: the same clips as the model takes them.
        config: sizes.

    Returns:
        Pictures: four rows of T frames, the clip's and the model's, then the clip's and the model's mel
        images. Clips: each and its reconstruction, whose sound is inverted from its mel images. A stream that
        the model does not have has no rows, and in its reconstructions is black or silent.
    """
    video, audio = shown_to(config, examples)
    output = model(video, audio)
    frames = torch.stack([torch.zeros_like(clip.frames) for clip in clips])  # (B, T, 3, H, W)
    waves = torch.stack([torch.zeros_like(clip.wave) for clip in clips])  # (B, S)
    if output.video is not None:
        frames = volume_to_frames(output.video.float()).cpu()
    if output.audio is not None:
        waves = invert_mel(output.audio.float(), config.clip, config.mel).cpu()
    rows = [
        _row(picture.float().clamp(-1, 1), config)
        for picture in (video, output.video, audio, output.audio)
        if picture is not None
    ]
    shown: dict[str, Clip] = {}
    for i, clip in enumerate(clips):
        shown[f"clip-{i}"] = clip
        shown[f"clip-{i}-reconstruction"] = Clip(
            frames[i], waves[i], config.clip.fps, config.clip.sample_rate, name=clip.name
        )
    sheets = torch.cat(rows, dim=1)  # (B, 4 height, T width, 3)
    return Shown({f"clip-{i}": sheet for i, sheet in enumerate(sheets)}, shown)


def _row(volume: Tensor, config: ModelConfig) -> Tensor:
    """Frames or mel images of B clips side by side, as large as `SIDE`: ``(B, height, T width, 3)`` uint8."""
    scale = max(1, SIDE // config.clip.height)
    if volume.shape[1] == 1:
        volume = display(volume, config.clip.height, config.clip.width).expand(-1, 3, -1, -1, -1)
    frames = volume_to_frames(volume).cpu().repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    return frames.permute(0, 3, 1, 4, 2).flatten(2, 3)  # (B, height, T width, 3)
