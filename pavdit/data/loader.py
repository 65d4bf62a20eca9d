"""Batches whose order is a pure function of (seed, step), for any number of workers, parts and ranks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pavdit.clip import Clip, DataError, frames_to_volume
from pavdit.data.clips import Clips
from pavdit.data.workers import worker_context

CACHE_BYTES = 1 << 30
"""A set that takes no more than this decoded is decoded once and kept; with workers, all of them together."""

_ORDER, _FLIP = 1, 2  # keep the streams of random numbers apart
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips side by side.

    Attributes:
        video: ``(B, 3, T, H, W)`` float32 in [-1, 1].
        wave: ``(B, S)`` float32.
        labels: class names, B of them.
        captions: sentences, B of them.
        names: where each clip came from.
        skipped: why clips that others stand in for cannot be used.
    """

    video: Tensor
    wave: Tensor
    labels: tuple[str, ...]
    captions: tuple[str, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.video.shape[0]

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU can copy from by itself."""
        return replace(self, video=self.video.pin_memory(), wave=self.wave.pin_memory())


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of a pass over `length` clips."""
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


class _Parts(Dataset[Batch | DataError]):
    """What a rank has of part `number` of all steps' batches, wherever it is asked for."""

    def __init__(
        self,
        clips: Clips,
        part_size: int,
        share: range,
        seed: int,
        flip_probability: float,
        cache_bytes: int,
    ) -> None:
        self.clips, self.part_size, self.share, self.seed = clips, part_size, share, seed
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

    def _sample(self, sample: int, skipped: list[str]) -> Clip:
        """Clip number `sample` of the endless order, or the first one behind it in its epoch that decodes."""
        length = len(self.clips)
        epoch, place = divmod(sample, length)
        order = permutation(self.seed, epoch, length)
        for attempt in range(length if self.clips.skips_damaged else 1):
            try:
                return self._read(int(order[(place + attempt) % length]), epoch)
            except DataError as error:
                skipped.append(str(error))
        raise DataError(skipped[-1])

    def __getitem__(self, number: int) -> Batch | DataError:
        clips, flips = [], []
        skipped: list[str] = []
        try:
            for place in self.share:
                sample = number * self.part_size + place
                clips.append(self._sample(sample, skipped))
                flips.append(
                    np.random.default_rng([self.seed, sample, _FLIP]).random() < self.flip_probability
                )
        except DataError as error:
            return error  # raised by `batches`: torch would wrap a worker's message in its traceback
        batch = replace(collate(clips), skipped=tuple(skipped))
        for k in np.flatnonzero(flips):
            batch.video[k] = batch.video[k].flip(-1)
        return batch


class _From(Sampler[int]):
    """start, start + 1, …"""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1


def batches(
    clips: Clips,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    parts: int = 1,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    flip_probability: float = 0.0,
    cache_bytes: int = CACHE_BYTES,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yield the batch of step `start_step`, of the next step, and so on without end.

    Each pass over the clips is another permutation of them; batches run across its border. What step n
    holds depends on (clips, batch_size, seed, n) alone: a resumed run continues as if it had not stopped,
    and workers change nothing but the speed. Where the set allows it (`Clips.skips_damaged`), the next clip
    of the order that decodes stands in for one that does not, and each such clip is named once in the log.

    Args:
        clips: at least one.
        batch_size: B, over all parts and ranks.
        seed: of order and flips.
        start_step: the first step's number.
        parts: a step's batch comes in this many equal pieces, one after another (accumulation).
        rank: which equal share of every piece is wanted here.
        world_size: how many shares there are; all of them together are the piece.
        num_workers: processes that decode ahead; 0 decodes here.
        flip_probability: of a clip being mirrored left to right.
        cache_bytes: keep decoded clips in memory if all of them take no more than this.
        pin_memory: have batches ready for a GPU to copy, where workers decode ahead.

    Raises:
        DataError: a file is damaged; names it.
        ValueError: no clips, or `batch_size` is not divided by `parts` times `world_size`.
    """
    if len(clips) == 0 or batch_size < 1:
        raise ValueError(f"batches: want clips and batch_size >= 1, got {len(clips)} clips, {batch_size}")
    if parts < 1 or not 0 <= rank < world_size or batch_size % (parts * world_size):
        raise ValueError(
            f"batches: want a rank below world_size and batch_size a multiple of parts * world_size, got "
            f"rank {rank}, batch_size {batch_size}, {parts} parts, world_size {world_size}"
        )
    part_size = batch_size // parts
    share = range(part_size // world_size * rank, part_size // world_size * (rank + 1))
    source = DataLoader(
        _Parts(clips, part_size, share, seed, flip_probability, cache_bytes // max(1, num_workers)),
        batch_size=None,
        sampler=_From(start_step * parts),
        num_workers=num_workers,
        pin_memory=pin_memory and num_workers > 0,
        multiprocessing_context=worker_context() if num_workers else None,
    )
    named: set[str] = set()
    for item in source:
        if isinstance(item, DataError):
            raise item
        for reason in item.skipped:
            if reason not in named:
                named.add(reason)
                log.warning("skipped, number %d: %s", len(named), reason)
        yield item
