"""Decoded sound on a time line, at the rate of a clip."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pavdit.clip import DataError
from pavdit.media.probe import audio_stream, in_seconds, open_media, tick, time_of

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

Channel = Literal["mean", "first"]

PREROLL_SECONDS = Fraction(1, 2)
"""Decoded before the segment: AAC needs the frame before, the time line some stamps to settle on."""
MARGIN_SECONDS = Fraction(1, 100)
"""Context on both sides for the resampling filter, which reaches 2 ms at 8 kHz."""
STAMP_JITTER_SECONDS = Fraction(2, 1000)
"""Matroska rounds time stamps to 1 ms; lateness up to this is rounding, beyond it a hole."""
LONGEST_HOLE_SECONDS = Fraction(1, 20)
"""Joined recordings leave holes of some milliseconds, which are silence; more in one segment is damage, or a
clock that runs at another speed than the samples."""


def samples_of(frame: AudioFrame, channel: Channel) -> np.ndarray:
    """One decoded frame as ``(S,)`` float32, full scale = 1, neither clipped nor scaled."""
    raw = frame.to_ndarray()
    if not frame.format.is_planar:
        raw = raw.reshape(-1, frame.layout.nb_channels).T
    if raw.dtype == np.uint8:
        raw = (raw.astype(np.float32) - 128) / 128
    elif raw.dtype.kind == "i":
        raw = raw.astype(np.float64) / 2 ** (8 * raw.dtype.itemsize - 1)
    return (raw[0] if channel == "first" else raw.mean(axis=0)).astype(np.float32)


def _decode(
    path: Path, start: Fraction, end: Fraction, channel: Channel
) -> tuple[list[tuple[Fraction, np.ndarray]], int, Fraction]:
    """Frames that touch [start, end) as (seconds, samples), their rate, and the clock's tick in seconds."""
    chunks: list[tuple[Fraction, np.ndarray]] = []
    rate = 0
    with open_media(path) as container:
        stream = audio_stream(container, path)
        clock = tick(stream)
        if start > (stream.start_time or 0) * clock:
            container.seek(math.floor(start / clock), stream=stream)
        for frame in container.decode(stream):
            time = time_of(frame, path)
            if time >= end:
                break
            if rate and frame.sample_rate != rate:
                raise DataError(f"{path}: want one sample rate, got {rate} Hz, then {frame.sample_rate} Hz")
            rate = frame.sample_rate
            chunks.append((time, samples_of(frame, channel)))
    return chunks, rate, clock


def _join(chunks: list[tuple[Fraction, np.ndarray]], rate: int, path: Path) -> tuple[Fraction, np.ndarray]:
    """Lay frames on the time line: time of the first sample, and the samples from there on without a break.

    A decoder's output is continuous, so a frame stamped a little early still follows the one before; a frame
    stamped late leaves a hole, which is silence (see the constants above).

    Raises:
        DataError: holes that are too long together, or time stamps that go back by more than two frames.
    """
    start = chunks[0][0]
    parts: list[np.ndarray] = []
    length = hole = 0
    for time, samples in chunks:
        late = time - start - Fraction(length, rate)
        if late + Fraction(hole, rate) > LONGEST_HOLE_SECONDS or -late > Fraction(2 * len(samples), rate):
            raise DataError(
                f"{path}: want sound without gaps, got one of {in_seconds(late)} s at {in_seconds(time)} s"
            )
        if late > STAMP_JITTER_SECONDS:
            parts.append(np.zeros(round(late * rate), np.float32))
            length += len(parts[-1])
            hole += len(parts[-1])
        parts.append(samples)
        length += len(samples)
    return start, np.concatenate(parts)


def resample(wave: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """``(S,)`` float32 at another rate by libswresample; sample 0 stays in place, peaks above 1 are kept."""
    import av

    if source_rate == sample_rate:
        return wave
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(wave[None], np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts, frame.time_base = source_rate, 0, Fraction(1, source_rate)
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
    out = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in out])


def read_wave(
    path: Path, start: Fraction, num_samples: int, sample_rate: int, channel: Channel = "mean"
) -> np.ndarray:
    """Decode `num_samples` samples at `sample_rate` from `start` seconds on the container's time line.

    Source sample i stands at (time of the first sample) + i / (source rate); sample 0 of the result within
    half a sample of `start`. Nothing is padded but what the container's clock cannot tell: one tick of it.

    Returns:
        ``(S,)`` float32, peaks above 1 as decoded.

    Raises:
        DataError: damaged, gaps, or no sound over the whole segment.
    """
    end = start + Fraction(num_samples, sample_rate)
    chunks, rate, clock = _decode(path, start - PREROLL_SECONDS, end + MARGIN_SECONDS, channel)
    if not chunks:
        raise DataError(f"{path}: want sound from {in_seconds(start)} s on, got none")
    first, wave = _join(chunks, rate, path)
    last = first + Fraction(len(wave), rate)
    slack = max(clock, Fraction(1, rate))
    if first > start + slack or last < end - slack:
        raise DataError(
            f"{path}: want sound from {in_seconds(start)} to {in_seconds(end)} s, "
            f"got {in_seconds(first)} to {in_seconds(last)} s"
        )
    begin = max(0, math.floor((start - MARGIN_SECONDS - first) * rate))
    stop = min(len(wave), math.ceil((end + MARGIN_SECONDS - first) * rate))
    out = resample(wave[begin:stop], rate, sample_rate)
    skip = round((start - first - Fraction(begin, rate)) * sample_rate)
    # What the clock rounded away, a tick at most, is the sample at the border held.
    out = np.pad(out, (max(0, -skip), max(0, skip + num_samples - len(out))), mode="edge")
    return out[max(0, skip) :][:num_samples]
