"""The two sides of a comparison: the clips that a protocol takes of a folder, or procedural ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.config import DataConfig
from pavdit.data.bounce import BounceClips
from pavdit.data.bounce.script import Scenes
from pavdit.data.digests import FileDigests
from pavdit.data.folder import PROBING_THREADS, whole_clips
from pavdit.data.layout import Source, list_sources
from pavdit.data.record import ClipRecord
from pavdit.data.shards import content_key
from pavdit.evaluation.protocol import Protocol, Windows
from pavdit.media import MediaInfo, probe, read_clip
from pavdit.media.sound import Channel, read_wave, resample

BOUNCE_SEED = 74_206
"""Of procedural clips that are compared with; of no training's."""


class EvaluationSet(Interface):
    """Clips in a fixed order, each with a key that names its content; also what `read_ahead` asks for."""

    about: str
    """In one line."""
    left_out: dict[str, str]
    """Files that are not used, and why."""
    notes: list[str]
    """What the reader of a result should know."""
    class_names: tuple[str, ...]
    varies: bool
    skips_damaged: bool

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Clip: ...
    def read(self, index: int, draw: int = 0) -> Clip:
        """Clip `index`; DataError where it is damaged."""

    def record(self, index: int) -> ClipRecord:
        """What is known of clip `index` without decoding it."""

    def wave(self, index: int, sample_rate: int, channel: Channel) -> Tensor:
        """The sound of clip `index` at another rate: ``(S,)``."""

    def keys(self) -> list[str]:
        """What names the content of each clip as it is read."""


def _starts(
    info: MediaInfo, count: int, spec: ClipSpec, windows: Windows, rng: np.random.Generator
) -> list[Fraction]:
    """Where the windows of a file begin, in seconds."""
    begin, length = info.start_seconds, spec.duration_seconds
    slack = max(Fraction(0), info.duration_seconds - length)
    if windows == "every":
        return [begin + k / spec.fps for k in range(int(slack * spec.fps) + 1)]
    if windows == "consecutive":
        return [begin + k * length for k in range(count)]
    if windows == "random":
        return [begin + Fraction(rng.random()).limit_denominator(1 << 20) * slack]
    return [begin]


