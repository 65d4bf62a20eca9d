"""What makes clips: our pipeline or a sibling system, as the weights say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pavdit.baselines.system import ClipMaker

SETTINGS = ("dtype", "compile")
"""How models run, of any system; ours has more (`pavdit.runtime.Settings`)."""


def system_behind(path: Path) -> str | None:
    """The system whose weights a path or a name means; None: ours.

    Raises:
        DataError: there are none.
    """
    from pavdit.train.checkpoint import system_of
    from pavdit.weights import find_weights

    return system_of(find_weights(path))


def load_maker(
    path: Path, device: str, assignments: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> ClipMaker:
    """Weights that make clips.

    Args:
        path: a checkpoint, a run, or the name of bundled weights.
        device: where they run.
        assignments: ``key.key=value`` for a sibling system.
        settings: how they run; for a sibling system some of `SETTINGS`.

    Raises:
        DataError: nothing is there, or it is damaged.
        ConfigError: there is no such device or system, or it cannot be so.
        ValueError: a setting does not exist, or not for this system.
    """
    from pavdit.baselines import find_system
    from pavdit.pipeline import Pipeline
    from pavdit.train.models import choose_device

    system, settings = system_behind(path), settings or {}
    if system is not None:
        return find_system(system, str(path)).load(path, choose_device(device), assignments, **settings)
    if assignments:
        raise ValueError(f"--set: want a sibling system's weights, got pavdit's own in {path}")
    return Pipeline.from_pretrained(path, device, **settings)
