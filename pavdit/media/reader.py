"""Media file to `Clip`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pavdit.clip import Clip, ClipSpec, DataError, as_fraction
from pavdit.media.numbered import frame_numbers, numbered
from pavdit.media.probe import MediaInfo, Only, describe, in_seconds, open_media, tick, time_of, video_stream
from pavdit.media.resize import Resize, resize_picture, turn
from pavdit.media.sound import Channel, read_wave

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FrameRule = Literal["time", "number"]

CLOCK_SLACK_SECONDS = Fraction(1, 1000)
"""Containers round time stamps, Matroska to 1 ms: an end that is short by less than this is not short."""


def _require_cover(info: MediaInfo, start: Fraction, end: Fraction, path: Path, only: Only) -> None:
    """Raise DataError unless [start, end] lies where the file says that it has what is wanted."""
    if info.start_seconds <= start + CLOCK_SLACK_SECONDS and end <= info.end_seconds + CLOCK_SLACK_SECONDS:
        return
    spans = {
        "picture": (info.video_start_seconds, info.video_end_seconds),
        "sound": (info.audio_start_seconds, info.audio_end_seconds),
    }
    if only is not None:
        del spans["sound" if only == "video" else "picture"]
    got = (f"{name} {in_seconds(first)} to {in_seconds(last)} s" for name, (first, last) in spans.items())
    raise DataError(
        f"{path}: want {in_seconds(end - start)} s of {' and '.join(spans)} from {in_seconds(start)} s on, "
        f"got {', '.join(got)}"
    )


def _from_key_frame(container: InputContainer, stream: VideoStream, start: Fraction) -> Iterator[VideoFrame]:
    """Decode from the last key frame at or before `start`, or all where the index leads elsewhere."""
    target = math.floor(start / tick(stream))
    begin = stream.start_time or 0
    if target > begin:
        container.seek(target, stream=stream)
        decoded = container.decode(stream)
        first = next(decoded, None)
        if first is not None and first.pts is not None and first.pts <= target:
            return itertools.chain([first], decoded)
        container.seek(begin, stream=stream)
    return container.decode(stream)


def _stamped(
    frames: Iterator[VideoFrame], info: MediaInfo, start: Fraction, end: Fraction, path: Path
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Frames with their times in seconds.

    Raises:
        DataError: a damaged frame, stamps that do not ascend, or they do not cover [start, end).
    """
    shown_to: Fraction | None = None
    last: Fraction | None = None
    for frame in frames:
        time = time_of(frame, path)
        if last is not None and time <= last:
            raise DataError(
                f"{path}: want frames in the order of their stamps, got {in_seconds(time)} s "
                f"after {in_seconds(last)} s"
            )
        last = time
        if shown_to is None and time > start + CLOCK_SLACK_SECONDS:
            raise DataError(
                f"{path}: want a frame at {in_seconds(start)} s, got the first one at {in_seconds(time)} s"
            )
        yield time, frame
        shown_to = time + (frame.duration * Fraction(frame.time_base or 0) or 1 / info.fps)
    if shown_to is None or shown_to < end - CLOCK_SLACK_SECONDS:
        raise DataError(
            f"{path}: want frames from {in_seconds(start)} to {in_seconds(end)} s, "
            f"got none after {in_seconds(shown_to or 0)} s"
        )


def _on_screen(
    stamped: Iterator[tuple[Fraction, VideoFrame]], times: list[Fraction], slack: Fraction
) -> Iterator[VideoFrame]:
    """For each of the ascending `times` the frame on screen then: the last one stamped at or before it."""
    shown: VideoFrame | None = None
    waiting = list(reversed(times))
    for time, frame in stamped:
        while shown is not None and waiting and waiting[-1] < time - slack:
            yield shown
            waiting.pop()
        if not waiting:
            return
        shown = frame
    if shown is not None:
        yield from itertools.repeat(shown, len(waiting))


