"""A folder of video files as a set of clips."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.config import ConfigError, DataConfig
from pavdit.media import MediaInfo, probe, read_clip

EXTENSIONS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One clip-long piece of a file.

    Attributes:
        path: the file.
        file_index: its place in the sorted list of files.
        earliest_seconds: where the piece begins, on the file's own time line.
        latest_seconds: equal to `earliest_seconds`, or the latest of the beginnings to choose from.
    """

    path: Path
    file_index: int
    earliest_seconds: Fraction
    latest_seconds: Fraction


def _files(root: Path) -> list[Path]:
    """Every media file below `root`, sorted by its path; names that begin with a dot are left out."""
    if not root.is_dir():
        raise DataError(
            f"{root}: want a folder of clips, got {'a file' if root.exists() else 'no such folder'}"
        )
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise DataError(f"{root}: want files {', '.join(sorted(EXTENSIONS))}, got none")
    return found


def _label(path: Path, root: Path) -> str:
    """Name of the folder directly above the file; empty for a file in the root itself."""
    return "" if path.parent == root else path.parent.name


def _caption(path: Path, label: str) -> str:
    """The side-car ``.txt`` with the file's stem, else a sentence made of the label, else nothing."""
    sidecar = path.with_suffix(".txt")
    if not sidecar.is_file():
        return f"a video of {label}" if label else ""
    try:
        return " ".join(sidecar.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{sidecar}: want a caption in UTF-8, got {error}") from None


class FolderClips:
    """The clips of a folder, in the order of their paths, then of their time.

    Every file's header is read on construction, so a file that is broken, has no picture or no sound, or
    is too short is reported before training starts. ``segments: all`` cuts a file into whole clip lengths
    one after another from the first instant that has picture and sound; ``first`` takes the first of them;
    ``random`` has one clip per file, whose beginning depends on the `draw` number given to `read`.

    Attributes:
        class_names: the folders' names, sorted.
        segments: one per clip.

    Raises:
        DataError: no such folder, no media file in it, or a file that cannot be used; names it.
    """

    def __init__(self, config: DataConfig, spec: ClipSpec) -> None:
        if config.path is None:
            raise ConfigError("data: want path for kind 'folder', got none")
        self.config, self.spec, self.root = config, spec, config.path
        paths = _files(self.root)
        self.segments = tuple(
            segment for k, path in enumerate(paths) for segment in self._cut(path, k, probe(path))
        )
        self.class_names = tuple(sorted({_label(path, self.root) for path in paths} - {""}))

    @property
    def varies(self) -> bool:
        """Whether `read` depends on its `draw`."""
        return self.config.segments == "random"

    def _cut(self, path: Path, file_index: int, info: MediaInfo) -> list[Segment]:
        length, start = self.spec.duration_seconds, info.start_seconds
        # A millisecond of grace: containers round the ends of their streams. `read_clip` has the last word.
        count = int((info.duration_seconds + Fraction(1, 1000)) // length)
        if count == 0:
            raise DataError(
                f"{path}: want at least {float(length):g} s with picture and sound, "
                f"got {float(info.duration_seconds):.3f} s"
            )
        if self.config.segments == "random":
            return [Segment(path, file_index, start, max(start, info.end_seconds - length))]
        if self.config.segments == "first":
            count = 1
        return [Segment(path, file_index, start + k * length, start + k * length) for k in range(count)]

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> Clip:
        return self.read(index)

    def read(self, index: int, draw: int = 0) -> Clip:
        """Decode clip `index`; `draw` picks its beginning where ``segments`` is ``random``.

        Raises:
            IndexError: there is no such clip.
            DataError: the file is damaged; names it.
        """
        if not 0 <= index < len(self.segments):
            raise IndexError(f"FolderClips: want 0 <= index < {len(self.segments)}, got {index}")
        segment = self.segments[index]
        start = segment.earliest_seconds
        if segment.latest_seconds > start:
            share = np.random.default_rng([self.config.seed, index, draw]).random()
            start += Fraction(share).limit_denominator(1 << 20) * (segment.latest_seconds - start)
        clip = read_clip(
            segment.path,
            self.spec,
            start_seconds=start,
            resize=self.config.resize,
            channel=self.config.channel,
        )
        label = _label(segment.path, self.root)
        name = f"{segment.path.relative_to(self.root)}@{float(start):.3f}"
        return dataclasses.replace(clip, label=label, caption=_caption(segment.path, label), name=name)