class FolderSet:
    """Windows of the media files below a folder.

    Files that cannot be used are left out; `left_out` names them.

    Args:
        root: the folder.
        protocol: which windows, how they are read.
        spec: sizes and rates.
        windows: the protocol's for this side.
        num_clips: at most.
        seed: of what is drawn.
        digests: remembers what files hold.

    Raises:
        DataError: no such folder, no media file in it, or none that can be used.
    """

    class_names: tuple[str, ...] = ()
    varies = False
    skips_damaged = True

    def __init__(
        self,
        root: Path,
        protocol: Protocol,
        spec: ClipSpec,
        windows: Windows,
        num_clips: int,
        seed: int,
        digests: FileDigests,
    ) -> None:
        self.root, self.protocol, self.spec, self.digests = root, protocol, spec, digests
        self.left_out: dict[str, str] = {}
        sources = list_sources(DataConfig(kind="folder", path=root)).sources
        paths = [source.path for source in sources]
        found: list[tuple[Source, Fraction]] = []
        rates: Counter[Fraction] = Counter()
        for file, (source, info) in enumerate(zip(sources, self._probe(paths), strict=True)):
            path = source.path
            if isinstance(info, DataError):
                self._leave_out(path, info)
                continue
            try:
                count = whole_clips(path, info, spec)
            except DataError as error:
                self._leave_out(path, error)
                continue
            rates[info.fps] += 1
            starts = _starts(info, count, spec, windows, np.random.default_rng([seed, file]))
            found += [(source, start) for start in starts]
        if not found:
            [(name, reason), *_] = self.left_out.items()
            raise DataError(
                f"{root}: want clips, got {len(paths)} files that cannot be used; {name}: {reason}"
            )
        order: Sequence[int] = range(len(found))
        if protocol.order == "shuffled":
            order = np.random.default_rng([seed, len(found)]).permutation(len(found)).tolist()
        self.windows = [found[i] for i in order[:num_clips]]
        self.about = f"{root}: {len(self.windows)} of {len(found)} windows of {sum(rates.values())} files"
        self.notes = list(self._rate_notes(rates))

    @staticmethod
    def _probe(paths: Sequence[Path]) -> list[MediaInfo | DataError]:
        def info_or_error(path: Path) -> MediaInfo | DataError:
            try:
                return probe(path)
            except DataError as error:
                return error

        with ThreadPoolExecutor(min(PROBING_THREADS, os.cpu_count() or 1)) as pool:
            return list(pool.map(info_or_error, paths))

    def _leave_out(self, path: Path, error: DataError) -> None:
        name = str(path.relative_to(self.root))
        self.left_out[name] = str(error).removeprefix(f"{path}: ")

    def _rate_notes(self, rates: Counter[Fraction]) -> list[str]:
        fps, notes = self.spec.fps, []
        if len(rates) > 1:
            said = ", ".join(f"{count} at {float(rate):g}" for rate, count in rates.most_common(4))
            notes.append(f"frame rates are mixed ({said} fps); all are read at {float(fps):g} fps")
        slow = sum(count for rate, count in rates.items() if rate < fps)
        if slow:
            notes.append(f"{slow} files have fewer than {float(fps):g} fps: frames of theirs are repeated")
        return notes

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Clip:
        return self.read(index)

    def record(self, index: int) -> ClipRecord:
        """Words, path and beginning of a window."""
        source, start = self.windows[index]
        return ClipRecord(source.label, source.caption, source.path, f"{float(start):.3f} s")

    def read(self, index: int, draw: int = 0) -> Clip:
        """Decode a window.

        Raises:
            DataError: the file is damaged there; it is remembered as left out.
        """
        path, start = self.windows[index][0].path, self.windows[index][1]
        rules = self.protocol
        try:
            return read_clip(
                path,
                self.spec,
                start_seconds=start,
                resize=rules.resize,
                channel=rules.channel,
                frame_rule=rules.frame_rule,
            )
        except DataError as error:
            self._leave_out(path, error)
            raise

    def wave(self, index: int, sample_rate: int, channel: Channel) -> Tensor:
        """The sound of a window, resampled from the file's own rate.

        Raises:
            DataError: the file is damaged there; it is remembered as left out.
        """
        path, start = self.windows[index][0].path, self.windows[index][1]
        try:
            samples = int(self.spec.duration_seconds * sample_rate)
            return torch.from_numpy(read_wave(path, start, samples, sample_rate, channel))
        except DataError as error:
            self._leave_out(path, error)
            raise

    def keys(self) -> list[str]:
        """Of the file's content, the beginning, and how it is read."""
        digest = self.digests.of([source.path for source, _ in self.windows])
        self.digests.save()
        rules = self.protocol
        way = f"{self.spec} {rules.resize} {rules.channel} {rules.frame_rule}"
        return [content_key(digest[source.path], str(start), way) for source, start in self.windows]


class BounceSet(BounceClips):
    """Procedural clips, drawn when they are read."""

    def __init__(self, num_clips: int, spec: ClipSpec, seed: int, scenes: Scenes) -> None:
        super().__init__(num_clips, spec, seed, scenes)
        self.about = f"bounce: {num_clips} procedural clips, seed {seed}, scenes {scenes}"
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []

    def wave(self, index: int, sample_rate: int, channel: Channel) -> Tensor:
        """The sound of a clip; it has one channel."""
        return torch.from_numpy(resample(self.read(index).wave.numpy(), self.spec.sample_rate, sample_rate))

    def keys(self) -> list[str]:
        """Of what a clip is drawn from."""
        return [
            content_key(f"bounce {self.scenes} {self.seed} {i}", str(self.spec)) for i in range(len(self))
        ]
