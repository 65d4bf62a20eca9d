"""Tables that say what the files of a set are: VGGSound's, AudioSet's, Landscape's, any csv with a header."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pavdit.clip import DataError

SUFFIXES = frozenset({".csv", ".tsv"})
YOUTUBE_ID_LENGTH = 11
COLUMNS = {
    "path": ("path", "video_path", "file", "filename", "file_name"),
    "id": ("ytid", "youtube_id", "video_id", "id"),
    "start": ("start", "start_time", "start_seconds"),
    "label": ("label", "class", "category"),
    "caption": ("text", "caption"),
    "split": ("split", "set"),
    "recording": ("recording",),
}
"""Names that a header may have for what we look for; the first that is there counts."""
VGGSOUND, AUDIOSET = ("id", "start", "label", "split"), ("id", "start", "", "mids")
"""Columns of the two tables that come without a header."""
MID = re.compile(r"/[gmt]/\w+")
"""AudioSet's name of a class, such as ``/m/0dgw9r``."""
CLASS_INDEX = "class_labels_indices.csv"
"""AudioSet's file of what mids mean; used where it lies beside the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says of one file; empty where it says nothing.

    Attributes:
        line: number of the line, for messages.
        path: the file, as written.
        id: the file's stem, or a YouTube id that its name begins with.
        start: where in the original recording it begins, as written.
        label: class name; of several the first.
        caption: a sentence.
        split: ``train``, ``test`` or another word.
        recording: what the file is cut from.
    """

    line: int
    path: str = ""
    id: str = ""
    start: str = ""
    label: str = ""
    caption: str = ""
    split: str = ""
    recording: str = ""


def enumeration(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _read(path: Path) -> list[tuple[int, list[str]]]:
    """Lines that are neither empty nor comments, as (number, cells)."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: want a table in UTF-8, got {error}") from None
    return [(number, cells) for number, cells in lines if any(cells) and not cells[0].startswith("#")]


def _columns(path: Path, first: list[str]) -> tuple[dict[str, int], bool]:
    """Where each of our columns stands, and whether `first` is a header."""
    header = [cell.lower() for cell in first]
    found = {
        ours: header.index(name)
        for ours, names in COLUMNS.items()
        for name in reversed(names)  # the first of the names is set last
        if name in header
    }
    if "path" in found or "id" in found:
        return found, True
    if len(first) == 4:
        names = AUDIOSET if MID.match(first[3]) else VGGSOUND
        return {name: k for k, name in enumerate(names) if name}, False
    raise DataError(
        f"{path}: want a header with {' or '.join(COLUMNS['path'][:1] + COLUMNS['id'])}, or the columns of "
        f"vggsound.csv or of AudioSet, got {', '.join(first)!r}"
    )


def _class_index(table: Path) -> dict[str, str]:
    """Display name of each mid, where AudioSet's own file lies beside the table."""
    path = table.with_name(CLASS_INDEX)
    return {cells[1]: cells[2] for _, cells in _read(path) if len(cells) == 3} if path.is_file() else {}


def read_table(path: Path) -> list[Row]:
    """Read the rows of a table.

    A header names the columns (see `COLUMNS`); without one a table of four columns is VGGSound's (YouTube id,
    start, label, split) or AudioSet's (YouTube id, start, end, mids). Of AudioSet's classes the first is the
    label, and all of them make the caption.

    Raises:
        DataError: unreadable, empty, no such columns, or a line of another length; names it.
    """
    lines = _read(path)
    if not lines:
        raise DataError(f"{path}: want a table of clips, got no line")
    columns, has_header = _columns(path, lines[0][1])
    width, rows = len(lines[0][1]), []
    names = _class_index(path) if "mids" in columns else {}
    for number, cells in lines[has_header:]:
        if len(cells) != width:
            raise DataError(f"{path}, line {number}: want {width} columns, got {len(cells)}")
        values = {name: cells[k] for name, k in columns.items()}
        if "mids" in values:
            classes = [names.get(mid, mid) for mid in MID.findall(values.pop("mids"))]
            values |= {"label": classes[0] if classes else ""}
            values |= {"caption": f"a video of {enumeration(classes)}" if classes else ""}
        rows.append(Row(number, **values))
    return rows


class Table:
    """The rows of a table, found by file.

    Args:
        path: the table.
        root: folder of the files; paths in the table may be relative to it or to the table.

    Raises:
        DataError: see `read_table`.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.by_path: dict[Path, Row] = {}
        self.by_stem: dict[str, list[Row]] = defaultdict(list)
        self.by_youtube_id: dict[str, list[Row]] = defaultdict(list)
        self.rows = read_table(path)
        for row in self.rows:
            if row.path:
                for folder in (root, path.parent):
                    self.by_path[(folder / row.path).absolute()] = row
            if "/" not in row.path:
                self.by_stem[Path(row.path).stem or row.id].append(row)
            if not row.path and len(row.id) >= YOUTUBE_ID_LENGTH:
                self.by_youtube_id[row.id[:YOUTUBE_ID_LENGTH]].append(row)

    def find(self, file: Path) -> Row | None:
        """The row of a file: by its path, its whole stem, or the YouTube id that its name begins with.

        Names such as ``ID_000012``, ``ID_12000_22000`` (milliseconds) and ``YID`` are understood.

        Raises:
            DataError: several rows fit and disagree.
        """
        if (row := self.by_path.get(file.absolute())) is not None:
            return row
        for name in (file.stem, file.stem[1:]) if file.stem.startswith("Y") else (file.stem,):
            head, tail = name[:YOUTUBE_ID_LENGTH], name[YOUTUBE_ID_LENGTH:]
            rows = self.by_stem.get(name) or self.by_youtube_id.get(head)
            if rows:
                return self._agreed(rows, tail, file)
        return None

    def _agreed(self, rows: list[Row], tail: str, file: Path) -> Row:
        """The one that rows of one recording agree on; where they do not, that of the file's start."""
        told = re.match(r"[_-](\d+(?:\.\d+)?)", tail)
        if told and len(rows) > 1:
            starts = {Fraction(told[1]), Fraction(told[1]) / 1000}
            rows = [row for row in rows if _seconds(row.start) in starts] or rows
        if len({(row.label, row.caption, row.split) for row in rows}) > 1:
            lines = enumeration([str(row.line) for row in rows])
            raise DataError(f"{self.path}: want one row for {file.name}, got lines {lines}, which disagree")
        return rows[0]


def _seconds(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except ValueError:
        return None
