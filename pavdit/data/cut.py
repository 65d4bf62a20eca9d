"""One file into clips: what a worker of `pavdit.data.prepare` does."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch.nn.functional as F

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.data.folder import whole_clips
from pavdit.data.inspect import BLACK_LEVEL, SAME_LEVELS, SIDE, SILENCE_DB, WINDOW_SECONDS
from pavdit.media import probe, read_clip, write_clip

Fault = Literal["silent", "black", "frozen"]
FAULTS: tuple[Fault, ...] = ("silent", "black", "frozen")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What clips are like, and which are not wanted.

    Attributes:
        spec: sizes, rates and length.
        resize: as in `DataConfig`.
        channel: as in `DataConfig`.
        only_first: take the first clip of each file.
        drop: faults for which a clip is left out.
    """

    spec: ClipSpec
    resize: Literal["crop", "mmdiffusion"] = "crop"
    channel: Literal["mean", "first"] = "mean"
    only_first: bool = False
    drop: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the clips of a file lie on its time line.

    Attributes:
        start_seconds: of the first.
        clip_seconds: of each.
        num_clips: one after another.
    """

    start_seconds: Fraction
    clip_seconds: Fraction
    num_clips: int

    def start(self, k: int) -> Fraction:
        """Where clip `k` begins, in seconds."""
        return self.start_seconds + k * self.clip_seconds


@dataclass(frozen=True, slots=True)
class Unusable:
    """A file without clips."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unwritable:
    """The output takes no more."""

    errno: int
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """Clips `first` to `last` - 1 of a file, to go below `output` under names that begin with `stem`."""

    path: Path
    output: Path
    stem: Path
    recipe: Recipe
    plan: Plan
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What came of a job.

    Attributes:
        clips: (number, path below the output, bytes) of what is written.
        skipped: (number, reason) of what is not.
    """

    clips: tuple[tuple[int, str, int], ...]
    skipped: tuple[tuple[int, str], ...]


def plan(item: tuple[Path, Recipe]) -> Plan | Unusable:
    """Read a file's headers and lay clips on its time line."""
    path, recipe = item
    try:
        info = probe(path)
        count = whole_clips(path, info, recipe.spec)
    except DataError as error:
        return Unusable(str(error).removeprefix(f"{path}: "))
    return Plan(info.start_seconds, recipe.spec.duration_seconds, 1 if recipe.only_first else count)


def fault_of(clip: Clip) -> Fault | None:
    """The first fault that a whole clip has."""
    window = max(1, round(clip.sample_rate * WINDOW_SECONDS))
    whole = clip.wave[: len(clip.wave) // window * window] if len(clip.wave) >= window else clip.wave
    level = whole.view(-1, min(window, len(whole))).square().mean(1).sqrt()
    if level.max() < 10 ** (SILENCE_DB / 20):
        return "silent"
    grey = F.adaptive_avg_pool2d(clip.frames.float().mean(1), SIDE)  # (T, SIDE, SIDE)
    if grey.max() <= BLACK_LEVEL:
        return "black"
    if len(grey) > 1 and grey.diff(dim=0).abs().max() <= SAME_LEVELS:
        return "frozen"
    return None


def cut(job: Job) -> Cut | Unwritable:
    """Read, judge and write the clips of a job."""
    clips, skipped = [], []
    recipe = job.recipe
    for k in range(job.first, job.last):
        start = job.plan.start(k)
        try:
            clip = read_clip(
                job.path, recipe.spec, start_seconds=start, resize=recipe.resize, channel=recipe.channel
            )
        except DataError as error:
            skipped.append((k, str(error).removeprefix(f"{job.path}: ")))
            continue
        fault = fault_of(clip) if recipe.drop else None
        if fault in recipe.drop:
            skipped.append((k, fault))
            continue
        name = job.stem.with_name(f"{job.stem.name}-{round(1000 * start):07d}.mp4")
        target = job.output / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_clip(clip, target)
        except (DataError, OSError) as error:
            number = getattr(error, "errno", None) or getattr(error.__context__, "errno", None)
            return Unwritable(number or errno.EIO, str(error))
        clips.append((k, name.as_posix(), target.stat().st_size))
    return Cut(tuple(clips), tuple(skipped))
