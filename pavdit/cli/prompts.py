"""Prompts from a file: lines of text, a table with a column ``prompt``, or one JSON object a line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pavdit.clip import DataError

SUFFIXES = (".txt", ".csv", ".jsonl")

NAME = re.compile(r"[^\W_.][\w .-]{0,99}")
"""What a file can be called everywhere: letters, digits, and after the first one blanks and ``_ . -``."""


@dataclass(frozen=True, slots=True)
class Row:
    """Clips to make.

    Attributes:
        prompt: None: no condition.
        seed: of its first clip; None: that of the command.
        name: of its files; empty: after the prompt.
    """

    prompt: str | None
    seed: int | None = None
    name: str = ""


def read_prompts(path: Path) -> list[Row]:
    """The rows of a ``.txt``, or of a ``.csv`` or ``.jsonl`` with ``prompt``, perhaps ``seed`` and ``name``.

    Blank lines, and what else a table says of a prompt, are passed over.

    Raises:
        ValueError: the file's name ends otherwise.
        DataError: it cannot be read, holds no prompt, or a row cannot be used; names the line.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--prompts: want a file that ends in {', '.join(SUFFIXES)}, got {path}")
    reader = {".txt": _lines, ".csv": _table, ".jsonl": _objects}[path.suffix]
    try:
        rows = [_row(f"{path}:{line}", fields) for line, fields in reader(path)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: want a file of prompts, got {_reason(error)}") from None
    if not rows:
        raise DataError(f"{path}: want at least one prompt, got none")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _table(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        if "prompt" not in (reader.fieldnames or ()):
            raise DataError(
                f"{path}:1: want a column prompt, got {', '.join(reader.fieldnames or ()) or 'nothing'}"
            )
        for fields in reader:
            yield reader.line_num, fields


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: want a JSON object, got {error}") from None
        if not isinstance(fields, dict):
            raise DataError(f"{path}:{number}: want a JSON object, got {type(fields).__name__}")
        yield number, fields


def _row(where: str, fields: Mapping[str, Any]) -> Row:
    prompt, seed, name = fields.get("prompt"), fields.get("seed"), fields.get("name") or ""
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}: want a prompt, got {prompt!r}")
    if seed in (None, ""):
        seed = None
    elif isinstance(seed, bool) or not re.fullmatch(r"\d{1,18}", str(seed).strip()):
        raise DataError(f"{where}: want seed a whole number from 0 on, got {seed!r}")
    if name and (not isinstance(name, str) or not NAME.fullmatch(name)):
        raise DataError(f"{where}: want name of letters, digits, blanks and _ . -, got {name!r}")
    return Row(prompt.strip(), None if seed is None else int(seed), name)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
