"""Batches of clips in a given order, read by processes or threads before they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.data.clips import Clips
from pavdit.data.workers import worker_context

THREADS = 4
WORTH_A_PROCESS = 16
"""Clips; starting it takes seconds."""


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips of a set side by side.

    Attributes:
        places: of those that could be read.
        frames: ``(B, T, 3, H, W)`` uint8.
        wave: ``(B, S)`` float32.
        errors: of the others.
    """

    places: tuple[int, ...]
    frames: Tensor
    wave: Tensor
    errors: tuple[DataError, ...]


class _Reader(Dataset[ClipBatch]):
    """Batches by their places in a set, which is there twice (again mirrored).

    A process hands over a batch in the time of a clip, which is why it does not hand over clips.
    """

    def __init__(self, clips: Clips, spec: ClipSpec) -> None:
        self.clips, self.spec = clips, spec

    def __getitem__(self, places: Sequence[int]) -> ClipBatch:
        good, clips, errors = list[int](), list[Clip](), list[DataError]()
        for place in places:
            try:
                clips.append(self.clips.read(place % len(self.clips)).require(self.spec))
            except DataError as error:  # for the one who uses it
                errors.append(error)
            else:
                good.append(place)
        nothing = torch.empty(0)
        frames = torch.stack([clip.frames for clip in clips]) if clips else nothing
        wave = torch.stack([clip.wave for clip in clips]) if clips else nothing
        return ClipBatch(tuple(good), frames, wave, tuple(errors))


def read_ahead(
    clips: Clips, spec: ClipSpec, groups: Sequence[Sequence[int]], size: int, num_workers: int
) -> Iterator[Iterator[ClipBatch]]:
    """The batches of every group of places, in order; each group's are to be used up before the next.

    Args:
        clips: the set. A place beyond its end means the same clip again.
        spec: what a clip has to be.
        groups: places.
        size: of a batch, which never crosses the border of a group.
        num_workers: processes; 0, or where there are few clips: threads of this one.
    """
    batches = [[group[first : first + size] for first in range(0, len(group), size)] for group in groups]
    source = _Reader(clips, spec)
    if num_workers and sum(map(len, groups)) > WORTH_A_PROCESS * num_workers:
        loader = DataLoader(
            source,
            batch_size=None,
            sampler=[batch for group in batches for batch in group],
            num_workers=num_workers,
            multiprocessing_context=worker_context(),
        )
        # a new loader draws from the global generator
        with torch.random.fork_rng(devices=[]):
            read = iter(loader)
        for group in batches:
            yield islice(read, len(group))
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            for group in batches:
                yield pool.map(source.__getitem__, group)
