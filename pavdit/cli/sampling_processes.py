"""Many clips on a CPU: a process a core, each of one thread, which together outrun one batch on all cores."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pavdit.cli.makers import load_maker
from pavdit.data.workers import worker_context

if TYPE_CHECKING:
    from pavdit.baselines.system import ClipMaker

WORTH_A_PROCESS = 4
"""Clips; it loads the weights first."""
LARGEST_BYTES = 256 << 20
"""Of weights that are worth a copy in every process."""


@dataclass(frozen=True, slots=True)
class Order:
    """A clip to make.

    Attributes:
        prompt: None: no condition.
        seed: of its noise.
        path: the file to write.
    """

    prompt: str | None
    seed: int
    path: Path


def how_many(device: torch.device, weights: Path, clips: int) -> int:
    """Processes that are worth their start; 1: this one alone."""
    size = sum(file.stat().st_size for file in weights.rglob("*.safetensors"))
    if device.type != "cpu" or size > LARGEST_BYTES:
        return 1
    return max(1, min(torch.get_num_threads(), clips // WORTH_A_PROCESS))


def make_in_processes(
    weights: Path, orders: Sequence[Order], choices: Mapping[str, Any], processes: int
) -> Iterator[int]:
    """Make clips and write their files, one at a time in each process: a core's cache holds no more.

    Args:
        weights: of any system.
        orders: what to make.
        choices: how they are sampled.
        processes: how many work at once.

    Yields:
        How many more are done.
    """
    with ProcessPoolExecutor(processes, worker_context(), _begin) as pool:
        try:
            for made in as_completed([pool.submit(_make, weights, order, choices) for order in orders]):
                made.result()
                yield 1
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the whole group gets it; the parent asks for no more
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _maker(weights: Path) -> ClipMaker:
    return load_maker(weights, "cpu")


def _make(weights: Path, order: Order, choices: Mapping[str, Any]) -> None:
    for _, clip in _maker(weights).stream(order.prompt, seed=order.seed, **choices):
        clip.save(order.path)
