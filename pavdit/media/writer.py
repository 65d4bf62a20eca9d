"""`Clip` to mp4: one file, H.264 and AAC, complete or not there at all."""

from __future__ import annotations

import os
import uuid
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pavdit.clip import Clip, DataError
from pavdit.media.probe import audio_stream, open_media, seconds_text, video_stream
from pavdit.media.sound import resample

AAC_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_FRAME_SAMPLES = 1024
X264_OPTIONS = {"crf": "14", "preset": "medium"}
MAX_AAC_BITS_PER_SAMPLE = 6
"""Per channel; the standard's ceiling."""


def aac_sample_rate(sample_rate: int) -> int:
    """The lowest rate that AAC has and that keeps the bandwidth of `sample_rate`.

    Raises:
        ValueError: `sample_rate` is above the highest.
    """
    for rate in AAC_SAMPLE_RATES:
        if rate >= sample_rate:
            return rate
    raise ValueError(f"write_clip: want sample_rate <= {AAC_SAMPLE_RATES[-1]} Hz, got {sample_rate}")


def _check(clip: Clip) -> None:
    num_frames, _, height, width = clip.frames.shape
    if num_frames == 0 or height % 2 or width % 2 or not height or not width:
        raise ValueError(
            f"write_clip: want frames (T,3,H,W) with T >= 1 and even H, W (4:2:0), got {tuple(clip.frames.shape)}"
        )
    want = num_frames / clip.fps * clip.sample_rate
    if abs(clip.wave.shape[0] - want) > 1:
        raise ValueError(
            f"write_clip: want sound as long as the {num_frames} frames at {clip.fps} fps, {float(want):g} samples "
            f"at {clip.sample_rate} Hz, got {clip.wave.shape[0]}"
        )
    if not bool(clip.wave.isfinite().all()):
        raise ValueError(
            f"write_clip: want finite sound, got {int((~clip.wave.isfinite()).sum())} samples that are not"
        )


def _encode(clip: Clip, wave: np.ndarray, sample_rate: int, path: Path, metadata: dict[str, str]) -> None:
    import av

    with av.open(
        str(path), "w", format="mp4", container_options={"movflags": "+faststart+use_metadata_tags"}
    ) as container:
        container.metadata.update(metadata)
        video: Any = container.add_stream("libx264", rate=clip.fps, options=X264_OPTIONS)
        video.height, video.width = clip.frames.shape[-2:]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on every machine
        audio: Any = container.add_stream("aac", rate=sample_rate, layout="mono")
        audio.codec_context.bit_rate = MAX_AAC_BITS_PER_SAMPLE * sample_rate

        for k, picture in enumerate(clip.frames.permute(0, 2, 3, 1).cpu().numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = k, 1 / clip.fps
            container.mux(video.encode(frame))
        container.mux(video.encode(None))

        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = sample_rate, 0, Fraction(1, sample_rate)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def _verify(clip: Clip, sample_rate: int, path: Path, name: Path) -> None:
    """Decode what was written and hold it against the clip.

    Raises:
        DataError: another number of frames, another time stamp, or sound that starts elsewhere or is longer or
            shorter by more than one AAC frame.
    """
    with open_media(path) as container:
        video = video_stream(container, path)
        tick = video.time_base
        stamps = [frame.pts * tick for frame in container.decode(video)]
    with open_media(path) as container:
        sound = [
            (frame.pts * frame.time_base, frame.samples)
            for frame in container.decode(audio_stream(container, path))
        ]
    want = [k / clip.fps for k in range(clip.frames.shape[0])]
    if len(stamps) != len(want) or any(abs(a - b) > tick for a, b in zip(stamps, want, strict=True)):
        raise DataError(
            f"{name}: want {len(want)} frames at {clip.fps} fps read back, got {len(stamps)} from "
            f"{seconds_text(stamps[0] if stamps else 0)} to {seconds_text(stamps[-1] if stamps else 0)} s"
        )
    length = sum(samples for _, samples in sound)
    want_length = clip.wave.shape[0] * sample_rate / clip.sample_rate
    if not sound or sound[0][0] != 0 or abs(length - want_length) > AAC_FRAME_SAMPLES:
        raise DataError(
            f"{name}: want {want_length:g} samples of sound from 0 s read back, got {length} "
            f"from {seconds_text(sound[0][0] if sound else 0)} s"
        )


def write_clip(clip: Clip, path: Path | str, *, metadata: dict[str, str] | None = None) -> None:
    """Write a clip as one mp4: H.264 (4:2:0) at the exact rational fps and AAC, both from time 0, index in front.

    The file is written beside `path`, read back, and only then renamed to it, so `path` is never half a file. An
    existing file is replaced. Sound at a rate that AAC does not have is resampled to the next one that it has
    (16,320 Hz becomes 22,050 Hz). Sound beyond [-1, 1] is clipped, as any player would.

    Args:
        clip: even height and width, sound as long as the frames.
        path: ends in ``.mp4``.
        metadata: tags of the file, such as its provenance.

    Raises:
        ValueError: the clip has odd sizes, sound of another length than its frames or that is not finite, or `path`
            is no mp4.
        DataError: the file cannot be written, or does not read back; none is left.
    """
    import av

    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"write_clip: want a path that ends in .mp4, got {path}")
    _check(clip)
    if not path.parent.is_dir():
        raise DataError(f"{path}: want an existing directory, got {path.parent}")
    sample_rate = aac_sample_rate(clip.sample_rate)
    wave = resample(clip.wave.cpu().numpy(), clip.sample_rate, sample_rate).clip(-1, 1)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _encode(clip, wave, sample_rate, temporary, metadata or {})
        _verify(clip, sample_rate, temporary, path)
        os.replace(temporary, path)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: want to write an mp4, got {reason}") from None
    finally:
        temporary.unlink(missing_ok=True)
