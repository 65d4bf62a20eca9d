"""Latents of a set of clips, encoded once: what the generator trains on instead of files.

A row belongs to one clip and is found by what made it: the bytes of the file and which piece of it, the
weights of the autoencoder, how clips are read and analysed (options and code), the layout of P and the dtype.
Whatever changes, the row has another name and the old one is not found; so nothing stale is ever used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import pavdit
from pavdit.audio.mel import mel_images
from pavdit.clip import DataError, frames_to_volume
from pavdit.config import ModelConfig
from pavdit.data.clips import Clips
from pavdit.data.digests import FileDigests
from pavdit.data.read_ahead import ClipBatch, read_ahead
from pavdit.data.shards import ALL, Rows, Shards, Share, content_key
from pavdit.encoders import Autoencoder
from pavdit.files import tensors_record
from pavdit.latents import PlaneLayout

ENCODING_BATCH = {"cpu": 16, "cuda": 64}
"""Clips, by the type of the device."""

READING_CODE = ("clip.py", "media", "audio", "data/bounce")
"""Sources between a file and what MDSA sees; latents made by other code are not found."""

Way = Literal["joint", "alone"]
"""Both streams encoded together, or each without the other."""
WAYS: tuple[Way, ...] = ("joint", "alone")

RESIDENT_SHARE = 0.1
"""Of a GPU's free memory, that a set may take to be kept there."""
RESIDENT_ROWS = 1024
"""Copied at a time."""

STORED = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LatentSet:
    """Encoded clips, read from the disk when they are asked for, or from a device that holds all of them.

    Attributes:
        shards: where the rows lie.
        keys: of each clip.
        mirrored_keys: of each clip mirrored left to right; empty where none is.
        labels: class names, empty where a clip has none.
        captions: sentences, empty where a clip has none.
        names: for messages.
        resident: all of them on a device, ``(2, n, C, G, rows, columns)``: joint and alone, mirrored ones
            behind the others; None: on the disk only.
    """

    shards: Shards
    keys: tuple[str, ...]
    mirrored_keys: tuple[str, ...]
    labels: tuple[str, ...]
    captions: tuple[str, ...]
    names: tuple[str, ...]
    resident: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def on(self, device: torch.device) -> LatentSet:
        """The same set, kept on a GPU where it takes a small part of what is free there."""
        if device.type != "cuda":
            return self
        keys = self.keys + self.mirrored_keys
        row = self.shards.row(keys[0])["joint"]
        free, _ = torch.cuda.mem_get_info(device)
        if 2 * len(keys) * row.numel() * 4 > RESIDENT_SHARE * free:
            return self
        held = torch.empty(2, len(keys), *row.shape, device=device)
        for first in range(0, len(keys), RESIDENT_ROWS):
            rows = [self.shards.row(key) for key in keys[first : first + RESIDENT_ROWS]]
            for place, way in enumerate(WAYS):
                held[place, first : first + len(rows)] = torch.stack([row[way] for row in rows]).to(device)
        return replace(self, resident=held)

    def read(self, clips: Sequence[int], ways: Sequence[Way], mirrored: Sequence[bool] = ()) -> Tensor:
        """P of some clips, ``(B, C, G, rows, columns)`` float32, where the set is kept or else on the CPU.

        Args:
            clips: B places in the set.
            ways: of each, whether the streams were encoded together.
            mirrored: of each, whether it was mirrored; empty: none was.
        """
        if self.resident is not None:
            flipped = [len(self) * flip for flip in mirrored or [False] * len(clips)]
            place = [i + offset for i, offset in zip(clips, flipped, strict=True)]
            chosen = torch.tensor([[WAYS.index(way) for way in ways], place]).pin_memory()
            way_of, row_of = chosen.to(self.resident.device, non_blocking=True)
            return self.resident[way_of, row_of]
        keys = [
            self.mirrored_keys[i] if flip else self.keys[i]
            for i, flip in zip(clips, mirrored or [False] * len(clips), strict=True)
        ]
        rows = [self.shards.row(key)[way] for key, way in zip(keys, ways, strict=True)]
        return torch.stack(rows).float()


