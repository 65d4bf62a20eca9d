"""What a media file holds, measured by decoding all of it; what to think of it is `pavdit.data.judge`'s."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pavdit.clip import DataError
from pavdit.files import file_record
from pavdit.media.probe import (
    MediaInfo,
    audio_stream,
    describe,
    in_seconds,
    open_media,
    time_of,
    video_stream,
)
from pavdit.media.sound import samples_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VERSION = 1
"""Changes with what is measured; measurements of another version are made again."""
SIDE = 32
"""Pixels: pictures are compared at SIDE x SIDE in grey."""
BLACK_LEVEL = 24
"""Of 255: no pixel of a black picture is lighter."""
SAME_LEVELS = 1
"""Of 255: a picture no pixel of which changes by more is the one before."""
WINDOW_SECONDS = Fraction(1, 10)
"""Sound is silent or not in pieces of this length."""
SILENCE_DB = -60.0
LOUDEST = 4.0
"""Decoded AAC overshoots full scale by some tenths; what is far beyond is a damaged packet."""
MOMENTS = (0.25, 0.5, 0.75)
"""Shares of the duration at which pictures are kept, for people and for finding copies."""
THUMBNAIL_HEIGHT = 54


@dataclass(frozen=True, slots=True)
class Measured:
    """A decoded file. Times are seconds on its own time line; shares are of its frames or windows.

    Attributes:
        error: why it does not decode, empty where it does; then everything else is what was found before.
        width: pixels.
        height: pixels.
        fps: average rate.
        sample_rate: Hz.
        channels: of the sound.
        num_frames: decoded.
        due_frames: those that the file's packets should give, without what an edit cuts off.
        video: start and end of the decoded pictures.
        audio: start and end of the decoded sound.
        stated_video: start and end as the container states them.
        stated_audio: the same.
        audio_slip: how far stamps and the number of samples disagree, at worst.
        black: share of black frames.
        frozen: share of frames behind the first that repeat the one before.
        silent: share of silent windows.
        peak_db: of the sound, -inf written as -200.
        signature: bits of three pictures as a hexadecimal number, empty where there is nothing to see.
        thumbnail: three pictures side by side, JPEG in base64.
    """

    error: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    num_frames: int = 0
    due_frames: int = 0
    video: tuple[float, float] = (0.0, 0.0)
    audio: tuple[float, float] = (0.0, 0.0)
    stated_video: tuple[float, float] = (0.0, 0.0)
    stated_audio: tuple[float, float] = (0.0, 0.0)
    audio_slip: float = 0.0
    black: float = 0.0
    frozen: float = 0.0
    silent: float = 0.0
    peak_db: float = -200.0
    signature: str = ""
    thumbnail: str = ""

    @property
    def seconds(self) -> float:
        """How long picture and sound run together."""
        return max(0.0, min(self.video[1], self.audio[1]) - max(self.video[0], self.audio[0]))


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return file_record(path).sha256
    except OSError as error:
        raise DataError(f"{path}: want a readable file, got {error.strerror}") from None


@dataclass
class _Pictures:
    """What is gathered from the decoded pictures."""

    count: int = 0
    due: int = 0
    black: int = 0
    frozen: int = 0
    start: Fraction = Fraction(0)
    end: Fraction = Fraction(0)
    kept: list[np.ndarray] = field(default_factory=list)
    small: list[np.ndarray] = field(default_factory=list)


def _thumbnail(frame: VideoFrame) -> np.ndarray:
    width = max(2, round(THUMBNAIL_HEIGHT * frame.width / frame.height))
    return frame.to_ndarray(format="rgb24", width=min(4 * THUMBNAIL_HEIGHT, width), height=THUMBNAIL_HEIGHT)


def _decoded(container: InputContainer, stream: VideoStream, seen: _Pictures) -> Iterator[VideoFrame]:
    """Decode all packets, and count those whose pictures are due: edits may discard some at the beginning."""
    for packet in container.demux(stream):
        seen.due += int(packet.size > 0 and not packet.is_discard)
        yield from packet.decode()


def _watch(path: Path, info: MediaInfo) -> _Pictures:
    """Decode every picture.

    Raises:
        DataError: damaged, or stamps that do not ascend.
    """
    seen, before, last = _Pictures(), None, None
    length = info.video_end_seconds - info.video_start_seconds
    moments = [info.video_start_seconds + Fraction(share) * length for share in reversed(MOMENTS)]
    with open_media(path) as container:
        for frame in _decoded(container, video_stream(container, path), seen):
            time = time_of(frame, path)
            if last is not None and time <= last:
                raise DataError(
                    f"{path}: want frames in the order of their stamps, got {in_seconds(time)} s "
                    f"after {in_seconds(last)} s"
                )
            grey = frame.to_ndarray(format="gray", width=SIDE, height=SIDE).astype(np.int16)
            seen.start = time if last is None else seen.start
            seen.end = time + (frame.duration * Fraction(frame.time_base or 0) or 1 / info.fps)
            seen.count += 1
            seen.black += int(grey.max() <= BLACK_LEVEL)
            seen.frozen += int(before is not None and np.abs(grey - before).max() <= SAME_LEVELS)
            if moments and time >= moments[-1]:
                moments.pop()
                seen.kept.append(_thumbnail(frame))
                seen.small.append(grey)
            before, last = grey, time
    if not seen.count:
        raise DataError(f"{path}: want pictures, got none that decodes")
    return seen


@dataclass
class _Sound:
    """What is gathered from the decoded sound."""

    start: Fraction = Fraction(0)
    end: Fraction = Fraction(0)
    samples: int = 0
    slip: Fraction = Fraction(0)
    peak: float = 0.0
    windows: int = 0
    silent: int = 0
    rest: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def _listen(path: Path, rate: int) -> _Sound:
    """Decode all sound.

    Raises:
        DataError: damaged, of several rates, not finite or far beyond full scale, or a hole in it.
    """
    heard, window = _Sound(), max(1, round(rate * WINDOW_SECONDS))
    with open_media(path) as container:
        for frame in container.decode(audio_stream(container, path)):
            if frame.sample_rate != rate:
                raise DataError(f"{path}: want one sample rate, got {rate} Hz, then {frame.sample_rate} Hz")
            wave, time = samples_of(frame, "mean"), time_of(frame, path)
            loudest = float(np.abs(wave).max(initial=0.0))
            if not loudest <= LOUDEST:  # also where it is not a number
                raise DataError(
                    f"{path}: want sound below {LOUDEST:g} times full scale, got {loudest:g} "
                    f"at {in_seconds(time)} s"
                )
            heard.start = heard.start if heard.samples else time
            slip = time - heard.start - Fraction(heard.samples, rate)
            heard.slip = max(heard.slip, abs(slip))
            heard.samples += len(wave)
            heard.end = time + Fraction(len(wave), rate)
            heard.peak = max(heard.peak, loudest)
            heard.rest = np.concatenate([heard.rest, wave])
            whole = len(heard.rest) // window
            pieces = heard.rest[: whole * window].reshape(whole, window)
            heard.rest = heard.rest[whole * window :]
            level = np.sqrt(np.square(pieces, dtype=np.float64).mean(1))
            heard.windows += whole
            heard.silent += int((level < 10 ** (SILENCE_DB / 20)).sum())
    if not heard.samples:
        raise DataError(f"{path}: want sound, got none that decodes")
    return heard


def _signature(pictures: list[np.ndarray]) -> str:
    """Which of two neighbouring eighths of a picture is the lighter one, for three pictures; 336 bits."""
    if len(pictures) < len(MOMENTS) or max(picture.std() for picture in pictures) < 2 * SAME_LEVELS:
        return ""
    bits = []
    for picture in pictures:
        coarse = picture.reshape(8, SIDE // 8, 8, SIDE // 8).mean((1, 3))
        bits += [(coarse[:, 1:] > coarse[:, :-1]).ravel(), (coarse[1:] > coarse[:-1]).ravel()]
    return np.packbits(np.concatenate(bits)).tobytes().hex()


def _jpeg(pictures: list[np.ndarray]) -> str:
    """Pictures side by side as base64."""
    import av

    strip = np.concatenate(pictures, axis=1)
    strip = np.ascontiguousarray(strip[:, : strip.shape[1] // 2 * 2])
    codec = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width, codec.pix_fmt = *strip.shape[:2], "yuvj420p"
    codec.time_base = Fraction(1)
    codec.options = {"qmin": "8", "qmax": "8"}
    frame = av.VideoFrame.from_ndarray(strip, format="rgb24").reformat(format="yuvj420p")
    data = b"".join(bytes(packet) for part in (frame, None) for packet in codec.encode(part))
    return base64.b64encode(data).decode()


def _seconds(*times: Fraction) -> tuple[float, ...]:
    return tuple(round(float(time), 6) for time in times)


def inspect(path: Path) -> Measured:
    """Decode all of a file and measure it; what is wrong with it is in the result, nothing is raised."""
    known: dict[str, object] = {}
    try:
        with open_media(path) as container:
            info = describe(container, path)
        known |= {
            "width": info.width,
            "height": info.height,
            "fps": round(float(info.fps), 4),
            "sample_rate": info.sample_rate,
            "channels": info.channels,
            "stated_video": _seconds(info.video_start_seconds, info.video_end_seconds),
            "stated_audio": _seconds(info.audio_start_seconds, info.audio_end_seconds),
        }
        seen = _watch(path, info)
        known |= {
            "num_frames": seen.count,
            "due_frames": seen.due,
            "video": _seconds(seen.start, seen.end),
            "black": round(seen.black / seen.count, 4),
            "frozen": round(seen.frozen / max(1, seen.count - 1), 4),
            "signature": _signature(seen.small),
            "thumbnail": _jpeg(seen.kept) if seen.kept else "",
        }
        heard = _listen(path, info.sample_rate)
    except DataError as error:
        return Measured(**known, error=str(error).removeprefix(f"{path}: "))  # type: ignore[arg-type]
    return Measured(
        **known,  # type: ignore[arg-type]
        audio=_seconds(heard.start, heard.end),  # type: ignore[arg-type]
        audio_slip=_seconds(heard.slip)[0],
        silent=round(heard.silent / max(1, heard.windows), 4),
        peak_db=round(20 * float(np.log10(max(heard.peak, 1e-10))), 2),
    )
