"""The ranks of a run that torchrun started: joining them, agreeing, and what the first one does for all.

Without torchrun there is one rank, and nothing here communicates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)  # the others wait while the first rank validates and saves


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the other ranks, if torchrun says that there are any; yields this rank's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or is_parallel():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def is_parallel() -> bool:
    """Whether this process is one of several ranks."""
    return distributed.is_available() and distributed.is_initialized()


def rank_and_ranks() -> tuple[int, int]:
    """This rank's number, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if is_parallel() else (0, 1)


def is_first() -> bool:
    """Whether this rank logs, saves, validates and shows."""
    return rank_and_ranks()[0] == 0


def on_first(do: Callable[[], T]) -> T:
    """What `do` returns on the first rank, on all of them; its error is raised on all of them too."""
    if not is_parallel():
        return do()
    box: list[object] = [None, None]
    if is_first():
        try:
            box[0] = do()
        except Exception as error:
            box[1] = error
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    if box[1] is not None:
        raise cast(Exception, box[1])
    return cast(T, box[0])


def on_all(do: Callable[[], T]) -> T:
    """What `do` returns here, once every rank has done it; an error on one rank is raised on all of them."""
    if not is_parallel():
        return do()
    result, error = None, None
    try:
        result = do()
    except Exception as caught:
        error = caught
    errors: list[Exception | None] = [None] * rank_and_ranks()[1]
    distributed.all_gather_object(errors, error)
    for one in errors:
        if one is not None:
            raise one
    return cast(T, result)


def mean_over_ranks(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of 0-d tensors over the ranks, in one message, not waited for by the host."""
    if not is_parallel():
        return dict(terms)
    row = torch.stack([value.float() for value in terms.values()])
    distributed.all_reduce(row)
    return dict(zip(terms, row / distributed.get_world_size(), strict=True))


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace each gradient by its mean over the ranks, in one message."""
    if not is_parallel():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    torch._foreach_copy_(
        gradients,
        [
            piece.view_as(g)
            for piece, g in zip(flat.split([g.numel() for g in gradients]), gradients, strict=True)
        ],
    )


class Agreement:
    """What all ranks must do at the same step: stop, and take the time for the same.

    With several ranks the answer is one call old, so that no rank waits for another.
    """

    def __init__(self, seconds: float) -> None:
        self.group = distributed.new_group(backend="gloo") if is_parallel() else None
        self.last = torch.tensor([0.0, seconds], dtype=torch.float64)
        self.work: distributed.Work | None = None

    def __call__(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """Tell what this rank wants; returns whether any rank wants to stop, and the largest time."""
        if self.group is None:
            return stop, seconds
        agreed = self.settle()
        self.last = torch.tensor([float(stop), seconds], dtype=torch.float64)
        self.work = distributed.all_reduce(
            self.last, distributed.ReduceOp.MAX, group=self.group, async_op=True
        )
        return agreed

    def settle(self) -> tuple[bool, float]:
        """Wait for the answer to the last call."""
        if self.work is not None:
            self.work.wait()
            self.work = None
        stop, seconds = self.last.tolist()
        return bool(stop), seconds
