"""The host's share, on every core: clips are drawn, events found, objects and sounds recognised."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from pavdit.clip import Clip, ClipSpec
from pavdit.data.bounce import BounceClips
from pavdit.data.bounce.recognise import Seen, heard, seen
from pavdit.data.bounce.script import Scenes
from pavdit.metrics.event_sync import Detected, detect
from pavdit.metrics.nearest import features

CHUNK = 100
"""Training clips of a task of a process."""

Raw = tuple[np.ndarray, np.ndarray, Fraction, int]
"""A clip as processes pass it on: frames, wave, fps, sample rate."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is found in a clip.

    Attributes:
        events: of its sound and its picture.
        seen: its objects.
        heard: the materials that its onsets sound like, the loudest first.
    """

    events: Detected
    seen: tuple[Seen, ...]
    heard: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrueClip:
    """A held-out clip and all that is known and found of it.

    Attributes:
        clip: frames, sound, label, caption.
        truth: ``(N,)`` seconds, its events.
        bodies: its objects.
        found: what the detectors see in it.
    """

    clip: Clip
    truth: np.ndarray
    bodies: tuple[Seen, ...]
    found: Observed


@dataclass(frozen=True, slots=True)
class Source:
    """Where clips are drawn from.

    Attributes:
        spec: of all clips.
        scenes: which part of the set.
        seed: of the clips.
    """

    spec: ClipSpec
    scenes: Scenes
    seed: int

    def open(self, last: int) -> BounceClips:
        """The clips 0 to `last`."""
        return BounceClips(last + 1, self.spec, self.seed, self.scenes)


class Host:
    """Processes that draw and observe clips, one a core.

    They are forked, so make one before anything runs on a device.
    """

    def __init__(self) -> None:
        self.workers = len(os.sched_getaffinity(0))
        self._pool = ProcessPoolExecutor(
            self.workers, multiprocessing.get_context("fork"), torch.set_num_threads, (1,)
        )
        list(self._pool.map(abs, range(self.workers)))

    def true_clips(self, source: Source, indices: Sequence[int]) -> list[TrueClip]:
        """Draw and observe clips."""
        drawn = self._pool.map(_draw, [(source, int(i)) for i in indices])
        records = [source.open(int(i)).record(int(i)) for i in indices]
        return [
            TrueClip(_clip(raw, record.label, record.caption), truth, bodies, found)
            for record, (raw, truth, bodies, found) in zip(records, drawn, strict=True)
        ]

    def observe(self, clips: Sequence[Clip]) -> list[Observed]:
        """Find events, objects and materials in clips."""
        return list(self._pool.map(_observe, [raw_of(clip) for clip in clips]))

    def features(self, clips: Sequence[Clip]) -> np.ndarray:
        """``(N, F)`` float32, see `nearest.features`."""
        return np.stack(list(self._pool.map(_features, [raw_of(clip) for clip in clips])))

    def features_of(self, source: Source, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw clips: their indices and features ``(N, F)`` float16, some at a time, in any order."""
        jobs = [(source, indices[i : i + CHUNK]) for i in range(0, len(indices), CHUNK)]
        for done in as_completed([self._pool.submit(_features_of, job) for job in jobs]):
            yield done.result()

    def close(self) -> None:
        """End the processes, and leave what is not begun."""
        self._pool.shutdown(cancel_futures=True)


def raw_of(clip: Clip) -> Raw:
    """A clip without tensors, which processes would share file by file."""
    return clip.frames.numpy(), clip.wave.numpy(), clip.fps, clip.sample_rate


def _clip(raw: Raw, label: str = "", caption: str = "") -> Clip:
    frames, wave, fps, sample_rate = raw
    return Clip(torch.from_numpy(frames), torch.from_numpy(wave), fps, sample_rate, label, caption)


def _observe(raw: Raw) -> Observed:
    frames, wave, _, sample_rate = raw
    return Observed(detect(_clip(raw)), seen(frames), heard(wave, sample_rate))


def _draw(job: tuple[Source, int]) -> tuple[Raw, np.ndarray, tuple[Seen, ...], Observed]:
    source, index = job
    clips = source.open(index)
    clip = clips.read(index)
    bodies = tuple(Seen(body.material_name, body.action) for body in clips.scene(index).bodies)
    raw = raw_of(clip)
    return raw, np.array([event.time_seconds for event in clip.events]), bodies, _observe(raw)


def _features(raw: Raw) -> np.ndarray:
    frames, wave, _, sample_rate = raw
    return features(frames, wave, sample_rate)


def _features_of(job: tuple[Source, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    source, indices = job
    clips = source.open(int(indices.max()))
    rows = [_features(raw_of(clips.read(int(i)))) for i in indices]
    return indices, np.stack(rows).astype(np.float16)
