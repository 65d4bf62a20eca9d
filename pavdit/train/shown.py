"""What people look at during training, as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from pavdit.clip import Clip
from pavdit.media.picture import write_png
from pavdit.media.writer import write_clip


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures and clips by name; a name is a file's stem.

    Attributes:
        pictures: ``(H, W, 3)`` uint8 each.
        clips: frames with their sound.
    """

    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    clips: Mapping[str, Clip] = field(default_factory=dict)


def write_shown(shown: Shown, directory: Path) -> None:
    """Write ``NAME.png`` and ``NAME.mp4`` into `directory`, which is made if it is missing.

    Raises:
        OSError: the disk is full.
    """
    if not shown.pictures and not shown.clips:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, picture in shown.pictures.items():
        write_png(picture.movedim(2, 0), directory / f"{name}.png")
    for name, clip in shown.clips.items():
        write_clip(clip, directory / f"{name}.mp4")
