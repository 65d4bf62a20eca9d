"""Weights that come with the package: checkpoints in folders beside this file, each under its name."""

from __future__ import annotations

from pathlib import Path

from pavdit.clip import DataError

FOLDER = Path(__file__).parent


def bundled_names() -> list[str]:
    """The names of what is bundled, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/manifest.json"))


def find_weights(path: str | Path) -> Path:
    """The checkpoint or run that a path or the name of bundled weights means; an existing path goes first.

    Raises:
        DataError: it is neither.
    """
    path, names = Path(path), bundled_names()
    if path.exists():
        return path
    if str(path) in names:
        return FOLDER / path
    raise DataError(
        f"{path}: want a checkpoint or run directory, or bundled weights by name "
        f"({', '.join(names) or 'this copy of pavdit has none'}), got neither"
    )
