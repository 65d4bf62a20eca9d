"""Where clips go: readable names that no other clip has, and what is there already found again."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pavdit.clip import DataError
from pavdit.config import SystemModel
from pavdit.contact_sheet import contact_sheet
from pavdit.media import probe, read_clip
from pavdit.media.picture import write_png
from pavdit.provenance import is_same_clip

LETTERS = 48
"""Of a prompt in a file's name."""
SHEET_CLIPS = 16
"""On a contact sheet."""


@dataclass(frozen=True, slots=True)
class Place:
    """A clip's file.

    Attributes:
        path: of the mp4.
        is_done: the clip is there.
    """

    path: Path
    is_done: bool


def is_file(output: Path) -> bool:
    """Whether ``-o`` means one clip's file, else a folder."""
    return output.suffix == ".mp4"


def require_output(output: Path, num_clips: int) -> None:
    """Find out before minutes of work that clips cannot go there.

    Raises:
        ValueError: several clips shall go into one file, or clips into what is no folder.
        OSError: nothing can be written there.
    """
    if is_file(output) and num_clips > 1:
        raise ValueError(f"-o: want a folder for {num_clips} clips, got the file {output}")
    folder = output.parent if is_file(output) else output
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"-o {output}: want a folder, got the file {there}")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"-o {output}: want a folder to write into, got {there}: {error.strerror}") from error


def stem_of(about: str, seed: int) -> str:
    """What a clip's file is called: the words of its prompt, as far as there is room, and its seed."""
    words = re.sub(r"\W+", "-", about.lower()).strip("-")
    if len(words) > LETTERS:
        words = words[: LETTERS + 1].rpartition("-")[0] or words[:LETTERS]
    return f"{words}-seed-{seed:04d}".removeprefix("-")


def place_clips(output: Path, stems: Sequence[str], provenances: Sequence[Mapping[str, str]]) -> list[Place]:
    """A file for every clip: the one that holds it, else a free name; a clip asked for twice has one.

    Args:
        output: a folder, or the file of the only clip.
        stems: of the files' names; where another clip has one, ``-2`` follows it, and so on.
        provenances: of the clips.

    Raises:
        ValueError: the file holds another clip.
    """
    if is_file(output):
        if output.exists() and not holds(output, provenances[0]):
            raise ValueError(f"-o: want a new file, or one that holds this very clip, got {output}")
        return [Place(output, output.exists())]
    taken: dict[Path, Mapping[str, str]] = {}
    places = []
    for stem, provenance in zip(stems, provenances, strict=True):
        for number in itertools.count(1):
            path = output / (f"{stem}.mp4" if number == 1 else f"{stem}-{number}.mp4")
            if path in taken:
                if is_same_clip(provenance, taken[path]):
                    break
            elif not path.exists() or holds(path, provenance):
                break
        taken[path] = provenance
        places.append(Place(path, path.exists()))
    return places


def holds(path: Path, provenance: Mapping[str, str]) -> bool:
    """Whether a file is the clip of a provenance."""
    try:
        return is_same_clip(provenance, probe(path).metadata)
    except DataError:
        return False


def sheet_path(output: Path, paths: Sequence[Path]) -> Path:
    """Of the contact sheet: in the folder of all clips, or beside the only one."""
    if len(paths) == 1:
        return paths[0].with_name(f"{paths[0].stem}-contact-sheet.png")
    return output / "contact-sheet.png"


def draw_sheet(paths: Sequence[Path], config: SystemModel, target: Path) -> None:
    """Draw the first clips, as their files hold them.

    Raises:
        DataError: a file cannot be read.
        OSError: the disk is full.
    """
    clips = [read_clip(path, config.clip) for path in paths[:SHEET_CLIPS]]
    write_png(contact_sheet(clips, config.clip, config.mel), target)
