"""Parts of an update: what accumulation and ranks split, and nothing else depends on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import distributed

from pavdit.config import ConfigError


@dataclass(frozen=True, slots=True)
class Part:
    """One of the `count` equal parts into which the batch of an update is split.

    An update's draws are those of its whole batch; a part takes its rows of them. So neither accumulation nor
    the number of ranks changes which clips, times, noise and masks an update sees.
    """

    index: int
    count: int

    def rows(self, batch_size: int) -> slice:
        """Rows of the whole batch that are this part's."""
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Part(0, 1)


def own_parts(batch_size: int, accumulate: int) -> tuple[Part, ...]:
    """The parts that this rank computes, one after another: `accumulate` of every rank's.

    Raises:
        ConfigError: the batch cannot be split equally.
    """
    rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if is_parallel() else (0, 1)
    count = ranks * accumulate
    if batch_size % count:
        raise ConfigError(
            f"train.batch_size: want a multiple of accumulate * ranks = {accumulate} * {ranks}, "
            f"got {batch_size}"
        )
    return tuple(Part(rank * accumulate + i, count) for i in range(accumulate))


def is_parallel() -> bool:
    """Whether this process is one of several ranks."""
    return distributed.is_available() and distributed.is_initialized()
