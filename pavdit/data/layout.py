"""Users' folders as they are: which files there are, and their labels, captions and splits.

| set | what tells the label | layout |
|---|---|---|
| any folder, Landscape with its class folders | the folder above the file | ``folders`` |
| AIST++ | the genre in the file's name, ``gBR_sBM_...`` | ``aist`` |
| VGGSound, AudioSet, Landscape with its csv, any csv | a row of a table, by path or YouTube id | ``table`` |

A split is told by the table, or by top folders ``train``, ``test``, ``val``.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

from pavdit.clip import DataError
from pavdit.config import ConfigError, DataConfig
from pavdit.data.table import CLASS_INDEX, SUFFIXES, Table

EXTENSIONS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif"})
SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "eval": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
"""Words for the parts of a set, and ours for them."""
AIST_NAME = re.compile(r"g([A-Z]{2})_s[A-Z]{2}_c\w+?_d\d+_m[A-Z]{2}\d_ch\d+")
AIST_GENRES = {
    "BR": "break", "PO": "pop", "LO": "lock", "MH": "middle hip-hop", "LH": "LA style hip-hop",
    "HO": "house", "WA": "waack", "KR": "krump", "JS": "street jazz", "JB": "ballet jazz",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One file, and what is known of it without opening it.

    Attributes:
        path: the file.
        label: class name, empty where there is none.
        caption: a sentence, empty where there is none.
        split: ``train``, ``test``, ``val``, or empty where the set has no parts.
        recording: names what the file is cut from, so that parts of it are never held out of one another.
    """

    path: Path
    label: str = ""
    caption: str = ""
    split: str = ""
    recording: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """The files of a set.

    Attributes:
        root: the folder below which they lie.
        sources: sorted by path.
        summary: what was found and how labels were told, in one line.
    """

    root: Path
    sources: tuple[Source, ...]
    summary: str


def media_files(root: Path) -> list[Path]:
    """Every media file below `root`, sorted by its path; names that begin with a dot are left out.

    Raises:
        DataError: `root` is no folder, or there is no media file in it.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: want a folder of clips, got {'a file' if root.exists() else 'no such folder'}"
        )
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise DataError(f"{root}: want files {', '.join(sorted(EXTENSIONS))}, got none")
    return found


def _folder_splits(paths: list[Path], root: Path) -> dict[Path, str]:
    """Part of each file by its top folder, where all of them are named like parts: a class may be `train`."""
    tops = {path: path.relative_to(root).parts[0].lower() for path in paths}
    is_split = all(len(path.relative_to(root).parts) > 1 and tops[path] in SPLITS for path in paths)
    return {path: SPLITS[top] for path, top in tops.items()} if is_split else dict.fromkeys(paths, "")


def _by_folder(paths: list[Path], root: Path) -> list[Source]:
    splits = _folder_splits(paths, root)
    depth = 2 if any(splits.values()) else 1
    return [
        Source(
            path,
            label=path.parent.name if len(path.relative_to(root).parts) > depth else "",
            split=splits[path],
        )
        for path in paths
    ]


def _by_genre(paths: list[Path], root: Path) -> list[Source]:
    splits = _folder_splits(paths, root)
    sources = []
    for path in paths:
        match = AIST_NAME.match(path.name)
        if match is None or match[1] not in AIST_GENRES:
            raise DataError(
                f"{path}: want a name of AIST++ such as gBR_sBM_cAll_d04_mBR0_ch01.mp4, got another"
            )
        sources.append(Source(path, label=AIST_GENRES[match[1]], split=splits[path]))
    return sources


def _by_table(splits: dict[Path, str], table: Table) -> tuple[list[Source], str]:
    """What the table says of each file, and words on how; a file without a row has no label."""
    sources, missing = [], 0
    for path, split in splits.items():
        row = table.find(path)
        if row is None:
            missing += 1
            sources.append(Source(path, split=split))
        else:
            split = SPLITS.get(row.split.lower(), row.split) or split
            sources.append(Source(path, row.label, row.caption, split, row.recording))
    if missing == len(sources):
        raise DataError(f"{table.path}: want rows that fit the {missing} files, got none")
    without = f", {missing} files without a row" if missing else ""
    return sources, f"layout table, labels by {table.path}{without}"


def _listed(table: Table) -> list[Path]:
    """The files that the table itself lists.

    Raises:
        DataError: a row without a path, or no such file.
    """
    paths = []
    for row in table.rows:
        path = table.path.parent / row.path
        if not row.path or not path.is_file():
            wrong = "no path" if not row.path else f"no such file: {row.path}"
            raise DataError(f"{table.path}, line {row.line}: want the path of a clip, got {wrong}")
        paths.append(path)
    return sorted(set(paths))


def _table_of(root: Path) -> tuple[Path | None, str]:
    """The only table that lies in the folder itself; words about those that cannot serve."""
    tables = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES and p.name != CLASS_INDEX)
    if len(tables) == 1:
        return tables[0], ""
    return None, f"; {len(tables)} tables in it, none is used unless labels names it" if tables else ""


def _label(config: DataConfig, root: Path) -> tuple[list[Source], str]:
    """Sources with labels and splits, and how these were told."""
    if root.suffix.lower() in SUFFIXES and root.is_file():
        table = Table(root, root.parent)
        return _by_table(dict.fromkeys(_listed(table), ""), table)
    paths = media_files(root)
    by_table, note = config.layout in ("auto", "table"), ""
    if by_table:
        given, note = (config.labels, "") if config.labels else _table_of(root)
        if given is not None:
            try:
                return _by_table(_folder_splits(paths, root), Table(given, root))
            except DataError as error:
                if config.labels is not None or config.layout == "table":
                    raise
                note = f"; {given.name} left aside: {error}"
    if config.layout == "table":
        raise ConfigError(f"data.layout table: want labels (a .csv or .tsv) for {root}, got none{note}")
    if config.layout == "aist" or (config.layout == "auto" and all(AIST_NAME.match(p.name) for p in paths)):
        return _by_genre(paths, root), f"layout aist, labels by genre{note}"
    return _by_folder(paths, root), f"layout folders, labels by folder{note}"


def _caption(source: Source, config: DataConfig) -> str:
    """The side-car ``.txt`` with the file's stem, else the table's words, else a sentence of the label."""
    sentence = f"a video of {source.label}" if source.label else ""
    if config.captions == "labels":
        return sentence
    sidecar = source.path.with_suffix(".txt")
    if not sidecar.is_file():
        return source.caption or sentence
    try:
        return " ".join(sidecar.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{sidecar}: want a caption in UTF-8, got {error}") from None


def list_sources(config: DataConfig) -> Listing:
    """Find the files of ``data.path``, a folder or a table with a ``path`` column, and what is known of each.

    Raises:
        ConfigError: the layout needs a table that is not there.
        DataError: no such folder, no media file, an unreadable table or caption, or rows that disagree.
    """
    if config.path is None:
        raise ConfigError("data: want path for kind 'folder', got none")
    bare, how = _label(config, config.path)
    sources = tuple(dataclasses.replace(source, caption=_caption(source, config)) for source in bare)
    classes = {source.label for source in sources} - {""}
    parts = Counter(source.split for source in sources if source.split)
    summary = f"{config.path}: {len(sources)} files, {how}: {len(classes)} classes"
    summary += f", {sum(bool(source.caption) for source in sources)} with a caption"
    if parts:
        summary += "; " + ", ".join(f"{count} {part}" for part, count in sorted(parts.items()))
    root = config.path if config.path.is_dir() else config.path.parent
    return Listing(root, sources, summary)
