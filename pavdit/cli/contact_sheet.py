"""A picture of clips with their sound: frames side by side, the mel images below them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

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


def write_png(picture: Tensor, path: Path) -> None:
    """Write ``(3, height, width)`` uint8 as a PNG; a file at `path` is replaced as a whole or not at all.

    Raises:
        OSError: the directory is missing or full.
    """
    import av

    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width, codec.pix_fmt = picture.shape[1], picture.shape[2], "rgb24"
    codec.time_base = Fraction(1)  # the encoder asks for one, a picture has none
    frame = av.VideoFrame.from_ndarray(picture.movedim(0, 2).contiguous().numpy(), format="rgb24")
    data = b"".join(bytes(packet) for part in (frame, None) for packet in codec.encode(part))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
