"""Rows of tensors under keys that name their content, in files that are whole or absent.

A shard is one safetensors file whose metadata list its keys and carry the sha256 of all the rest of it, so a
file says by itself what it holds and whether it is as it was written. There is no index to fall behind.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pavdit.files import replace_with_tensors, tensors_record

ROWS_PER_SHARD = 64
"""Work that a kill loses at most, and names in a directory: 3,000 for 200,000 clips."""

ABANDONED_SECONDS = 3600
"""A shard takes seconds to write; a temporary file of this age belongs to a process that was killed."""

Rows = Iterator[tuple[int, Mapping[str, Tensor]]]
Encode = Callable[[Sequence[Sequence[int]]], Iterator[Rows]]
"""From the places of each shard in a list to the rows of those that could be encoded, each with its place.
All are known at the start, so that what comes next can be read ahead."""


def content_key(*parts: str) -> str:
    """32 hex digits that name `parts`."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the work that one of several processes does."""

    index: int = 0
    count: int = 1


ALL = Share()


class Shards:
    """A directory of shards.

    Args:
        directory: made if it is missing.

    Raises:
        OSError: the directory cannot be made or read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.places: dict[str, tuple[Path, int]] = {}  # shard and row of a key
        self._open: dict[Path, dict[str, Tensor]] = {}
        self.refresh()

    def refresh(self) -> list[Path]:
        """List the shards anew; returns those whose header cannot be read."""
        unreadable, self.places = [], {}
        for path in sorted(self.directory.glob("*.safetensors")):
            try:
                keys = _metadata(path)["keys"].split()
            except (SafetensorError, OSError, KeyError):
                unreadable.append(path)
            else:
                self.places.update({key: (path, row) for row, key in enumerate(keys)})
        return unreadable

    def fill(
        self,
        keys: Sequence[str],
        encode: Encode,
        *,
        share: Share = ALL,
        say: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> None:
        """Have a row for every key of this process's share: verify what is there, encode what is missing.

        The list is dealt out by its places, so processes need not talk: each fills its own, and a shard has
        the same name and content whoever writes it. A damaged shard is said, removed and encoded again.

        Args:
            keys: of the whole list, in its order.
            encode: gives rows for the places of each shard; it may leave some out.
            share: which part of the list is this process's.
            say: told of each damaged shard.
            progress: told how many of how many rows of the share are there.

        Raises:
            OSError: the disk is full; what was written before stays.
        """
        self._sweep()
        starts = range(share.index * ROWS_PER_SHARD, len(keys), share.count * ROWS_PER_SHARD)
        own = [range(start, min(start + ROWS_PER_SHARD, len(keys))) for start in starts]
        used = {self.places[keys[i]][0] for chunk in own for i in chunk if keys[i] in self.places}
        for path in sorted(used | set(self.refresh())):
            if not is_intact(path):
                say(f"{path}: damaged, encoded again")
                path.unlink(missing_ok=True)
                self._open.pop(path, None)
                self.places = {key: place for key, place in self.places.items() if place[0] != path}
        missing = [[i for i in chunk if keys[i] not in self.places] for chunk in own]
        missing = [places for places in missing if places]
        total = sum(map(len, own))
        done = total - sum(map(len, missing))
        for places, encoded in zip(missing, encode(missing) if missing else (), strict=True):
            rows: dict[str, Mapping[str, Tensor]] = {}
            for place, row in encoded:
                rows[keys[place]] = row
                progress(done + len(rows), total)
            if rows:
                self._write(rows)
            done += len(places)
        progress(total, total)

    def row(self, key: str) -> dict[str, Tensor]:
        """The tensors under `key`, as views of the mapped file: read from the disk when they are used.

        Raises:
            KeyError: there is no such row.
        """
        path, row = self.places[key]
        if path not in self._open:
            with safe_open(path, "pt") as file:
                self._open[path] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: tensor[row] for name, tensor in self._open[path].items()}

    def _write(self, rows: Mapping[str, Mapping[str, Tensor]]) -> None:
        path = self.directory / f"{content_key(*rows)}.safetensors"
        names = sorted(next(iter(rows.values())))
        tensors = {name: torch.stack([row[name] for row in rows.values()]) for name in names}
        about = {"keys": " ".join(rows)}
        replace_with_tensors(path, tensors, about | {"sha256": tensors_record(tensors, about).sha256})
        self.places.update({key: (path, row) for row, key in enumerate(rows)})

    def _sweep(self) -> None:
        for orphan in self.directory.glob(".*.tmp"):
            if time.time() - orphan.stat().st_mtime > ABANDONED_SECONDS:
                orphan.unlink(missing_ok=True)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def is_intact(path: Path) -> bool:
    """Whether every byte of a shard is as it was written."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        digest = about.pop("sha256", "")
        return tensors_record(tensors, {"keys": about.get("keys", "")}).sha256 == digest
    except (SafetensorError, OSError, RuntimeError):
        return False
