"""The batches of a run, update by update."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pavdit.config import DataConfig, LoopConfig
from pavdit.data.clips import Clips
from pavdit.data.loader import Batch, batches
from pavdit.train.parallel import WHOLE, Part


class Feed:
    """Batches that are read ahead as long as they are asked for in order, and are right in any order.

    Args:
        clips: to learn from.
        train: size, seed, workers.
        data: how clips are varied.
        device: where batches go.
    """

    def __init__(self, clips: Clips, train: LoopConfig, data: DataConfig, device: torch.device) -> None:
        self.clips, self.train, self.data, self.device = clips, train, data, device
        self.batches: Iterator[Batch] = iter(())
        self.next = (-1, 0)

    def __call__(self, step: int, part: Part = WHOLE) -> Batch:
        """A part of update `step`, on the CPU.

        Raises:
            DataError: a clip cannot be read.
        """
        if (step, part.index) != self.next:  # the first update, or the first after resuming
            self.batches = self._batches(step, part)
            for _ in range(part.index):
                next(self.batches)
        self.next = (step, part.index + 1) if part.index + 1 < part.count else (step + 1, 0)
        with torch.random.fork_rng(devices=[]):  # a new loader draws from the global generator
            return next(self.batches)

    def names(self, step: int) -> tuple[str, ...]:
        """The clips of update `step`."""
        return next(self._batches(step, WHOLE)).names

    def _batches(self, step: int, part: Part) -> Iterator[Batch]:
        train = self.train
        return batches(
            self.clips,
            train.batch_size,
            seed=train.seed,
            start_step=step,
            parts=part.count,
            rank=part.rank,
            world_size=part.ranks,
            num_workers=train.num_workers,
            flip_probability=self.data.flip_probability,
            pin_memory=self.device.type == "cuda",
        )
