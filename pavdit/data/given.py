"""A file read as the clips of a training were."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pavdit.clip import Clip, ClipSpec, Origin, as_fraction
from pavdit.config import DataConfig
from pavdit.files import file_record
from pavdit.media import read_clip


def read_as_trained(
    path: str | Path,
    spec: ClipSpec,
    data: DataConfig | None,
    start_seconds: Fraction | float | None = None,
    only: Literal["video", "audio"] | None = None,
) -> Clip:
    """Read a clip, and keep where it came from.

    Args:
        path: any media file with picture and sound, or with the one that is wanted.
        spec: sizes and rates of the clip.
        data: the training's; None: as by default.
        start_seconds: where the clip begins; None: where what is wanted begins.
        only: what is wanted; the other is then silent or black. None: both.

    Raises:
        DataError: the file cannot be used.
    """
    start = None if start_seconds is None else as_fraction(start_seconds)
    ways: dict[str, Any] = {} if data is None else data.model_dump(include={"resize", "channel"})
    clip = read_clip(path, spec, start_seconds=start, only=only, **ways)
    return replace(clip, origin=Origin(str(path), file_record(Path(path)).sha256, start))
