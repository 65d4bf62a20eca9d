"""What is known of a clip before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """Words and origin of a clip.

    Attributes:
        label: class name, empty where there is none.
        caption: a sentence, empty where there is none.
        path: the file that it is a piece of; None for a procedural clip.
        origin: which piece of the file, or what a procedural clip is drawn from.
    """

    label: str
    caption: str
    path: Path | None = None
    origin: str = ""
