"""AV-Align: do onsets of the sound coincide with peaks of the motion (Yariv et al., arXiv 2309.16429)?

The score of a clip is intersection over union of two lists of times, where two that are less than a frame
apart are the same. The authors' code of 2023 lets one peak of the motion answer many onsets, so that a score
can exceed 1; that of 2025 pairs one to one and leaves out peaks that hardly move.

At 10 fps everything within 100 ms coincides; `pavdit.metrics.event_sync` sees what this cannot. Motion is in
pixels and grows with the size of the picture, so pictures are brought to one size first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pavdit.clip import Clip
from pavdit.metrics.librosa_onsets import onset_times
from pavdit.metrics.optical_flow import farneback_flow

Version = Literal["2025", "2023"]

SHORT_SIDE = 256
"""Pixels that a picture's shorter side is brought to, up or down."""
LEAST_MOTION = 0.1
"""Pixels; a lower peak of the mean motion is none, in the version of 2025."""
GREY_2_15 = (9798, 19235, 3735)
"""Red, green and blue in OpenCV's grey, in parts of 2^15."""
PAIRS = 4
"""Of frames at a time, which a processor's cache holds."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """AV-Align of one clip.

    Attributes:
        onsets: how many the sound has.
        peaks: how many the motion has.
        coinciding: onsets that coincide with a peak.
    """

    onsets: int
    peaks: int
    coinciding: int

    @property
    def score(self) -> float:
        """Intersection over union; nan where there is neither onset nor peak."""
        union = self.onsets + self.peaks - self.coinciding
        return self.coinciding / union if union else float("nan")


def av_align(clip: Clip, version: Version = "2025") -> Alignment:
    """AV-Align of a clip.

    Args:
        clip: at least 3 frames.
        version: of the authors' code.
    """
    fps = float(clip.fps)
    onsets = onset_times(clip.wave.numpy(), clip.sample_rate)
    peaks = motion_peaks(motion(grey(short_side(clip.frames))), fps, version)
    return Alignment(len(onsets), len(peaks), coinciding(onsets, peaks, fps, version))


def short_side(frames: Tensor, side: int = SHORT_SIDE) -> Tensor:
    """Frames with a shorter side of `side` pixels: means over areas to get smaller, bilinear to get larger.

    Args:
        frames: ``(T, 3, H, W)`` uint8.

    Returns:
        ``(T, 3, H', W')`` uint8.
    """
    rows, columns = frames.shape[2:]
    scale = side / min(rows, columns)
    if scale == 1:
        return frames
    size = (round(rows * scale), round(columns * scale))
    pixels = frames.float()
    if scale > 1:
        pixels = F.interpolate(pixels, size, mode="bilinear")
    else:
        down, across = (_area(n, m, pixels.device) for n, m in zip((rows, columns), size, strict=True))
        pixels = down @ pixels @ across.T
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _area(n: int, m: int, device: torch.device) -> Tensor:
    """``(m, n)``: each of m pixels is the mean of what it covers of n."""
    begin = torch.arange(m, dtype=torch.float64)[:, None] * (n / m)
    pixel = torch.arange(n, dtype=torch.float64)
    covered = torch.minimum(pixel + 1, begin + n / m) - torch.maximum(pixel, begin)
    return (covered.clamp(min=0) * (m / n)).to(device, torch.float32)


def grey(frames: Tensor) -> Tensor:
    """``(T, 3, H, W)`` uint8 to ``(T, H, W)`` uint8, rounded as OpenCV rounds."""
    weights = torch.tensor(GREY_2_15, dtype=torch.int32, device=frames.device)[:, None, None]
    return (((frames.int() * weights).sum(dim=1) + (1 << 14)) >> 15).to(torch.uint8)


def motion(pictures: Tensor) -> np.ndarray:
    """Mean length of the optical flow into each frame, in pixels; the first frame's is the second's.

    Args:
        pictures: ``(T, H, W)`` grey, T at least 2.

    Returns:
        ``(T,)`` float64.
    """
    lengths = [
        farneback_flow(pictures[first : first + PAIRS + 1]).square().sum(dim=1).sqrt().mean(dim=(1, 2))
        for first in range(0, len(pictures) - 1, PAIRS)
    ]
    means = torch.cat(lengths).double().cpu().numpy()
    return np.concatenate([means[:1], means])


def motion_peaks(lengths: np.ndarray, fps: float, version: Version = "2025") -> np.ndarray:
    """Seconds at which the motion is greater than just before and just after, ``(N,)`` ascending."""
    inner = lengths[1:-1]
    peaks = (inner > lengths[:-2]) & (inner > lengths[2:])
    if version == "2025":
        peaks &= inner >= LEAST_MOTION
    return (np.flatnonzero(peaks) + 1) / fps


def coinciding(onsets: np.ndarray, peaks: np.ndarray, fps: float, version: Version = "2025") -> int:
    """How many onsets coincide with a peak: less than ``1 / fps`` apart, in the order of time.

    In the version of 2025 a peak that an onset has taken is gone for the later ones.
    """
    left, count, window = list(peaks), 0, 1 / fps
    for onset in onsets:
        near = [i for i, peak in enumerate(left) if peak - window < onset < peak + window]
        if near:
            count += 1
            if version == "2025":
                del left[near[0]]
    return count