class LatentCache:
    """The latents that one autoencoder gives of clips read in one way.

    Args:
        root: folder of all caches.
        autoencoder: where it runs.
        config: sizes.
        options: whatever else decides what is read from a file and what the autoencoder makes of it.
        dtype: of the stored latents: ``float32`` or ``float16``.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        root: Path,
        autoencoder: Autoencoder,
        config: ModelConfig,
        options: Mapping[str, Any],
        dtype: str = "float32",
    ) -> None:
        self.autoencoder, self.config, self.dtype = autoencoder, config, STORED[dtype]
        self.layout = PlaneLayout.choose(config.grid, config.stdit.layout)
        made_by = {
            "weights": tensors_record(autoencoder.state_dict()).sha256,
            "options": dict(options),
            "code": reading_code(),
            "layout": self.layout.name,
            "dtype": dtype,
        }
        self.device = next(autoencoder.parameters()).device
        if self.device.type == "cuda":
            made_by["products"] = "tf32"
        name = content_key(json.dumps(made_by, sort_keys=True))[:16]
        self.shards = Shards(root / f"latents-{name}")
        self.digests = FileDigests(root / "files.json")

    def encode(
        self,
        clips: Clips,
        *,
        mirrored: bool = False,
        share: Share = ALL,
        num_workers: int = 0,
        say: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> None:
        """Encode what is missing of this process's share of a set.

        Args:
            clips: the set.
            mirrored: also encode each clip mirrored left to right.
            num_workers: processes that read ahead; 0: threads of this one do.
            share: the part of it that this process encodes.
            say: told of clips that are left out and of shards that are damaged.
            progress: told how many of how many are done.

        Raises:
            DataError: a clip cannot be read and the set refuses such.
            OSError: the disk is full; what was encoded stays.
        """
        keys = self._keys(clips, mirrored)
        if share.index == 0:
            self.digests.save()
        encode = partial(self._shards, clips, num_workers, say)
        self.shards.fill(keys, encode, share=share, say=say, progress=progress)

    def open(self, clips: Clips, *, mirrored: bool = False) -> LatentSet:
        """The latents of a set, once every process has encoded its share; clips left out are not in it.

        Raises:
            DataError: there are none.
        """
        self.shards.refresh()
        keys, n = self._keys(clips, mirrored), len(clips)
        there = [i for i in range(n) if all(key in self.shards.places for key in keys[i::n])]
        if not there:
            raise DataError(f"{self.shards.directory}: want latents of {n} clips, got none")
        records = [clips.record(i) for i in there]
        return LatentSet(
            self.shards,
            tuple(keys[i] for i in there),
            tuple(keys[n + i] for i in there) if mirrored else (),
            tuple(record.label for record in records),
            tuple(record.caption for record in records),
            tuple(f"{record.path or ''} {record.origin}".strip() for record in records),
        )

    def _keys(self, clips: Clips, mirrored: bool) -> list[str]:
        """Of all clips, then of all clips mirrored."""
        records = [clips.record(i) for i in range(len(clips))]
        digests = self.digests.of(record.path for record in records if record.path is not None)
        plain = [
            content_key("" if record.path is None else digests[record.path], record.origin)
            for record in records
        ]
        return plain + [content_key(key, "mirrored") for key in plain if mirrored]

    def _shards(
        self,
        clips: Clips,
        num_workers: int,
        say: Callable[[str], None],
        shards: Sequence[Sequence[int]],
    ) -> Iterator[Rows]:
        """Encode the clips of these places in `_keys`, shard by shard; others read ahead."""
        size = ENCODING_BATCH[self.device.type]
        for batches in read_ahead(clips, self.config.clip, shards, size, num_workers):
            yield self._rows(clips, say, batches)

    def _rows(self, clips: Clips, say: Callable[[str], None], batches: Iterator[ClipBatch]) -> Rows:
        for read in batches:
            for error in read.errors:
                if not clips.skips_damaged:
                    raise error
                say(f"left out: {error}")
            if read.places:
                flips = torch.tensor([place >= len(clips) for place in read.places])
                yield from zip(read.places, self._encode(read.frames, read.wave, flips), strict=True)

    @torch.no_grad()
    def _encode(self, frames: Tensor, wave: Tensor, flips: Tensor) -> list[dict[str, Tensor]]:
        flips = flips.to(self.device).view(-1, 1, 1, 1, 1)
        video = frames_to_volume(frames.to(self.device))
        video = torch.where(flips, video.flip(-1), video)
        mel = mel_images(wave.to(self.device), self.config.clip, self.config.mel)
        with _tensor_cores(self.device):
            ways = self.autoencoder.latents_both_ways(video, mel)
        both = {
            way: self.layout.stack(*planes).to(self.dtype).cpu()
            for way, planes in zip(WAYS, ways, strict=True)
        }
        return [{way: latent[i] for way, latent in both.items()} for i in range(len(frames))]


@contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """Float32 products of a GPU in TF32: three bits more than the bfloat16 that MDSA is trained in there."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@lru_cache
def reading_code(*more: str) -> str:
    """Names the sources between a file and what MDSA sees, and `more` files or folders of the package."""
    root = Path(pavdit.__file__).parent
    files = [
        file
        for name in (*READING_CODE, *more)
        for file in ([root / name] if name.endswith(".py") else sorted((root / name).glob("*.py")))
    ]
    return content_key(*(part for file in files for part in (str(file.relative_to(root)), file.read_text())))
