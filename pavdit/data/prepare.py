"""Long recordings to clips of one size, rate and length, each an mp4 of its own, in worker processes."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pavdit.clip import DataError
from pavdit.data.cut import Cut, Job, Plan, Recipe, Unwritable, cut, plan
from pavdit.data.inspect import sha256_of
from pavdit.data.layout import Listing, Source
from pavdit.data.workers import Lost, each
from pavdit.files import replace_with_text

VERSION = 1
SEGMENTS_PER_JOB = 8
"""What a crash or a hang costs at most, and what the time limit is for."""
STRAY = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""What `write_clip` leaves where it is killed."""
LEDGER, TABLE, SKIPPED = "prepared.jsonl", "clips.csv", "skipped.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of a folder.

    Attributes:
        num_clips: written, now or by an earlier run.
        num_new: of these, written now.
        skipped: (source, start in seconds or None for all of it, reason) of what is not there.
    """

    num_clips: int
    num_new: int
    skipped: tuple[tuple[str, float | None, str], ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """A source that can be cut, with what the run needs of it."""

    source: Source
    name: str
    sha256: str
    stem: Path
    plan: Plan


class _Ledger:
    """What is done, one JSON line a job; a line is written when its clips are in place."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe_hash(recipe)
        self.done: dict[tuple[str, str, int], Cut] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            try:
                entry: dict[str, Any] = json.loads(line)
                key = (entry["source"], entry["sha256"], entry["first"])
                result = Cut(
                    tuple((k, name, size) for k, name, size in entry["clips"]),
                    tuple((k, reason) for k, reason in entry["skipped"]),
                )
                stranger = entry["recipe"] != self.recipe
            except (ValueError, KeyError, TypeError):
                continue  # a run that was killed left half a line
            if stranger:
                raise DataError(
                    f"{path.parent}: want a folder that is new or was made with the same options, "
                    "got one of others"
                )
            self.done[key] = result
        replace_with_text(path, "".join(self._line(key) for key in self.done))

    def _line(self, key: tuple[str, str, int]) -> str:
        source, sha256, first = key
        entry = {"recipe": self.recipe, "source": source, "sha256": sha256, "first": first}
        return json.dumps(entry | dataclasses.asdict(self.done[key]), ensure_ascii=False) + "\n"

    def add(self, key: tuple[str, str, int], result: Cut) -> None:
        self.done[key] = result
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(key))

    def holds(self, key: tuple[str, str, int]) -> bool:
        """Whether a job is done and its clips still lie there."""
        result = self.done.get(key)
        return result is not None and all(
            (clip := self.path.parent / name).is_file() and clip.stat().st_size == size
            for _, name, size in result.clips
        )

    def keep(self, keys: Iterable[tuple[str, str, int]]) -> None:
        """Have these lines alone, in order: the same for the same folder, however it came about."""
        replace_with_text(self.path, "".join(self._line(key) for key in sorted(keys) if key in self.done))


