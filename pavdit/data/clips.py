"""Sets of clips by configuration, split into training and held-out clips."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.config import ConfigError, DataConfig
from pavdit.data.bounce import BounceClips
from pavdit.data.folder import FolderClips
from pavdit.data.record import ClipRecord

log = logging.getLogger(__name__)

_ORDER = 1  # keeps this stream of random numbers apart from others of the seed


class Clips(Protocol):
    """What a set of clips offers; `read` with the same arguments gives the same clip."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every class of the set, sorted, whether or not this part of it has a clip of the class."""

    @property
    def varies(self) -> bool:
        """Whether `read` depends on its `draw`."""

    @property
    def skips_damaged(self) -> bool:
        """Whether another clip may stand in for one that does not decode."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...

    def record(self, index: int) -> ClipRecord:
        """What is known of clip `index` without decoding it."""

    def read(self, index: int, draw: int = 0) -> Clip:
        """Clip `index`, the `draw`-th time that it is used."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Some clips of a set, in the order of `indices`."""

    clips: BounceClips | FolderClips
    indices: tuple[int, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the whole set, so that parts of a set agree."""
        return self.clips.class_names

    @property
    def varies(self) -> bool:
        """Whether `read` depends on its `draw`."""
        return self.clips.varies

    @property
    def skips_damaged(self) -> bool:
        """Whether another clip may stand in for one that does not decode."""
        return self.clips.skips_damaged

    @property
    def summary(self) -> str:
        """What the whole set is, in one line."""
        return self.clips.summary

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Clip:
        return self.read(index)

    def record(self, index: int) -> ClipRecord:
        """What is known of clip `index` of this part without decoding it."""
        return self.clips.record(self.indices[index])

    def read(self, index: int, draw: int = 0) -> Clip:
        """Clip `index` of this part."""
        return self.clips.read(self.indices[index], draw)


def readable(clips: Clips, indices: Iterable[int]) -> Iterator[Clip]:
    """The clips of these places; one that does not decode is left out and named in the log, or, where the
    set refuses such, raised.

    Raises:
        DataError: a clip cannot be read, or none of them can.
    """
    found, fault = False, None
    for index in indices:
        try:
            clip = clips.read(index)
        except DataError as error:
            if not clips.skips_damaged:
                raise
            fault = error
            log.warning("left out: %s", error)
        else:
            found = True
            yield clip
    if fault is not None and not found:
        raise fault


def open_clips(config: DataConfig, spec: ClipSpec) -> tuple[Subset, Subset]:
    """Open a set of clips and split it into training and held-out clips, which share no footage.

    ``bounce``: clips 0 to `num_clips` - 1, the last `held_out` of them held out. ``folder``: the files are
    shuffled by `seed` (a folder is sorted by class, so its end is one class). Where the set has parts of its
    own (`Source.split`), the first `num_clips` - `held_out` clips of ``train`` are trained on and the first
    `held_out` clips of the other parts held out. Elsewhere the first `num_clips` clips are taken and the last
    `held_out` of these held out; the rest of a recording of which a clip is held out is used by neither.

    Returns:
        Training clips and held-out clips (possibly none).

    Raises:
        DataError: a file cannot be used.
        ConfigError: the folder has fewer clips than asked for, or none is left for training.
    """
    if config.kind == "bounce":
        if config.num_clips is None:
            raise ConfigError("data: want num_clips for kind 'bounce', got none")
        bounce = BounceClips(config.num_clips, spec, config.seed, config.scenes)
        first_held_out = config.num_clips - config.held_out
        order = tuple(range(config.num_clips))
        return Subset(bounce, order[:first_held_out]), Subset(bounce, order[first_held_out:])

    folder = FolderClips(config, spec)
    rank = np.random.default_rng([config.seed, _ORDER]).permutation(len(folder))
    recordings = np.repeat(folder.recordings, np.diff(folder.firsts))  # per clip
    order = tuple(np.lexsort((np.arange(len(folder)), rank[recordings])).tolist())
    has_parts = config.splits == "auto" and any(source.split for source in folder.sources)
    if has_parts:
        train, held_out = _by_part(folder, order)
    else:
        train, held_out = _by_number(folder, order)
    if not train:
        raise ConfigError(
            f"{config.path}: want clips to train on beside {config.held_out} held out, got {len(order)} clips"
            + (", none of the part 'train'" if has_parts else "")
        )
    return Subset(folder, tuple(sorted(train))), Subset(folder, tuple(sorted(held_out)))


def _by_part(folder: FolderClips, order: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split by the set's own parts; files of no part are used by neither."""
    config = folder.config
    part = [folder.sources[folder.file_of(i)].split for i in range(len(folder))]
    train = tuple(i for i in order if part[i] == "train")
    other = tuple(i for i in order if part[i] not in ("train", ""))
    num_train = None if config.num_clips is None else config.num_clips - config.held_out
    for name, clips, want in (("train", train, num_train), ("test", other, config.held_out)):
        if want is not None and want > len(clips):
            raise ConfigError(f"data: want {want} clips of part '{name}' in {config.path}, got {len(clips)}")
    return train[:num_train], other[: config.held_out]


def _by_number(folder: FolderClips, order: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Hold out the last clips of the first `num_clips`."""
    config = folder.config
    if config.num_clips is not None and config.num_clips > len(folder):
        raise ConfigError(f"data: want {config.num_clips} clips in {config.path}, got {len(folder)}")
    order = order[: config.num_clips]
    first_held_out = max(0, len(order) - config.held_out)
    held_out = order[first_held_out:]
    recording = [folder.recordings[folder.file_of(i)] for i in range(len(folder))]
    unseen = {recording[i] for i in held_out}
    return tuple(i for i in order[:first_held_out] if recording[i] not in unseen), held_out
