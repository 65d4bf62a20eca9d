"""What numbers are computed of: a row of features per clip, kept on the disk under the clip's content.

Clips stream through an extractor in batches and are forgotten; a row is some kilobytes, whatever the clip. A
row is found again while the clip's content, the way it is read, the extractor's network and its code are the
same, so an interrupted evaluation goes on, and one of other generated clips reads the reference again from
the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.data.latent_cache import reading_code
from pavdit.data.read_ahead import THREADS, read_ahead
from pavdit.data.shards import Rows, Shards, content_key
from pavdit.evaluation.protocol import FadRules
from pavdit.evaluation.sets import EvaluationSet
from pavdit.media.sound import Channel
from pavdit.metrics.av_align import Alignment, Version, av_align
from pavdit.metrics.event_sync import detect
from pavdit.metrics.i3d import Fit, i3d_input
from pavdit.metrics.nearest import features as look_of
from pavdit.metrics.networks import Network
from pavdit.progress import progress

BATCH = {"cpu": 4, "cuda": 32}
"""Clips at a time, by the type of the device."""

MOST_EVENTS = 1024
"""Of a kind in a clip; onsets lie at least 2 ms apart."""


@dataclass(frozen=True, slots=True)
class Extractor:
    """From clips to rows.

    Attributes:
        name: for people, and of its folder.
        made_by: what a row depends on besides the clip.
        batch_size: clips at a time.
        run: frames ``(B, T, 3, H, W)`` uint8 and wave ``(B, S)`` to tensors ``(B, ...)`` by name.
        sound: rate and channel, where it wants nothing but the sound at a rate of its own; frames are then
            empty.
    """

    name: str
    made_by: str
    batch_size: int
    run: Callable[[Tensor, Tensor], dict[str, Tensor]]
    sound: tuple[int, Channel] | None = None


def i3d_extractor(network: Network, fit: Fit, device: torch.device) -> Extractor:
    """``logits (B, 400)``."""

    def logits(frames: Tensor) -> Tensor:
        return network.run(i3d_input(frames.to(device), fit))

    def run(frames: Tensor, wave: Tensor) -> dict[str, Tensor]:
        if device.type != "cpu":
            return {"logits": logits(frames)}
        return {"logits": torch.cat(each_on_a_core(logits, frames.split(1)))}

    made_by = content_key(network.sha256, fit, reading_code("metrics/i3d.py"))
    return Extractor("I3D", made_by, BATCH[device.type], run)


def yamnet_extractor(network: Network, device: torch.device) -> Extractor:
    """``embedding (B, K, 1024)``, K patches of 0.96 s a clip."""

    def run(frames: Tensor, wave: Tensor) -> dict[str, Tensor]:
        return {"embedding": network.run(wave)}

    made_by = content_key(network.sha256, reading_code("metrics/yamnet.py"))
    return Extractor("YAMNet", made_by, BATCH[device.type], run)


def audio_extractor(network: Network, rules: FadRules, device: torch.device) -> Extractor:
    """``embedding (B, D)`` or ``(B, K, D)`` of a network of the user's."""

    def run(frames: Tensor, wave: Tensor) -> dict[str, Tensor]:
        return {"embedding": network.run(wave).cpu()}

    made_by = content_key(network.sha256, str(rules), reading_code())
    sound = rules.sample_rate, rules.channel
    return Extractor("sound network", made_by, BATCH[device.type], run, sound)


def look_extractor(spec: ClipSpec) -> Extractor:
    """``look (B, F)`` of `pavdit.metrics.nearest`, and ``peak (B,)``, the largest |sample|."""

    def run(frames: Tensor, wave: Tensor) -> dict[str, Tensor]:
        looks = [
            torch.from_numpy(look_of(f.numpy(), w.numpy(), spec.sample_rate))
            for f, w in zip(frames, wave, strict=True)
        ]
        return {"look": torch.stack(looks), "peak": wave.abs().amax(dim=1)}

    return Extractor("look", reading_code("metrics/nearest.py"), 4, run)


def events_extractor(spec: ClipSpec) -> Extractor:
    """``sound`` and ``picture``: ``(B, MOST_EVENTS)`` seconds, nan behind the last event."""

    def padded(times: np.ndarray) -> Tensor:
        row = torch.full((MOST_EVENTS,), torch.nan)
        row[: len(times)] = torch.from_numpy(times).float()
        return row

    def run(frames: Tensor, wave: Tensor) -> dict[str, Tensor]:
        found = [detect(Clip(f, w, spec.fps, spec.sample_rate)) for f, w in zip(frames, wave, strict=True)]
        return {
            "sound": torch.stack([padded(one.sound) for one in found]),
            "picture": torch.stack([padded(one.picture) for one in found]),
        }

    return Extractor("events", reading_code("metrics"), 4, run)