def recipe_hash(recipe: Recipe) -> str:
    """Names a recipe."""
    values = json.dumps([VERSION, dataclasses.asdict(recipe)], default=str, sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def _stems(sources: Sequence[Source], root: Path) -> list[Path]:
    """Where each source's clips go, below the output: its own path, with its ending only where needed."""
    paths = [s.path.relative_to(root) if s.path.is_relative_to(root) else Path(s.path.name) for s in sources]
    count = Counter(path.with_suffix("") for path in paths)
    stems = [
        path.with_suffix("")
        if count[path.with_suffix("")] == 1
        else path.with_name(path.name.replace(".", "_"))
        for path in paths
    ]
    if len(set(stems)) < len(stems):
        [(stem, _)] = Counter(stems).most_common(1)
        raise DataError(f"{root}: want clips of other names for each file, got several for {stem}")
    return stems


def prepare(
    listing: Listing,
    output: Path,
    recipe: Recipe,
    *,
    num_workers: int,
    time_limit_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Cut every file of a set into clips below `output`, with a table of their labels, captions and splits.

    ``OUTPUT/<path of the file>-<start in milliseconds>.mp4``; ``clips.csv`` has a row for each (a set that
    `FolderClips` reads as it is), ``skipped.json`` what is left out and why. Repeated, the run makes what is
    missing; the same files and recipe give the same bytes.

    Args:
        listing: the set.
        output: existing folder.
        recipe: what the clips are like.
        num_workers: processes.
        time_limit_seconds: per job of `SEGMENTS_PER_JOB` clips.
        progress: called with (clips done, clips).

    Raises:
        DataError: `output` was made by another recipe, or no clip can be made.
        OSError: `output` cannot be written to, or is full; what is there is whole.
    """
    for stray in output.rglob(".*.tmp"):
        if STRAY.fullmatch(stray.name):
            stray.unlink()
    ledger = _Ledger(output / LEDGER, recipe)
    tasks, skipped = _plan(listing, recipe, num_workers, time_limit_seconds)
    jobs = [
        (task, Job(task.source.path, output, task.stem, recipe, task.plan, first, last))
        for task in tasks
        for first in range(0, task.plan.num_clips, SEGMENTS_PER_JOB)
        for last in [min(first + SEGMENTS_PER_JOB, task.plan.num_clips)]
    ]
    keys = [(task.name, task.sha256, job.first) for task, job in jobs]
    todo = [k for k, key in enumerate(keys) if not ledger.holds(key)]
    total = sum(task.plan.num_clips for task in tasks)
    num_new, done = 0, total - sum(jobs[k][1].last - jobs[k][1].first for k in todo)
    progress(done, total)
    work = [jobs[k][1] for k in todo]
    for place, result in each(cut, work, num_workers=num_workers, seconds=lambda _: time_limit_seconds):
        (task, job), key = jobs[todo[place]], keys[todo[place]]
        if isinstance(result, Unwritable):
            raise OSError(result.errno, result.reason)
        if isinstance(result, Lost):  # not in the ledger: the next run tries again
            skipped += [
                (task.name, float(task.plan.start(k)), result.reason) for k in range(job.first, job.last)
            ]
        else:
            ledger.add(key, result)
            num_new += len(result.clips)
        done += job.last - job.first
        progress(done, total)
    return _finish(
        output, ledger, [(task, key) for (task, _), key in zip(jobs, keys, strict=True)], skipped, num_new
    )


def _plan(
    listing: Listing, recipe: Recipe, num_workers: int, time_limit_seconds: float
) -> tuple[list[_Task], list[tuple[str, float | None, str]]]:
    """Which clips each file has, and the files that have none."""
    names = [
        str(s.path.relative_to(listing.root) if s.path.is_relative_to(listing.root) else s.path)
        for s in listing.sources
    ]
    stems = _stems(listing.sources, listing.root)
    items = [(source.path, recipe) for source in listing.sources]
    tasks: dict[int, _Task] = {}
    skipped: list[tuple[str, float | None, str]] = []
    for k, result in each(plan, items, num_workers=num_workers, seconds=lambda _: time_limit_seconds):
        if isinstance(result, Plan):
            source = listing.sources[k]
            tasks[k] = _Task(source, names[k], sha256_of(source.path), stems[k], result)
        else:
            skipped.append((names[k], None, result.reason))
    return [tasks[k] for k in sorted(tasks)], skipped


def _finish(
    output: Path,
    ledger: _Ledger,
    jobs: Sequence[tuple[_Task, tuple[str, str, int]]],
    skipped: list[tuple[str, float | None, str]],
    num_new: int,
) -> Prepared:
    """Write the table, the list of what is left out, and the ledger in order."""
    rows = []
    for task, key in jobs:
        if key not in ledger.done:
            continue
        for k, name, _ in ledger.done[key].clips:
            source = task.source
            rows.append(
                [name, source.label, source.caption, source.split, task.name, _text(task.plan.start(k))]
            )
        skipped += [(task.name, float(task.plan.start(k)), why) for k, why in ledger.done[key].skipped]
    skipped.sort(key=lambda entry: (entry[0], entry[1] or 0.0))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "label", "text", "split", "recording", "start_seconds"])
    writer.writerows(sorted(rows))
    replace_with_text(output / TABLE, buffer.getvalue())
    entries = [{"source": name, "start_seconds": start, "reason": why} for name, start, why in skipped]
    replace_with_text(output / SKIPPED, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    ledger.keep(key for _, key in jobs)
    return Prepared(len(rows), num_new, tuple(skipped))


def _text(seconds: Fraction) -> str:
    return f"{float(seconds):.6f}".rstrip("0").rstrip(".")
