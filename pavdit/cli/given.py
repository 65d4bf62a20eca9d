"""The clip that a task is given: read as the models want it, and in one line what was made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pavdit.media import probe
from pavdit.tasks import Stream

if TYPE_CHECKING:
    from rich.console import Console

    from pavdit.baselines.system import ClipMaker
    from pavdit.clip import Clip
    from pavdit.media import MediaInfo


def read_given(pipeline: ClipMaker, path: Path, stream: Stream, console: Console) -> Clip:
    """Read a clip of which a stream is given, and tell `console` where it is of other sizes than the models.

    Raises:
        DataError: the file cannot be used.
    """
    clip = pipeline.read(path, only=stream)
    if said := what_was_read(pipeline, probe(path, stream), stream):
        console.print(f"{path}: {said}")
    return clip


def what_was_read(pipeline: ClipMaker, info: MediaInfo, stream: Stream) -> str:
    """What differs between a file and the clip that is read of it; empty: nothing."""
    spec, parts = pipeline.config.clip, []
    if info.duration_seconds > spec.duration_seconds + 1 / spec.fps:
        parts.append(
            f"took the first {float(spec.duration_seconds):g} s of {float(info.duration_seconds):.3g}"
        )
    if stream == "video" and (info.width, info.height) != (spec.width, spec.height):
        whole = info.width * spec.height == info.height * spec.width
        cropped = not whole and (pipeline.data is None or pipeline.data.resize == "crop")
        parts.append(
            f"took {'the middle of ' if cropped else ''}{info.width} x {info.height} pixels "
            f"as {spec.width} x {spec.height}"
        )
    if stream == "video" and info.fps != spec.fps:
        parts.append(f"took {float(info.fps):.4g} fps as {float(spec.fps):.4g}")
    return ", ".join(parts)
