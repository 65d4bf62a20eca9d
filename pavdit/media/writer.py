"""`Clip` to mp4: one file, H.264 and AAC, complete or not there at all."""

from __future__ import annotations

import uuid
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pavdit.clip import Clip, DataError
from pavdit.media.probe import (
    audio_stream,
    ffmpeg_reason,
    in_seconds,
    open_media,
    tick,
    time_of,
    video_stream,
)
from pavdit.media.sound import resample

AAC_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_FRAME_SAMPLES = 1024
AAC_BITS_PER_SAMPLE = 6
"""The standard's ceiling for one channel: sound quality is not what a few kilobytes are saved on."""
X264_OPTIONS = {"crf": "14", "preset": "medium", "mbtree": "0"}
"""x264's macroblock tree makes other bytes of one clip from run to run; short clips lose nothing without."""
BT601, VIDEO_RANGE = 5, 1
"""FFmpeg's AVCOL_SPC_BT470BG and AVCOL_RANGE_MPEG, which swscale converts to by default."""


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
    """Raise ValueError for a clip that an mp4 cannot hold as it is."""
    num_frames, _, height, width = clip.frames.shape
    if 0 in clip.frames.shape or height % 2 or width % 2:
        raise ValueError(
            "write_clip: want frames (T,3,H,W) with T >= 1 and even H and W (4:2:0), "
            f"got {tuple(clip.frames.shape)}"
        )
    num_samples = num_frames / clip.fps * clip.sample_rate
    if abs(clip.wave.shape[0] - num_samples) > 1:
        raise ValueError(
            f"write_clip: want sound as long as {num_frames} frames at {clip.fps} fps, "
            f"{float(num_samples):g} samples at {clip.sample_rate} Hz, got {clip.wave.shape[0]}"
        )
    if not bool(clip.wave.isfinite().all()):
        raise ValueError(f"write_clip: want finite sound, got {clip.wave[~clip.wave.isfinite()][0]} in it")


def _encode(clip: Clip, wave: np.ndarray, sample_rate: int, path: Path, metadata: dict[str, str]) -> None:
    """Encode frames and `wave` (at `sample_rate`) to the file `path`."""
    import av

    options = {"movflags": "+faststart+use_metadata_tags"}
    with av.open(str(path), "w", format="mp4", container_options=options) as container:
        container.metadata.update(metadata)
        video: Any = container.add_stream("libx264", rate=clip.fps, options=X264_OPTIONS)
        video.height, video.width = clip.frames.shape[-2:]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes whatever the number of cores
        # Untagged, players take large pictures for BT.709.
        video.codec_context.colorspace, video.codec_context.color_range = BT601, VIDEO_RANGE
        audio: Any = container.add_stream("aac", rate=sample_rate, layout="mono")
        audio.codec_context.bit_rate = AAC_BITS_PER_SAMPLE * sample_rate

        for k, picture in enumerate(clip.frames.permute(0, 2, 3, 1).cpu().numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = k, 1 / clip.fps
            container.mux(video.encode(frame))
        container.mux(video.encode(None))

        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = sample_rate, 0, Fraction(1, sample_rate)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def _verify(clip: Clip, num_samples: int, path: Path) -> None:
    """Decode what was written to `path` and hold it against the clip.

    Raises:
        DataError: another number of frames, another time stamp, or sound that does not start at 0 or is
            longer or shorter than `num_samples` by more than one AAC frame.
    """
    with open_media(path) as container:
        video = video_stream(container, path)
        clock = tick(video)
        times = [time_of(frame, path) for frame in container.decode(video)]
    want = [k / clip.fps for k in range(clip.frames.shape[0])]
    if len(times) != len(want) or any(abs(a - b) > clock for a, b in zip(times, want, strict=True)):
        span = f"{in_seconds(times[0])} to {in_seconds(times[-1])} s" if times else "nowhere"
        raise DataError(
            f"{path}: want {len(want)} frames at {clip.fps} fps read back, got {len(times)} at {span}"
        )
    with open_media(path) as container:
        decoded = container.decode(audio_stream(container, path))
        spans = [(time_of(frame, path), frame.samples) for frame in decoded]
    start, length = (spans[0][0], sum(samples for _, samples in spans)) if spans else (Fraction(0), 0)
    if start != 0 or abs(length - num_samples) > AAC_FRAME_SAMPLES:
        raise DataError(
            f"{path}: want {num_samples} samples of sound from 0 s read back, got {length} "
            f"from {in_seconds(start)} s"
        )


def write_clip(clip: Clip, path: Path | str, *, metadata: dict[str, str] | None = None) -> None:
    """Write a clip as one mp4: H.264 (4:2:0) at the exact rational fps and AAC, both from 0, index in front.

    The file is written beside `path`, read back, and only then renamed to it: `path` is never half a file. An
    existing file is replaced. Sound at a rate that AAC does not have is resampled to the next one that it has
    (16,320 Hz becomes 22,050 Hz). Sound beyond [-1, 1] is clipped to it, as most players would.

    Args:
        clip: even height and width, sound as long as the frames.
        path: ends in ``.mp4``.
        metadata: tags of the file, such as its provenance.

    Raises:
        ValueError: odd sizes, sound that is not as long as the frames or not finite, or `path` is no mp4.
        DataError: the file cannot be written or does not read back; none is left.
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
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        _encode(clip, wave, sample_rate, temporary, metadata or {})
        _verify(clip, len(wave), temporary)
        temporary.replace(path)
    except DataError as error:
        raise DataError(str(error).replace(str(temporary), str(path))) from None
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path}: want to write an mp4, got {ffmpeg_reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