def _upright(frame: VideoFrame, pixel_aspect: float, spec: ClipSpec, resize: Resize, path: Path) -> Tensor:
    """``(3, H, W)`` uint8 as the display matrix wants it shown."""
    if frame.rotation % 90:
        raise DataError(f"{path}: want a rotation by a multiple of 90 degrees, got {frame.rotation}")
    quarter_turns = frame.rotation // 90
    picture = turn(frame.to_ndarray(format="rgb24"), quarter_turns)
    return resize_picture(
        picture, spec.height, spec.width, resize, 1 / pixel_aspect if quarter_turns % 2 else pixel_aspect
    )


def _read_frames(
    container: InputContainer,
    info: MediaInfo,
    spec: ClipSpec,
    start: Fraction,
    resize: Resize,
    numbers: np.ndarray | None,
    path: Path,
) -> Tensor:
    """``(T, 3, H, W)`` uint8 of the segment that begins at `start`, or of the frames with these numbers."""
    stream = video_stream(container, path)
    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    if numbers is None:
        times = [start + k / spec.fps for k in range(spec.num_frames)]
        # A time stamp is rounded to a tick, so half of one decides ties; but in AVI a tick is a whole frame.
        slack = min(tick(stream), CLOCK_SLACK_SECONDS) / 2
        decoded = _from_key_frame(container, stream, start)
        stamped = _stamped(decoded, info, start, start + spec.num_frames / spec.fps, path)
        frames = _on_screen(stamped, times, slack)
    else:
        frames = numbered(container.decode(stream), numbers, path)
    pictures: list[Tensor] = []
    last: VideoFrame | None = None
    for frame in frames:
        # Where the file's rate is the lower one, a frame stays for several target times.
        pictures.append(pictures[-1] if frame is last else _upright(frame, pixel_aspect, spec, resize, path))
        last = frame
    return torch.stack(pictures)


def read_clip(
    path: Path | str,
    spec: ClipSpec,
    *,
    start_seconds: Fraction | float | None = None,
    resize: Resize = "crop",
    channel: Channel = "mean",
    only: Only = None,
    frame_rule: FrameRule = "time",
) -> Clip:
    """Read one segment of a media file as a clip of `spec`'s sizes and rates.

    Picture and sound share the container's time line. Frame k is the one on screen at ``start + k / fps``,
    the last stamped at or before it; wave sample i is the sound at ``start + i / sample_rate``, within half a
    sample. The segment must lie where the file has both: nothing is repeated or padded to fill it.

    Args:
        path: any container and codecs that FFmpeg reads.
        spec: sizes and rates of the clip.
        start_seconds: start of the segment on the container's time line; None is the first instant that has
            both picture and sound (0 in most files; 0.069 where the first frame is stamped 69 ms), or `only`
            the one asked for.
        resize: how pictures get their size; see `Resize`.
        channel: ``mean`` of the channels or the ``first``.
        only: the stream that is wanted, ``video`` or ``audio``: the file need have no other, and the clip is
            silent or black. None: both.
        frame_rule: ``time``, as above, or ``number``, the peers': frames are counted, from the one nearest to
            `start_seconds` on, and the sound begins with it; see `pavdit.media.numbered`. Decodes from the
            file's beginning.

    Returns:
        The clip, named after the file. Decoded peaks above 1 (AAC overshoots) are kept.

    Raises:
        DataError: missing, damaged as far as FFmpeg notices, not media, a wanted stream is not there or does
            not cover the segment.
    """
    path = Path(path)
    with open_media(path) as container:
        info = describe(container, path, only)
        start = info.start_seconds if start_seconds is None else as_fraction(start_seconds)
        _require_cover(info, start, start + spec.num_frames / spec.fps, path, only)
        numbers = None
        if frame_rule == "number":
            first = round((start - info.video_start_seconds) * spec.fps)
            numbers = frame_numbers(spec.num_frames, first, float(info.fps), float(spec.fps))
            start = info.video_start_seconds + int(numbers[0]) / info.fps
        frames = torch.zeros(spec.num_frames, 3, spec.height, spec.width, dtype=torch.uint8)
        if only != "audio":
            frames = _read_frames(container, info, spec, start, resize, numbers, path)
    wave = torch.zeros(spec.num_samples)
    if only != "video":
        wave = torch.from_numpy(read_wave(path, start, spec.num_samples, spec.sample_rate, channel))
    return Clip(frames, wave, spec.fps, spec.sample_rate, name=path.name)
