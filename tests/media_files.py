"""Media files for tests, made with PyAV and nothing of ours."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_media(
    path: Path,
    *,
    pictures: np.ndarray | None = None,
    fps: Fraction = Fraction(10),
    video_start: Fraction = Fraction(0),
    sound: np.ndarray | None = None,
    sample_rate: int = 16000,
    audio_times: tuple[tuple[Fraction, int, int], ...] | None = None,
    audio_start: Fraction = Fraction(0),
    audio_codec: str = "aac",
    video_codec: str = "libx264",
) -> Path:
    """Write `pictures` (T, h, w, 3) uint8 and `sound` (channels, S) float32 with the time stamps asked for.

    `audio_times`: (start in seconds, first sample, last sample) of runs of sound, not one at `audio_start`.
    """
    with av.open(str(path), "w") as container:
        video = audio = None
        if pictures is not None:
            video = container.add_stream(video_codec, rate=fps)
            video.height, video.width = pictures.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.bit_rate = 4_000_000
            tick = 1 / fps  # the finest that an AVI has
            if video_codec == "libx264":
                video.options, tick = {"crf": "4", "g": "50"}, Fraction(1, 90000)
                video.codec_context.time_base = tick
        if sound is not None:
            audio = container.add_stream(
                audio_codec, rate=sample_rate, layout="mono" if len(sound) == 1 else "stereo"
            )
        if video is not None:
            for k, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.time_base = tick
                frame.pts = round((video_start + k / fps) / tick)
                frame.duration = round(1 / fps / tick)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            for start, first, last in audio_times or ((audio_start, 0, sound.shape[1]),):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(sound[:, first:last], np.float32),
                    format="fltp",
                    layout="mono" if len(sound) == 1 else "stereo",
                )
                frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
                frame.pts = round(start * sample_rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def flat(levels: list[int] | np.ndarray, height: int = 64, width: int = 64) -> np.ndarray:
    """``(T, height, width, 3)``: one grey level per frame."""
    return np.broadcast_to(np.asarray(levels, np.uint8)[:, None, None, None], (len(levels), height, width, 3))


def burst(seconds: float, at: float, sample_rate: int, channels: int = 1) -> np.ndarray:
    """``(channels, S)``: silence with 5 ms of a 1 kHz tone from `at` seconds on."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate - at
    tone = np.where((t >= 0) & (t < 0.005), 0.8 * np.sin(2 * np.pi * 1000 * t), 0.0)
    return np.repeat(tone[None].astype(np.float32), channels, axis=0)


def burst_time(wave: np.ndarray, sample_rate: int) -> float:
    """Where the burst begins in `wave` ``(S,)``, by its correlation with the true one, in seconds."""
    t = np.arange(round(0.005 * sample_rate)) / sample_rate
    return float(np.correlate(wave, np.sin(2 * np.pi * 1000 * t)).argmax() / sample_rate)
