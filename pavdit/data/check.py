"""Decode every file of a folder, keep what was measured, and say what is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pavdit.clip import DataError
from pavdit.data.inspect import VERSION, Measured, inspect, sha256_of
from pavdit.data.judge import Finding, Limits, copies, judge
from pavdit.data.workers import Lost, each

BYTES_PER_TIME_LIMIT = 64 << 20
"""A file may take the time limit once for each of these that it has begun."""
HASHING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Checked:
    """One file after the check.

    Attributes:
        path: the file.
        sha256: of its bytes, empty where it cannot be read.
        measured: what was found; of a file that took its worker with it only the error.
        findings: what is wrong, empty for a good file.
        looks_like: another file of the set with the same pictures; a remark, not a fault.
    """

    path: Path
    sha256: str
    measured: Measured
    findings: tuple[Finding, ...]
    looks_like: Path | None = None


class Results:
    """Measurements by hash of the file, one JSON line each, kept from run to run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Measured] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self.separator = "" if text.endswith("\n") or not text else "\n"
        for line in text.splitlines():
            try:
                entry: dict[str, Any] = json.loads(line)
                if entry.pop("version") == VERSION:
                    sha256 = entry.pop("sha256")
                    pairs: dict[str, Any] = {
                        name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()
                    }
                    self.known[sha256] = Measured(**pairs)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a run that was killed left half a line

    def add(self, sha256: str, measured: Measured) -> None:
        """Keep a result, also if this process ends at once."""
        self.known[sha256] = measured
        line = json.dumps({"version": VERSION, "sha256": sha256, **dataclasses.asdict(measured)})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{self.separator}{line}\n")
        self.separator = ""


def _hashes(paths: Sequence[Path]) -> Iterator[str | DataError]:
    def of(path: Path) -> str | DataError:
        try:
            return sha256_of(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        yield from pool.map(of, paths)


def check_files(
    paths: Sequence[Path],
    results: Results,
    limits: Limits,
    *,
    num_workers: int,
    time_limit_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Checked]:
    """Measure what is not yet known and judge all of it.

    Args:
        paths: in the order in which the first of several copies is the original.
        results: measurements of earlier runs; new ones are added as they come, so that a run that is
            interrupted goes on where it stopped.
        limits: what is bad.
        num_workers: processes that decode.
        time_limit_seconds: per file, and as much again for every further 64 MB of it.
        progress: called with (files done, files).

    Returns:
        One per path, in the order of `paths`.
    """
    hashes = list(_hashes(paths))
    first: dict[str, Path] = {}
    for path, sha256 in zip(paths, hashes, strict=True):
        if isinstance(sha256, str):
            first.setdefault(sha256, path)
    todo = [(sha256, path) for sha256, path in first.items() if sha256 not in results.known]
    lost: dict[str, Lost] = {}
    progress(len(first) - len(todo), len(first))
    files = [path for _, path in todo]
    for done, (index, measured) in enumerate(
        each(
            inspect,
            files,
            num_workers=num_workers,
            seconds=lambda path: time_limit_seconds * (1 + path.stat().st_size // BYTES_PER_TIME_LIMIT),
        ),
        1,
    ):
        if isinstance(measured, Lost):  # not kept: another machine or limit may fare better
            lost[todo[index][0]] = measured
        else:
            results.add(todo[index][0], measured)
        progress(len(first) - len(todo) + done, len(first))
    return _judged(paths, hashes, first, results, lost, limits)


def _judged(
    paths: Sequence[Path],
    hashes: Sequence[str | DataError],
    first: dict[str, Path],
    results: Results,
    lost: dict[str, Lost],
    limits: Limits,
) -> list[Checked]:
    checked = []
    for path, sha256 in zip(paths, hashes, strict=True):
        if isinstance(sha256, DataError):
            reason = str(sha256).removeprefix(f"{path}: ")
            checked.append(Checked(path, "", Measured(error=reason), (Finding("damaged", reason),)))
            continue
        measured = Measured(error=lost[sha256].reason) if sha256 in lost else results.known[sha256]
        findings = judge(measured, limits)
        if first[sha256] != path:
            findings.append(Finding("duplicate", f"want every clip once, got the bytes of {first[sha256]}"))
        checked.append(Checked(path, sha256, measured, tuple(findings)))
    originals = [k for k, file in enumerate(checked) if not file.findings]
    for one, other in copies([checked[k].measured.signature for k in originals]):
        k = originals[other]
        checked[k] = dataclasses.replace(checked[k], looks_like=checked[originals[one]].path)
    return checked
