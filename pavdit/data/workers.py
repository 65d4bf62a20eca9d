"""Processes beside this one: how they begin; a function on every item, where a crash costs that item."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_BYTES = 4 << 30
"""What a worker may take beyond what it starts with: a damaged header can ask for pictures of any size."""


PRELOADED = (
    "torch",
    "pavdit.data.bounce",
    "pavdit.data.check",
    "pavdit.data.loader",
    "pavdit.data.read_ahead",
)
"""What every process needs; imported once."""


def worker_context() -> ForkServerContext:
    """How processes are to begin: forked from a server that has imported everything and runs no thread.

    A new one then costs milliseconds, where a new interpreter takes seconds, one after the other as soon as
    what it is given (the set of clips) is larger than a pipe. Call it before a device is used: forking what
    holds one can be slow.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with _single_threaded():
        forkserver.ensure_running()
    return context


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes that begin in here compute in one thread each: numpy's libraries would take every core in
    every one of them, and on 16 cores 12 of them then render less than one alone."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class Lost:
    """An item that took its worker with it.

    Attributes:
        reason: what was wanted and what came, for a message.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class _Fault:
    """An exception that the function should have handled."""

    trace: str


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """A worker's life: items in, results out, until the other end is closed."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            result = function(item)
        except MemoryError:
            result = Lost(f"want to get along with {MEMORY_BYTES >> 20} MB, got asked for more")
        except Exception:
            result = _Fault(traceback.format_exc())
        pipe.send(result)


class _Worker(Generic[Item]):
    """A process, and the item that it works on."""

    def __init__(self, function: Callable[[Item], Any]) -> None:
        context = worker_context()
        self.pipe, other = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=_serve, args=(function, other), daemon=True)
        self.process.start()
        other.close()
        self.index, self.deadline = -1, 0.0

    def give(self, index: int, item: Item, seconds: float) -> None:
        """Have it work on item `index`, for `seconds` at most."""
        self.index, self.seconds, self.deadline = index, seconds, time.monotonic() + seconds
        self.pipe.send(item)

    def take(self) -> Any:
        """What became of the item: its result, or how the process was lost on it."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(1)
            code = self.process.exitcode
            end = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            return Lost(f"want a file that a decoder survives, got {end}")
        return Lost(f"want to be done within {self.seconds:g} s, got no end")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_workers: int,
    seconds: Callable[[Item], float],
) -> Iterator[tuple[int, Result | Lost]]:
    """Call `function` on every item in worker processes.

    A worker that crashes, takes too long or too much memory is replaced, and its item is `Lost`. Workers end
    with the iterator, also when it is left early.

    Args:
        function: of a module, so that a process can import it; its results are picklable.
        items: picklable.
        num_workers: processes, at least 1.
        seconds: how long an item may take.

    Yields:
        (index of the item, result), in the order in which they are done.

    Raises:
        RuntimeError: `function` raised; the message is its traceback.
    """
    waiting = iter(enumerate(items))
    idle: list[_Worker[Item]] = []
    busy: list[_Worker[Item]] = []
    try:
        while True:
            for index, item in waiting:
                worker = idle.pop() if idle else _Worker(function)
                busy.append(worker)
                worker.give(index, item, seconds(item))
                if len(busy) == num_workers:
                    break
            if not busy:
                return
            patience = min(worker.deadline for worker in busy) - time.monotonic()
            ready = wait([worker.pipe for worker in busy], timeout=max(0.0, patience))
            now = time.monotonic()
            for worker in [w for w in busy if w.pipe in ready or w.deadline <= now]:
                result = worker.take()
                busy.remove(worker)
                if isinstance(result, _Fault):
                    worker.stop()
                    raise RuntimeError(result.trace)
                if isinstance(result, Lost):
                    worker.stop()
                else:
                    idle.append(worker)
                yield worker.index, result
    finally:
        for worker in (*idle, *busy):
            worker.stop()
