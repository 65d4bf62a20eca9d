"""What a task is given, and what it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pavdit.clip import Clip
from pavdit.config import TASKS, MelConfig

Stream = Literal["video", "audio"]

PromptKind = Literal["sentences", "classes", "none"]
"""What a system takes as a prompt."""

GIVEN: dict[str, Stream] = {"v2a": "video", "a2v": "audio"}
"""The stream that a task is given; its frames of P are clean."""

MADE_ALONE: dict[str, Stream] = {"t2v": "video", "t2a": "audio"}
"""The only stream that a task makes; the other one's frames of P stay noise."""

STREAMS: tuple[Stream, ...] = ("video", "audio")

JOINT = "joint"
PIPELINES: dict[str, tuple[str, ...]] = {
    JOINT: ("t2av",),
    "two-step": ("t2v", "v2a"),
    "two-step-sound-first": ("t2a", "a2v"),
}
"""Ways from text to both streams, as the tasks that follow each other: both at once, or one stream, then the
other to it."""


def choose_task(task: str, video: Clip | None, audio: Clip | None) -> str:
    """Make ``auto`` a task.

    Raises:
        ValueError: there is no such task, or it is given another stream than it wants.
    """
    if task == "auto":
        if video is not None and audio is not None:
            raise ValueError("task: want video or audio to be given, got both, and nothing is left to make")
        task = "v2a" if video is not None else "a2v" if audio is not None else "t2av"
    if task not in TASKS:
        raise ValueError(f"task: want auto, {', '.join(TASKS)}, got {task!r}")
    got = [name for name, clip in (("video", video), ("audio", audio)) if clip is not None]
    want = [GIVEN[task]] if task in GIVEN else []
    if got != want:
        raise ValueError(f"task {task}: want {_names(want)} to be given, got {_names(got)}")
    return task


def _names(streams: Sequence[str]) -> str:
    return " and ".join(streams) or "neither stream"


def require_sound(clip: Clip | None, mel: MelConfig) -> None:
    """Refuse silence as the sound to make a picture for.

    Raises:
        ValueError: nothing of it is above the floor of mel images.
    """
    if clip is not None and float(clip.wave.abs().max()) < 10 ** (mel.floor_db / 20):
        raise ValueError(
            f"audio {clip.name or '(unnamed)'}: want sound to make a picture for, got silence "
            f"(nothing above {mel.floor_db:g} dB)"
        )


def with_given(made: Clip, given: Clip | None, task: str, prompt: str | None) -> Clip:
    """The clip that was made, with the given stream as it was given."""
    frames = given.frames if given is not None and task == "v2a" else made.frames
    wave = given.wave if given is not None and task == "a2v" else made.wave
    return replace(made, frames=frames, wave=wave, label=prompt or "")
