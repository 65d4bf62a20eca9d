"""Opening a media file, and what it says about itself before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pavdit.clip import DataError


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file holds. All times are seconds on the container's own timeline, on which 0 need not be the start.

    Attributes:
        fps: average frame rate, a rational number.
        width: pixels as coded, before any rotation.
        height: pixels as coded, before any rotation.
        sample_rate: Hz.
        channels: of the sound.
        video_start_seconds: when the first frame is shown.
        video_end_seconds: when the last frame ends.
        audio_start_seconds: when the sound begins.
        audio_end_seconds: when the sound ends, encoder padding not counted where the container says how much it is.
        metadata: the container's tags.
    """

    fps: Fraction
    width: int
    height: int
    sample_rate: int
    channels: int
    video_start_seconds: Fraction
    video_end_seconds: Fraction
    audio_start_seconds: Fraction
    audio_end_seconds: Fraction
    metadata: dict[str, str]

    @property
    def start_seconds(self) -> Fraction:
        """The first instant that has both picture and sound."""
        return max(self.video_start_seconds, self.audio_start_seconds)

    @property
    def end_seconds(self) -> Fraction:
        """The instant from which picture or sound is missing."""
        return min(self.video_end_seconds, self.audio_end_seconds)

    @property
    def duration_seconds(self) -> Fraction:
        """How long picture and sound run together; not negative."""
        return max(Fraction(0), self.end_seconds - self.start_seconds)


def seconds_text(seconds: Fraction | float) -> str:
    """A time for a message: milliseconds, no trailing zeros."""
    return f"{float(seconds):.3f}".rstrip("0").rstrip(".")


@contextmanager
def open_media(path: Path) -> Iterator[Any]:
    """Open `path` for reading; whatever FFmpeg finds wrong inside the ``with`` block leaves it as DataError.

    Decoders run on one thread (a data set is read by several processes) and stop at the first damage that they
    notice instead of concealing it.

    Raises:
        DataError: `path` is missing, no file, unreadable, not media or damaged.
    """
    import av

    if not path.is_file():
        raise DataError(
            f"{path}: want a media file, got {'a directory' if path.is_dir() else 'no such file'}"
        )
    try:
        # Only local files: a playlist that calls itself .mp4 must not reach the network.
        with av.open(str(path), container_options={"protocol_whitelist": "file"}) as container:
            for stream in (*container.streams.video, *container.streams.audio):
                stream.codec_context.thread_count = 1
                stream.codec_context.options = {"err_detect": "explode"}
            yield container
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: want a readable media file, got {' '.join(reason.split())}") from None


def video_stream(container: Any, path: Path) -> Any:
    """The first video stream that is not a cover picture.

    Raises:
        DataError: there is none.
    """
    import av

    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise DataError(f"{path}: want a video stream, got none")


def audio_stream(container: Any, path: Path) -> Any:
    """The first audio stream.

    Raises:
        DataError: there is none.
    """
    if not container.streams.audio:
        raise DataError(f"{path}: want an audio stream, got none")
    return container.streams.audio[0]


def _span(container: Any, stream: Any) -> tuple[Fraction, Fraction]:
    """Start and end of a stream in seconds, from the header or else (Matroska, WebM) from its packets."""
    if stream.start_time is not None and stream.duration is not None:
        return stream.start_time * stream.time_base, (stream.start_time + stream.duration) * stream.time_base
    container.seek(0)
    starts, ends = [], []
    for packet in container.demux(stream):
        if packet.pts is not None:
            starts.append(packet.pts)
            ends.append(packet.pts + (packet.duration or 0))
    if not starts:
        return Fraction(0), Fraction(0)
    return min(starts) * stream.time_base, max(ends) * stream.time_base


def describe(container: Any, path: Path) -> MediaInfo:
    """What an open container says about itself; leaves it at any position.

    Raises:
        DataError: no video stream, no audio stream, or a stream without a size or rate.
    """
    video, audio = video_stream(container, path), audio_stream(container, path)
    fps = video.average_rate or video.guessed_rate
    if not fps or not video.width or not video.height:
        raise DataError(
            f"{path}: want a video stream with size and rate, got {video.width}x{video.height}, {fps}"
        )
    if not audio.rate or not audio.channels:
        raise DataError(
            f"{path}: want an audio stream with rate and channels, got {audio.rate}, {audio.channels}"
        )
    video_span, audio_span = _span(container, video), _span(container, audio)
    return MediaInfo(
        fps=Fraction(fps),
        width=video.width,
        height=video.height,
        sample_rate=audio.rate,
        channels=audio.channels,
        video_start_seconds=video_span[0],
        video_end_seconds=video_span[1],
        audio_start_seconds=audio_span[0],
        audio_end_seconds=audio_span[1],
        metadata=dict(container.metadata),
    )


def probe(path: Path | str) -> MediaInfo:
    """Read the headers of a media file.

    Raises:
        DataError: missing, damaged, not media, no video stream or no audio stream.
    """
    path = Path(path)
    with open_media(path) as container:
        return describe(container, path)
