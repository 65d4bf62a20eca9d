"""Choosing frames by number instead of by time, as torchvision's ``VideoClips`` and the peers do.

Frames are counted in the order in which they are shown, whatever their time stamps say. At a constant rate
that is the choice of the time line; where the rate varies, such clips run at another speed than their sound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pavdit.clip import DataError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def frame_numbers(count: int, first: int, source_fps: float, fps: float) -> np.ndarray:
    """Numbers of the frames that make frames `first` to ``first + count - 1`` of a file resampled to `fps`.

    ``floor(float32(k) * float32(source_fps / fps))``: 0, 2, 5, 8, … from 30000/1001 to 10 fps.

    Returns:
        ``(count,)`` int64, ascending; numbers repeat where the file has fewer frames a second.
    """
    step, places = source_fps / fps, np.arange(first, first + count)
    if step.is_integer():
        return places * int(step)
    return np.floor(places.astype(np.float32) * np.float32(step)).astype(np.int64)


def num_resampled(num_frames: int, source_fps: float, fps: float) -> int:
    """How many frames a file of so many has at `fps`."""
    step = source_fps / fps
    return -(-num_frames // int(step)) if step.is_integer() else int(num_frames * (fps / source_fps))


def numbered(frames: Iterable[VideoFrame], numbers: np.ndarray, path: Path) -> Iterator[VideoFrame]:
    """Those of `frames` that have the ascending `numbers`, counted from 0; one again where a number repeats.

    Raises:
        DataError: there are not so many.
    """
    last = int(numbers[-1])
    wanted = np.bincount(numbers)
    n = -1
    for n, frame in enumerate(itertools.islice(frames, last + 1)):
        yield from itertools.repeat(frame, int(wanted[n]))
    if n < last:
        raise DataError(f"{path}: want frame number {last}, got {n + 1} frames")
