"""Clips in batches: of one text bucket each, smaller where the memory does not suffice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, TypeVar

import torch

from pavdit.text import TextEncoder, bucket_of

BatchSize = int | Literal["auto"]

AUTO = {"cuda": 16, "cpu": 4}
"""Clips of a batch to begin with. A CPU gains nothing from more."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Request:
    """One clip to make.

    Attributes:
        index: place in the answer.
        prompt: its caption; None: no condition.
        seed: of its noise.
        bucket: tokens that its caption fills, padding included.
        padded: padding is among them, so that its batch runs masked.
    """

    index: int
    prompt: str | None
    seed: int
    bucket: int
    padded: bool = False


def requests_for(
    prompt: str | Sequence[str | None] | None,
    n: int,
    seed: int | Sequence[int],
    text: TextEncoder,
    max_length: int,
) -> list[Request]:
    """`n` requests for every prompt, with the bucket that it falls into.

    Args:
        prompt: one, or several, each text or None: no condition (with one known class: that one).
        n: clips of a prompt.
        seed: of the first clip, the next has the next one; or of each clip.
        text: the encoder.
        max_length: tokens that the generator accepts.

    Raises:
        ValueError: there is nothing to make, a prompt is blank, cannot be encoded or has too many tokens, or
            there are fewer or more seeds than clips.
        TypeError: a prompt is no text.
    """
    if n < 1:
        raise ValueError(f"n: want at least 1 clip, got {n}")
    prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise ValueError("prompt: want at least one, got none")
    if len(text.class_names) == 1:
        prompts = [text.class_names[0] if one is None else one for one in prompts]
    lengths: dict[str | None, int] = {}
    for one in dict.fromkeys(prompts):
        if one is not None and not isinstance(one, str):
            raise TypeError(f"prompt: want text, got {type(one).__name__}")
        if one is not None and not one.strip():
            raise ValueError(f"prompt: want text, or none at all for no condition, got {one!r}")
        lengths[one] = 0 if one is None else text.encode([one]).lengths[0]
    buckets = {one: bucket_of(length, max_length) if length else 0 for one, length in lengths.items()}
    each = [one for one in prompts for _ in range(n)]
    return [
        Request(i, one, own, buckets[one], lengths[one] < buckets[one])
        for i, (one, own) in enumerate(zip(each, seeds_for(seed, len(each)), strict=True))
    ]


def seeds_for(seed: int | Sequence[int], count: int) -> list[int]:
    """The seed of each of `count` clips; from one, the next has the next one.

    Raises:
        TypeError: no whole number.
        ValueError: fewer or more than clips, or out of range.
    """
    try:
        if isinstance(seed, Iterable):
            seeds = [index(one) for one in seed]
        else:
            seeds = [index(seed) + i for i in range(count)]
    except TypeError:
        raise TypeError(f"seed: want a whole number, or one for each clip, got {seed!r}") from None
    if len(seeds) != count:
        raise ValueError(f"seed: want one, or one for each of {count} clips, got {len(seeds)}")
    if not 0 <= min(seeds) <= max(seeds) < 2**63:
        raise ValueError(f"seed: want numbers from 0 to 2^63 - 1, got {min(seeds)} to {max(seeds)}")
    return seeds


def plan(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Batches of at most `size` requests, in order, each of one bucket and masked for all or none.

    So what a clip is computed by depends on its own caption and on how many others are in the batch, but not
    on which.

    Raises:
        ValueError: `size` < 1.
    """
    if size < 1:
        raise ValueError(f"batch_size: want at least 1 or auto, got {size}")
    alike: dict[tuple[int, bool], list[Request]] = {}
    for request in requests:
        alike.setdefault((request.bucket, request.padded), []).append(request)
    return [group[i : i + size] for group in alike.values() for i in range(0, len(group), size)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)  # torch's CPU allocator


def in_batches(
    requests: Sequence[Request],
    batch_size: BatchSize,
    device: torch.device,
    run: Callable[[list[Request]], list[Result]],
) -> Iterator[tuple[Request, Result]]:
    """Run all requests; each comes out with its result when its batch is done.

    With ``auto``, a batch that does not fit into memory is halved, as are all after it.

    Args:
        requests: the clips.
        batch_size: clips in a batch.
        device: where they are made.
        run: makes one batch.

    Raises:
        MemoryError: a batch of the size asked for, or a single clip, does not fit.
        ValueError: the size is neither ``auto`` nor a positive number.
    """
    if isinstance(batch_size, str) and batch_size != "auto":
        raise ValueError(f"batch_size: want at least 1 or auto, got {batch_size!r}")
    size = AUTO.get(device.type, 1) if isinstance(batch_size, str) else batch_size
    batches = plan(requests, size)
    while batches:
        batch = batches[0]
        try:
            results = run(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if batch_size != "auto" or len(batch) == 1:
                raise MemoryError(_remedies(len(batch), device, error)) from None
            size = len(batch) // 2
        else:
            batches.pop(0)
            yield from zip(batch, results, strict=True)
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()
        batches = plan([request for batch in batches for request in batch], size)


def _remedies(clips: int, device: torch.device, error: BaseException) -> str:
    """What was wanted, what there is, and what helps."""
    free, total = free_memory(device)
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    smaller = ["a smaller batch_size"] if clips > 1 else []
    device_own = ["graph off"] if device.type == "cuda" else ["closing other programs"]
    remedies = ", ".join([*smaller, "dtype bfloat16", *device_own])
    there = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return (
        f"memory: want room for a batch of {clips} on {device}, {there}, got: {cause}; "
        f"try {remedies} or a smaller preset"
    )


def free_memory(device: torch.device) -> tuple[int, int]:
    """Free and all bytes of a device, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    pages = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * pages, os.sysconf("SC_PHYS_PAGES") * pages
