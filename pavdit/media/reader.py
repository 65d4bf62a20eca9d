"""Media file to `Clip`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pavdit.clip import Clip, ClipSpec, DataError, as_fraction
from pavdit.media.probe import MediaInfo, describe, open_media, seconds_text, video_stream
from pavdit.media.resize import Resize, resize_picture, turn
from pavdit.media.sound import Channel, read_wave

CLOCK_SLACK_SECONDS = Fraction(1, 1000)
"""Containers round time stamps, Matroska to 1 ms: an end that is short by less than this is not short."""


def _require_cover(info: MediaInfo, start: Fraction, end: Fraction, path: Path) -> None:
    covered_from, covered_to = (
        info.start_seconds - CLOCK_SLACK_SECONDS,
        info.end_seconds + CLOCK_SLACK_SECONDS,
    )
    if start < covered_from or end > covered_to:
        raise DataError(
            f"{path}: want {seconds_text(end - start)} s with picture and sound from {seconds_text(start)} s, got "
            f"picture {seconds_text(info.video_start_seconds)} to {seconds_text(info.video_end_seconds)} s, "
            f"sound {seconds_text(info.audio_start_seconds)} to {seconds_text(info.audio_end_seconds)} s"
        )


def _seek(container: Any, stream: Any, start: Fraction) -> None:
    """Go to the last key frame at or before `start`, or to the beginning where the index leads elsewhere."""
    target = math.floor(start / stream.time_base)
    if target <= (stream.start_time or 0):
        return
    container.seek(target, stream=stream)
    first = next(container.decode(stream), None)
    landed = first is not None and first.pts is not None and first.pts <= target
    container.seek(target if landed else stream.start_time or 0, stream=stream)


def _stamped(
    container: Any, stream: Any, start: Fraction, end: Fraction, path: Path
) -> Iterator[tuple[Fraction, Any]]:
    """Decoded frames with their time in seconds, from the last key frame before `start` on.

    Raises:
        DataError: a damaged frame, or the stream does not cover [start, end).
    """
    _seek(container, stream, start)
    shown_from: Fraction | None = None
    shown_to = Fraction(0)
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            raise DataError(f"{path}: want intact frames with time stamps, got a damaged frame")
        time = frame.pts * stream.time_base
        if shown_from is None:
            shown_from = time
            if shown_from > start + CLOCK_SLACK_SECONDS:
                break
        yield time, frame
        shown_to = time + (frame.duration * stream.time_base if frame.duration else 1 / stream.average_rate)
    if shown_to < end - CLOCK_SLACK_SECONDS:
        raise DataError(
            f"{path}: want frames from {seconds_text(start)} to {seconds_text(end)} s, "
            f"got {seconds_text(shown_from or 0)} to {seconds_text(shown_to)} s"
        )


def _on_screen(
    stamped: Iterator[tuple[Fraction, Any]], times: list[Fraction], slack: Fraction
) -> Iterator[Any]:
    """For each of the ascending `times` the frame on screen then: the last one stamped at or before it."""
    shown, k = None, 0
    for time, frame in stamped:
        while k < len(times) and shown is not None and times[k] < time - slack:
            yield shown
            k += 1
        if k == len(times):
            return
        shown = frame
    for _ in times[k:]:
        yield shown


def _read_frames(container: Any, spec: ClipSpec, start: Fraction, resize: Resize, path: Path) -> Tensor:
    """``(T, 3, H, W)`` uint8 of the segment that begins at `start`."""
    stream = video_stream(container, path)
    times = [start + k / spec.fps for k in range(spec.num_frames)]
    # A time stamp is rounded to a tick, so half of one decides ties; but in AVI a tick is a whole frame.
    slack = min(stream.time_base, CLOCK_SLACK_SECONDS) / 2
    aspect = float(stream.sample_aspect_ratio or 1)
    pictures: list[Tensor] = []
    last: Any = None
    for frame in _on_screen(
        _stamped(container, stream, start, start + spec.duration_seconds, path), times, slack
    ):
        if frame is last:
            pictures.append(pictures[-1])
            continue
        if frame.rotation % 90:
            raise DataError(f"{path}: want a rotation by a multiple of 90 degrees, got {frame.rotation}")
        quarter_turns = frame.rotation // 90
        upright = turn(frame.to_ndarray(format="rgb24"), quarter_turns)
        upright_aspect = 1 / aspect if quarter_turns % 2 else aspect
        pictures.append(resize_picture(upright, spec.height, spec.width, resize, upright_aspect))
        last = frame
    return torch.stack(pictures)


def read_clip(
    path: Path | str,
    spec: ClipSpec,
    *,
    start_seconds: Fraction | float | None = None,
    resize: Resize = "crop",
    channel: Channel = "mean",
) -> Clip:
    """Read one segment of a media file as a clip of `spec`'s sizes and rates.

    Picture and sound share the container's time line. Frame k is the one on screen at ``start + k / fps``, wave
    sample i the sound at ``start + i / sample_rate`` (within half a sample). The segment must lie where the file has
    both: nothing is repeated or padded to fill it.

    Args:
        path: any container and codecs that FFmpeg reads.
        spec: sizes and rates of the clip.
        start_seconds: start of the segment on the container's time line; None is the first instant that has both
            picture and sound (0 in most files; 0.069 where the first frame is stamped 69 ms).
        resize: ``crop`` (centre, antialiased) or ``mmdiffusion`` (whole picture, bicubic, black borders).
        channel: ``mean`` of the channels or the ``first``.

    Returns:
        The clip, named after the file. Decoded peaks above 1 (AAC overshoots) are kept.

    Raises:
        DataError: missing, damaged, not media, no video stream, no audio stream, or one of them does not cover the
            segment.
    """
    path = Path(path)
    with open_media(path) as container:
        info = describe(container, path)
        start = info.start_seconds if start_seconds is None else as_fraction(start_seconds)
        _require_cover(info, start, start + spec.duration_seconds, path)
        frames = _read_frames(container, spec, start, resize, path)
    wave = read_wave(path, start, spec.num_samples, spec.sample_rate, channel)
    return Clip(frames, torch.from_numpy(wave), spec.fps, spec.sample_rate, name=path.name)
