"""Latents of a set of clips by the frozen VAEs, encoded once and found by what made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from pavdit.baselines.av_dit.coders import Coders
from pavdit.clip import DataError
from pavdit.config import DataConfig
from pavdit.data.clips import Subset
from pavdit.data.digests import FileDigests
from pavdit.data.latent_cache import reading_code
from pavdit.data.shards import Rows, Shards, content_key
from pavdit.progress import progress


class LatentClips:
    """The latents of a set.

    Args:
        root: folder of all caches.
        coders: what makes latents.
        digest: names their weights.
        data: how clips are read.
        clips: the set.
        console: where progress goes.

    Attributes:
        names: of the clips, for messages.

    Raises:
        DataError: a clip cannot be read and the set refuses such, or none can.
        OSError: the disk is full; what was encoded stays.
    """

    def __init__(
        self, root: Path, coders: Coders, digest: str, data: DataConfig, clips: Subset, console: Console
    ) -> None:
        model = coders.config
        made_by = {
            "weights": digest,
            "sizes": [*model.picture_shape, *model.sound_shape, model.clip.height, model.clip.width],
            "rates": [str(model.clip.fps), model.clip.sample_rate],
            "spectrogram": model.spectrogram.model_dump(),
            "read": data.model_dump(mode="json", include={"resize", "channel", "scenes", "seed"}),
            "code": reading_code("baselines/av_dit/coders.py"),
        }
        self.coders, self.clips, self.console = coders, clips, console
        name = content_key(json.dumps(made_by, sort_keys=True))[:16]
        self.shards, files = Shards(root / f"av-dit-{name}"), FileDigests(root / "files.json")
        records = [clips.record(i) for i in range(len(clips))]
        digests = files.of(record.path for record in records if record.path is not None)
        keys = [content_key("" if r.path is None else digests[r.path], r.origin) for r in records]
        files.save()
        with progress(console, "encoding") as tell:
            self.shards.fill(keys, self._encode, say=console.print, progress=tell)
        there = [i for i, key in enumerate(keys) if key in self.shards.places]
        if not there:
            raise DataError(f"{self.shards.directory}: want latents of {len(clips)} clips, got none")
        self.keys = tuple(keys[i] for i in there)
        self.names = tuple(f"{records[i].path or ''} {records[i].origin}".strip() for i in there)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """``(B, C, T, rows, columns)`` and ``(B, C_a, 1, rows, columns)`` float32 on the CPU."""
        rows = [self.shards.row(self.keys[i]) for i in places]
        return torch.stack([row["video"] for row in rows]), torch.stack([row["audio"] for row in rows])

    def _encode(self, shards: Sequence[Sequence[int]]) -> Iterator[Rows]:
        for places in shards:
            yield self._rows(places)

    def _rows(self, places: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for place in places:
            try:
                clip = self.clips.read(place)
            except DataError as error:
                if not self.clips.skips_damaged:
                    raise
                self.console.print(f"left out: {error}")
                continue
            video, audio = self.coders.encode(clip.frames[None], clip.wave[None])
            yield place, {"video": video[0], "audio": audio[0]}
