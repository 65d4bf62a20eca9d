"""A folder of video files as a set of clips."""

from __future__ import annotations

import dataclasses
import logging
import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.config import DataConfig
from pavdit.data.layout import Source, list_sources
from pavdit.data.record import ClipRecord
from pavdit.media import MediaInfo, probe, read_clip

PROBING_THREADS = 4
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Where the clips of a file lie on its own time line.

    Attributes:
        start_seconds: of the first clip.
        slack_seconds: how much later a clip may begin, where its beginning is drawn.
        num_clips: how many there are, one after another.
    """

    start_seconds: Fraction
    slack_seconds: Fraction
    num_clips: int


def whole_clips(path: Path, info: MediaInfo, spec: ClipSpec) -> int:
    """How many clips fit into a file, one after another.

    Raises:
        DataError: none.
    """
    length = spec.duration_seconds
    # A millisecond of grace: containers round the ends of their streams. `read_clip` has the last word.
    count = int((info.duration_seconds + Fraction(1, 1000)) // length)
    if count == 0:
        raise DataError(
            f"{path}: want at least {float(length):g} s with picture and sound, "
            f"got {float(info.duration_seconds):.3f} s"
        )
    return count


class FolderClips:
    """The clips of a folder, in the order of their paths, then of their time.

    Every file's header is read on construction, so a file that is broken, has no picture or no sound, or
    is too short is reported before training starts, or left out where ``bad_files`` is ``skip``.
    ``segments: all`` cuts a file into whole clip lengths one after another from the first instant that has
    picture and sound; ``first`` takes the first of them; ``random`` has one clip per file, whose beginning
    depends on the `draw` number given to `read`.

    Attributes:
        sources: the files that have clips.
        recordings: per file the first file that is cut from the same recording, as a rule itself.
        class_names: every label of the set, sorted, also of files that were left out.
        skips_damaged: whether another clip may stand in for one that does not decode.
        summary: what was found, in one line.

    Raises:
        ConfigError: the layout needs a table that is not there.
        DataError: no such folder, no media file in it, or a file that cannot be used; names it.
    """

    def __init__(self, config: DataConfig, spec: ClipSpec) -> None:
        self.config, self.spec = config, spec
        listing = list_sources(config)
        self.root, self.summary = listing.root, listing.summary
        self.class_names = tuple(sorted({source.label for source in listing.sources} - {""}))
        self.skips_damaged = config.bad_files == "skip"
        self.sources, self.spans = self._usable(listing.sources)
        first: dict[str, int] = {}
        self.recordings = [
            first.setdefault(source.recording or str(source.path), file)
            for file, source in enumerate(self.sources)
        ]
        self.firsts = list(accumulate((span.num_clips for span in self.spans), initial=0))

    @property
    def varies(self) -> bool:
        """Whether `read` depends on its `draw`."""
        return self.config.segments == "random"

    def _usable(self, sources: Sequence[Source]) -> tuple[tuple[Source, ...], tuple[Span, ...]]:
        """Files with their spans; headers are read by threads, since a large set waits for its disk."""

        def span_or_error(source: Source) -> Span | DataError:
            try:
                return self._cut(source.path, probe(source.path))
            except DataError as error:
                return error

        pairs: list[tuple[Source, Span]] = []
        with ThreadPoolExecutor(min(PROBING_THREADS, os.cpu_count() or 1)) as pool:
            for source, span in zip(sources, pool.map(span_or_error, sources), strict=True):
                if isinstance(span, Span):
                    pairs.append((source, span))
                elif not self.skips_damaged:
                    pool.shutdown(cancel_futures=True)
                    raise span
                else:
                    log.warning("left out: %s", span)
        if not pairs:
            raise DataError(f"{self.config.path}: want files that can be used, got none among {len(sources)}")
        if len(pairs) < len(sources):
            self.summary += f"; {len(sources) - len(pairs)} files left out"
        return tuple(source for source, _ in pairs), tuple(span for _, span in pairs)

    def _cut(self, path: Path, info: MediaInfo) -> Span:
        length, count = self.spec.duration_seconds, whole_clips(path, info, self.spec)
        if self.config.segments == "random":
            return Span(info.start_seconds, max(Fraction(0), info.duration_seconds - length), 1)
        return Span(info.start_seconds, Fraction(0), 1 if self.config.segments == "first" else count)

    def __len__(self) -> int:
        return self.firsts[-1]

    def __getitem__(self, index: int) -> Clip:
        return self.read(index)

    def file_of(self, index: int) -> int:
        """Which of `sources` clip `index` is a piece of.

        Raises:
            IndexError: there is no such clip.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"FolderClips: want 0 <= index < {len(self)}, got {index}")
        return bisect_right(self.firsts, index) - 1

    def record(self, index: int) -> ClipRecord:
        """What is known of clip `index` without decoding it."""
        source = self.sources[self.file_of(index)]
        return ClipRecord(source.label, source.caption, source.path, f"{self.start_seconds(index)} s")

    def start_seconds(self, index: int, draw: int = 0) -> Fraction:
        """Where clip `index` begins in its file; `draw` picks it where ``segments`` is ``random``."""
        file = self.file_of(index)
        span = self.spans[file]
        if span.slack_seconds > 0:
            share = np.random.default_rng([self.config.seed, index, draw]).random()
            return span.start_seconds + Fraction(share).limit_denominator(1 << 20) * span.slack_seconds
        return span.start_seconds + (index - self.firsts[file]) * self.spec.duration_seconds

    def read(self, index: int, draw: int = 0) -> Clip:
        """Decode clip `index`; `draw` picks its beginning where ``segments`` is ``random``.

        Raises:
            IndexError: there is no such clip.
            DataError: the file is damaged; names it.
        """
        source, start = self.sources[self.file_of(index)], self.start_seconds(index, draw)
        clip = read_clip(
            source.path,
            self.spec,
            start_seconds=start,
            resize=self.config.resize,
            channel=self.config.channel,
        )
        inside = source.path.is_relative_to(self.root)
        file = source.path.relative_to(self.root) if inside else source.path
        name = f"{file}@{float(start):.3f}"
        return dataclasses.replace(clip, label=source.label, caption=source.caption, name=name)
