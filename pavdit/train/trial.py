"""Which of two ways of an update is faster, found on the way: timed by the device, not waited for."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, Protocol

import torch

SKIPPED = 3
"""First updates, in which libraries choose and allocate."""

ROUNDS = 10
"""Updates of each way that are compared."""


class Event(Protocol):
    """A point in the device's work, as `torch.cuda.Event`."""

    def record(self) -> None: ...

    def query(self) -> bool: ...

    def elapsed_time(self, end_event: Any, /) -> float: ...


def cuda_event() -> Event:
    """An event of the current device."""
    return torch.cuda.Event(enable_timing=True)


class Trial:
    """First some updates op by op, then some as graphs.

    An update takes the time from the end of the one before to its own end, so that what the host does between
    two updates counts in both ways, and the median leaves out checkpoints and validations.

    Args:
        event: makes an event.
    """

    def __init__(self, event: Callable[[], Event] = cuda_event) -> None:
        self.event = event
        self.spans: dict[bool, list[tuple[Event, Event]]] = {False: [], True: []}
        self.last: tuple[bool, Event] | None = None

    @property
    def graphed(self) -> bool:
        """Whether the next update is to be a graph."""
        return len(self.spans[False]) >= SKIPPED + ROUNDS

    def mark(self, graphed: bool, captured: bool) -> None:
        """An update has been queued; one that `captured` is not counted."""
        now = self.event()
        now.record()
        if self.last is not None and self.last[0] == graphed and not captured:
            self.spans[graphed].append((self.last[1], now))
        self.last = graphed, now

    def share(self) -> float | None:
        """The time of a graph over that of an update op by op; None where it is not known yet."""
        if len(self.spans[True]) < ROUNDS or not self.spans[True][-1][1].query():
            return None
        op_by_op, graph = (
            median(begin.elapsed_time(end) for begin, end in self.spans[way][-ROUNDS:])
            for way in (False, True)
        )
        return graph / op_by_op
