"""An update on several ranks and in several pieces: which clips each computes, and how gradients meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from pavdit.config import ConfigError
from pavdit.train.ranks import is_parallel, rank_and_ranks
from pavdit.train.sharded import shard


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
    rank, ranks = rank_and_ranks()
    if batch_size % (ranks * accumulate):
        raise ConfigError(
            f"train.batch_size: want a multiple of accumulate * ranks = {accumulate} * {ranks}, "
            f"got {batch_size}"
        )
    return tuple(Part(index, accumulate, rank, ranks) for index in range(accumulate))


Loss = Callable[[int, Part], dict[str, Tensor]]


class _Objective(nn.Module):
    """A loss as a module around the model that it uses: what DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, step: int, part: Part) -> dict[str, Tensor]:
        return self.loss(step, part)


def parallel_objective(model: nn.Module, loss: Loss, *, some_unused: bool, sharded: bool) -> Loss:
    """`loss`, whose backward pass leaves the mean over all ranks as the gradients of `model`.

    Args:
        model: whose gradients they are.
        loss: of a part.
        some_unused: whether parameters may stay without a gradient.
        sharded: split the parameters over the ranks.

    Raises:
        ConfigError: `sharded` with one rank.
    """
    if sharded:
        objective = _Objective(model, loss)
        shard(objective, next(model.parameters()).device)
        return objective
    if not is_parallel():
        return loss
    return DistributedDataParallel(
        _Objective(model, loss),
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=some_unused,
    )


@contextmanager
def synchronised(loss: Loss, last: bool) -> Iterator[None]:
    """Around forward and backward pass of a piece: gradients meet after the last one only."""
    if isinstance(loss, DistributedDataParallel) and not last:
        with loss.no_sync():
            yield
    else:
        if isinstance(loss, FSDPModule):
            loss.set_requires_gradient_sync(last)
        yield