def av_align_extractor(spec: ClipSpec, version: Version) -> Extractor:
    """``onsets``, ``peaks``, ``coinciding``: ``(B,)`` of `pavdit.metrics.av_align`."""

    def one(frames: Tensor, wave: Tensor) -> Alignment:
        return av_align(Clip(frames, wave, spec.fps, spec.sample_rate), version)

    def run(frames: Tensor, wave: Tensor) -> dict[str, Tensor]:
        found = each_on_a_core(one, frames, wave)
        return {
            "onsets": torch.tensor([one.onsets for one in found]),
            "peaks": torch.tensor([one.peaks for one in found]),
            "coinciding": torch.tensor([one.coinciding for one in found]),
        }

    return Extractor("AV-Align", content_key(version, reading_code("metrics")), 4, run)


Result = TypeVar("Result")


def each_on_a_core(function: Callable[..., Result], *columns: Iterable[Any]) -> list[Result]:
    """Call a function on every row, as many at once as PyTorch has threads, each in one of them: many small
    ops, or convolutions of one clip, do not fill several.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # new threads begin with it
    try:
        with ThreadPoolExecutor(cores) as pool:
            return list(pool.map(function, *columns))
    finally:
        torch.set_num_threads(cores)


class FeatureCache:
    """Rows on the disk.

    Args:
        root: their folder, for any number of sets and extractors.
        console: where progress is shown.
    """

    def __init__(self, root: Path, console: Console) -> None:
        self.root, self.console = root, console

    def rows(
        self, clips: EvaluationSet, keys: Sequence[str], spec: ClipSpec, extractor: Extractor, side: str
    ) -> tuple[list[int], dict[str, Tensor]]:
        """The features of every clip that can be read.

        Args:
            clips: the set; files that cannot be read join what it left out.
            keys: of all its clips.
            spec: sizes and rates of a clip.
            extractor: from clips to features.
            side: what the set is, for people.

        Returns:
            The places of the clips, and their features ``(N, ...)`` by name.

        Raises:
            DataError: none can be read.
            OSError: the disk is full; what was written before stays.
        """
        shards = Shards(self.root / f"{extractor.name.replace(' ', '-')}-{extractor.made_by[:16]}")

        def encode(groups: Sequence[Sequence[int]]) -> Iterator[Rows]:
            batches = (
                self._sound(clips, groups, extractor)
                if extractor.sound
                else self._both(clips, spec, groups, extractor)
            )
            for group in batches:
                yield self._unstacked(group, extractor)

        with progress(self.console, f"{side}: {extractor.name}") as tell:
            shards.fill(keys, encode, say=self.console.print, progress=tell)
        places = [i for i, key in enumerate(keys) if key in shards.places]
        if not places:
            [(name, reason), *_] = clips.left_out.items()
            raise DataError(f"{side}: want clips that can be read, got none; {name}: {reason}")
        rows = [shards.row(keys[i]) for i in places]
        return places, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    @staticmethod
    def _both(
        clips: EvaluationSet, spec: ClipSpec, groups: Sequence[Sequence[int]], extractor: Extractor
    ) -> Iterator[Iterator[tuple[Sequence[int], Tensor, Tensor]]]:
        for group in read_ahead(clips, spec, groups, extractor.batch_size, 0):
            yield ((batch.places, batch.frames, batch.wave) for batch in group)

    @staticmethod
    def _sound(
        clips: EvaluationSet, groups: Sequence[Sequence[int]], extractor: Extractor
    ) -> Iterator[Iterator[tuple[Sequence[int], Tensor, Tensor]]]:
        assert extractor.sound is not None  # noqa: S101 - the caller looked
        rate, channel = extractor.sound

        def wave_or_none(place: int) -> Tensor | None:
            try:
                return clips.wave(place, rate, channel)
            except DataError:  # the set has noted it
                return None

        def batches(group: Sequence[int]) -> Iterator[tuple[Sequence[int], Tensor, Tensor]]:
            for first in range(0, len(group), extractor.batch_size):
                places = group[first : first + extractor.batch_size]
                waves = list(pool.map(wave_or_none, places))
                good = [place for place, wave in zip(places, waves, strict=True) if wave is not None]
                heard = [wave for wave in waves if wave is not None]
                yield good, torch.empty(0), torch.stack(heard) if heard else torch.empty(0)

        with ThreadPoolExecutor(THREADS) as pool:
            for group in groups:
                yield batches(group)

    @staticmethod
    def _unstacked(batches: Iterator[tuple[Sequence[int], Tensor, Tensor]], extractor: Extractor) -> Rows:
        for places, frames, wave in batches:
            if not places:
                continue
            columns = extractor.run(frames, wave)
            for row, place in enumerate(places):
                yield place, {name: column[row] for name, column in columns.items()}
