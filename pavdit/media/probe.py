"""Opening a media file, and what it says about itself before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pavdit.clip import DataError
from pavdit.media.boxes import contradiction

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


Only = Literal["video", "audio"] | None
"""The stream that is asked of a file; None: both."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file holds. Times are seconds on the container's own time line, which need not start at 0.

    Where one stream alone was asked for, the sizes and rates of the other are 0 and its times are the same.

    Attributes:
        fps: average frame rate, a rational number.
        width: pixels as coded, before any rotation.
        height: pixels as coded, before any rotation.
        sample_rate: Hz.
        channels: of the sound.
        video_start_seconds: when the first frame is shown.
        video_end_seconds: when the last frame ends.
        audio_start_seconds: when the sound begins.
        audio_end_seconds: when the sound ends, without the encoder's padding where the container says so.
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


def in_seconds(time: Fraction | float) -> str:
    """A time for a message: milliseconds, no trailing zeros."""
    return f"{float(time):.3f}".rstrip("0").rstrip(".")


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open `path` for reading; what FFmpeg finds wrong inside the ``with`` block leaves it as DataError.

    Decoders run on one thread (a data set is read by several processes) and stop at the first damage that
    they notice instead of concealing it. Nothing of the container may be touched after the block: PyAV's
    streams point into freed memory then.

    Raises:
        DataError: `path` is missing, no file, unreadable, not media or damaged.
    """
    import av

    if not path.is_file():
        raise DataError(
            f"{path}: want a media file, got {'a directory' if path.is_dir() else 'no such file'}"
        )
    try:
        with av.open(str(path)) as container:
            for stream in (*container.streams.video, *container.streams.audio):
                if stream.codec_context is None:
                    raise DataError(
                        f"{path}: want codecs that FFmpeg knows, got another in stream {stream.index}"
                    )
                stream.codec_context.thread_count = 1
                stream.codec_context.options = {"err_detect": "explode"}
            yield container
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: want a readable media file, got {ffmpeg_reason(error)}") from None


def ffmpeg_reason(error: Exception) -> str:
    """FFmpeg's own words without PyAV's decoration, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is not a cover picture.

    Raises:
        DataError: there is none.
    """
    import av

    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise DataError(f"{path}: want a video stream, got none")


def audio_stream(container: InputContainer, path: Path) -> AudioStream:
    """The first audio stream.

    Raises:
        DataError: there is none.
    """
    if not container.streams.audio:
        raise DataError(f"{path}: want an audio stream, got none")
    return container.streams.audio[0]


def tick(stream: VideoStream | AudioStream) -> Fraction:
    """Seconds of one unit of the stream's clock."""
    return Fraction(stream.time_base or 0)


def time_of(frame: VideoFrame | AudioFrame, path: Path) -> Fraction:
    """When a decoded frame begins, in seconds.

    Raises:
        DataError: it has no time stamp, or its decoder says that it is damaged.
    """
    if frame.pts is None or frame.time_base is None or frame.is_corrupt:
        raise DataError(f"{path}: want intact frames with time stamps, got a damaged one")
    return frame.pts * Fraction(frame.time_base)


def _span(container: InputContainer, stream: VideoStream | AudioStream) -> tuple[Fraction, Fraction]:
    """Start and end of a stream in seconds, from the header or else (Matroska, WebM) from its packets."""
    if stream.start_time is not None and stream.duration is not None:
        return stream.start_time * tick(stream), (stream.start_time + stream.duration) * tick(stream)
    container.seek(0)
    spans = [
        (packet.pts, packet.pts + (packet.duration or 0))
        for packet in container.demux(stream)
        if packet.pts is not None
    ]
    container.seek(0)
    if not spans:
        return Fraction(0), Fraction(0)
    return min(start for start, _ in spans) * tick(stream), max(end for _, end in spans) * tick(stream)


def describe(container: InputContainer, path: Path, only: Only = None) -> MediaInfo:
    """What an open container says about itself; leaves it at its beginning.

    Raises:
        DataError: no video stream, no audio stream, a stream without a size or rate, or an index that
            contradicts itself.
    """
    if "mov" in container.format.name and (wrong := contradiction(path)) is not None:
        raise DataError(f"{path}: {wrong}")
    fps, width, height, rate, channels = Fraction(0), 0, 0, 0, 0
    spans = []
    if only != "audio":
        video = video_stream(container, path)
        fps, width, height = (
            Fraction(video.average_rate or video.guessed_rate or 0),
            video.width,
            video.height,
        )
        if not fps or not width or not height:
            raise DataError(f"{path}: want video of known size and rate, got {width}x{height}, {fps} fps")
        spans.append(_span(container, video))
    if only != "video":
        audio = audio_stream(container, path)
        rate, channels = audio.rate, audio.channels
        if not rate or not channels:
            raise DataError(f"{path}: want sound of known rate and channels, got {rate} Hz, {channels}")
        spans.append(_span(container, audio))
    return MediaInfo(
        fps=fps,
        width=width,
        height=height,
        sample_rate=rate,
        channels=channels,
        video_start_seconds=spans[0][0],
        video_end_seconds=spans[0][1],
        audio_start_seconds=spans[-1][0],
        audio_end_seconds=spans[-1][1],
        metadata=dict(container.metadata),
    )


def probe(path: Path | str, only: Only = None) -> MediaInfo:
    """Read the headers of a media file; `only` one stream need be there if that is all one wants.

    Raises:
        DataError: missing, damaged, not media, no video stream or no audio stream.
    """
    path = Path(path)
    with open_media(path) as container:
        return describe(container, path, only)
