"""Sets of clips by configuration, and batches whose order is a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pavdit.clip import Clip, ClipSpec, DataError, frames_to_volume
from pavdit.config import ConfigError, DataConfig
from pavdit.data.bounce import BounceClips
from pavdit.data.folder import FolderClips

CACHE_BYTES = 1 << 30
"""A set that takes no more than this decoded is decoded once and kept; with workers, all of them together."""

_ORDER, _FLIP = 1, 2  # keep the streams of random numbers apart


class Clips(Protocol):
    """What a set of clips offers; `read` with the same arguments gives the same clip."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every class of the set, sorted, whether or not this part of it has a clip of the class."""

    @property
    def varies(self) -> bool:
        """Whether `read` depends on its `draw`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...

    def read(self, index: int, draw: int = 0) -> Clip:
        """Clip `index`, the `draw`-th time that it is used."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips side by side.

    Attributes:
        video: ``(B, 3, T, H, W)`` float32 in [-1, 1].
        wave: ``(B, S)`` float32.
        labels: class names, B of them.
        captions: sentences, B of them.
        names: where each clip came from.
    """

    video: Tensor
    wave: Tensor
    labels: tuple[str, ...]
    captions: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return self.video.shape[0]


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

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Clip:
        return self.read(index)

    def read(self, index: int, draw: int = 0) -> Clip:
        """Clip `index` of this part."""
        return self.clips.read(self.indices[index], draw)


def open_clips(config: DataConfig, spec: ClipSpec) -> tuple[Subset, Subset]:
    """Open a set of clips and split it into training and held-out clips, which share no footage.

    ``bounce``: clips 0 to `num_clips` - 1, the last `held_out` of them held out. ``folder``: the files are
    shuffled by `seed` (a folder is sorted by class, so its end is one class), then the first `num_clips`
    clips are taken and the last `held_out` of these held out; the rest of a file of which a clip is held
    out is used by neither part.

    Returns:
        Training clips and held-out clips (possibly none).

    Raises:
        DataError: a file cannot be used.
        ConfigError: the folder has fewer clips than asked for, or none is left for training.
    """
    if config.kind == "bounce":
        if config.num_clips is None:
            raise ConfigError("data: want num_clips for kind 'bounce', got none")
        bounce = BounceClips(config.num_clips, spec, config.seed)
        first_held_out = config.num_clips - config.held_out
        order = tuple(range(config.num_clips))
        return Subset(bounce, order[:first_held_out]), Subset(bounce, order[first_held_out:])

    folder = FolderClips(config, spec)
    rank = np.random.default_rng([config.seed, _ORDER]).permutation(len(folder))
    order = tuple(sorted(range(len(folder)), key=lambda i: (rank[folder.segments[i].file_index], i)))
    if config.num_clips is not None and config.num_clips > len(folder):
        raise ConfigError(f"data: want {config.num_clips} clips in {config.path}, got {len(folder)}")
    order = order[: config.num_clips]
    first_held_out = len(order) - config.held_out
    held_out = order[max(0, first_held_out) :]
    unseen = {folder.segments[i].file_index for i in held_out}
    train = tuple(i for i in order[: max(0, first_held_out)] if folder.segments[i].file_index not in unseen)
    if not train:
        raise ConfigError(
            f"{config.path}: want clips to train on beside {config.held_out} held out, got {len(order)} clips"
        )
    return Subset(folder, tuple(sorted(train))), Subset(folder, tuple(sorted(held_out)))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(length)


def clip_bytes(spec_clip: Clip) -> int:
    """What a decoded clip takes in memory."""
    return spec_clip.frames.nbytes + spec_clip.wave.nbytes


def collate(clips: Sequence[Clip]) -> Batch:
    """Put clips of one size side by side."""
    return Batch(
        video=frames_to_volume(torch.stack([clip.frames for clip in clips])),
        wave=torch.stack([clip.wave for clip in clips]),
        labels=tuple(clip.label for clip in clips),
        captions=tuple(clip.caption for clip in clips),
        names=tuple(clip.name for clip in clips),
    )


def members_of_step(num_clips: int, batch_size: int, seed: int, step: int) -> list[tuple[int, int]]:
    """(clip, pass over the set) of every sample of the batch of `step`."""
    members = []
    for sample in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(sample, num_clips)
        members.append((int(_permutation(seed, epoch, num_clips)[place]), epoch))
    return members


class _Steps(Dataset[Batch | DataError]):
    """Batch `step`, for any step from 0 on, wherever it is asked for."""

    def __init__(
        self, clips: Clips, batch_size: int, seed: int, flip_probability: float, cache_bytes: int
    ) -> None:
        self.clips, self.batch_size, self.seed = clips, batch_size, seed
        self.flip_probability, self.cache_bytes = flip_probability, cache_bytes
        self.cache: dict[int, Clip] = {}
        self.use_cache: bool | None = None if not clips.varies else False

    def _read(self, index: int, epoch: int) -> Clip:
        if index in self.cache:
            return self.cache[index]
        clip = self.clips.read(index, epoch)
        if self.use_cache is None:
            self.use_cache = clip_bytes(clip) * len(self.clips) <= self.cache_bytes
        if self.use_cache:
            self.cache[index] = clip
        return clip

    def __getitem__(self, step: int) -> Batch | DataError:
        clips, flips = [], []
        try:
            members = members_of_step(len(self.clips), self.batch_size, self.seed, step)
            for sample, (index, epoch) in enumerate(members, step * self.batch_size):
                clips.append(self._read(index, epoch))
                flips.append(
                    np.random.default_rng([self.seed, sample, _FLIP]).random() < self.flip_probability
                )
        except DataError as error:
            return error  # raised by `batches`: torch would wrap a worker's message in its traceback
        batch = collate(clips)
        for k in np.flatnonzero(flips):
            batch.video[k] = batch.video[k].flip(-1)
        return batch


class _From(Sampler[int]):
    """The numbers of some of the `num_parts` parts of step `start`, of the next step, …"""

    def __init__(self, start: int, parts: Sequence[int], num_parts: int) -> None:
        self.start, self.parts, self.num_parts = start, parts, num_parts

    def __iter__(self) -> Iterator[int]:
        for step in count(self.start):
            for part in self.parts:
                yield step * self.num_parts + part


def batches(
    clips: Clips,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
    num_workers: int = 0,
    flip_probability: float = 0.0,
    cache_bytes: int = CACHE_BYTES,
) -> Iterator[Batch]:
    """Yield the batch of step `start_step`, of the next step, and so on without end.

    Each pass over the clips is another permutation of them; batches run across its border. What step n
    holds depends on (clips, batch_size, seed, n) alone: a resumed run continues as if it had not stopped,
    and workers change nothing but the speed.

    Args:
        clips: at least one.
        batch_size: B of the whole batch.
        seed: of order and flips.
        start_step: the first step's number.
        parts: which of the equal parts of a step's batch to yield, one after another; all of it by default.
        num_parts: how many parts there are.
        num_workers: processes that decode ahead; 0 decodes here.
        flip_probability: of a clip being mirrored left to right.
        cache_bytes: keep decoded clips in memory if all of them take no more than this.

    Raises:
        DataError: a file is damaged; names it.
    """
    if len(clips) == 0 or batch_size < 1:
        raise ValueError(f"batches: want clips and batch_size >= 1, got {len(clips)} clips, {batch_size}")
    if batch_size % num_parts:
        raise ValueError(f"batches: want batch_size in multiples of num_parts, got {batch_size}, {num_parts}")
    steps = _Steps(clips, batch_size // num_parts, seed, flip_probability, cache_bytes // max(1, num_workers))
    source = DataLoader(
        steps,
        batch_size=None,
        sampler=_From(start_step, parts, num_parts),
        num_workers=num_workers,
        multiprocessing_context="spawn"
        if num_workers
        else None,  # forked threads of torch and FFmpeg can hang
    )
    for item in source:
        if isinstance(item, DataError):
            raise item
        yield item
