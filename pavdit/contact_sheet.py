"""A picture of clips with their sound: frames side by side, the mel images below them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pavdit.audio.mel import display, mel_images
from pavdit.clip import Clip, ClipSpec, volume_to_frames
from pavdit.config import MelConfig

GAP = 8  # pixels between clips
SIDE = 96  # pixels of a frame's height on the sheet, about


def contact_sheet(clips: Sequence[Clip], spec: ClipSpec, mel: MelConfig) -> Tensor:
    """One band a clip: its T frames, below each frame the mel image of the sound that it owns.

    Returns:
        ``(3, height, width)`` uint8.
    """
    scale = max(1, SIDE // spec.height)
    height, width = spec.height * scale, spec.width * scale
    bands = []
    for clip in clips:
        frames = clip.frames.repeat_interleave(scale, 2).repeat_interleave(scale, 3)  # (T, 3, height, width)
        images = mel_images(clip.wave[None], spec, mel)  # (1, 1, T, M, L)
        pictures = display(images, height, width).expand(-1, 3, -1, -1, -1)  # (1, 3, T, height, width)
        sound = volume_to_frames(pictures)[0]  # (T, 3, height, width)
        both = torch.cat([frames, sound], dim=2)  # (T, 3, 2 height, width)
        bands.append(torch.cat(list(both), dim=2))  # (3, 2 height, T width)
        bands.append(torch.full((3, GAP, bands[-1].shape[2]), 255, dtype=torch.uint8))
    return torch.cat(bands[:-1], dim=1)
