"""Parts of an update: what accumulation and ranks split, and nothing else depends on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import distributed

from pavdit.config import ConfigError


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank computes at once of the batch of an update.

    An update's draws are those of its whole batch; a part takes its rows of them. So neither accumulation nor
    the number of ranks changes which clips, times, noise and masks an update sees.

    Attributes:
        index, count: the batch is split into `count` equal pieces, computed one after another.
        rank, ranks: every piece is split into equal shares, one a rank.
    """

    index: int = 0
    count: int = 1
    rank: int = 0
    ranks: int = 1

    @property
    def share(self) -> float:
        """Of the whole batch."""
        return 1.0 / (self.count * self.ranks)

    def rows(self, batch_size: int) -> slice:
        """Rows of the whole batch that are this part's."""
        size = batch_size // (self.count * self.ranks)
        first = (self.index * self.ranks + self.rank) * size
        return slice(first, first + size)


WHOLE = Part()


def own_parts(batch_size: int, accumulate: int) -> tuple[Part, ...]:
    """The parts that this rank computes, one after another.

    Raises:
        ConfigError: the batch cannot be split equally.
    """
    rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if is_parallel() else (0, 1)
    if batch_size % (ranks * accumulate):
        raise ConfigError(
            f"train.batch_size: want a multiple of accumulate * ranks = {accumulate} * {ranks}, "
            f"got {batch_size}"
        )
    return tuple(Part(index, accumulate, rank, ranks) for index in range(accumulate))


def is_parallel() -> bool:
    """Whether this process is one of several ranks."""
    return distributed.is_available() and distributed.is_initialized()
