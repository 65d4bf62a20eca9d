"""How far a clip is from the nearest one of the training: are samples new, or copies?

A clip is seen in 8 x 8 fields of each frame (luminance and two opponent colours) and heard in 16 bands, twice
a frame. Both halves count alike: a distance of 1 is that of two unrelated clips in the mean, 0 is a copy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pavdit.metrics.tracks import opponent

FIELDS = 8
BANDS = 16
LOWEST_HZ, HIGHEST_HZ = 100.0, 7500.0
N_FFT = 1024
FLOOR_DB = -60.0


def features(frames: np.ndarray, wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """What a clip looks and sounds like, coarsely.

    Args:
        frames: ``(T, 3, H, W)`` uint8.
        wave: ``(S,)``.
        sample_rate: Hz.

    Returns:
        ``(T * 3 * 64 + 2 T * 16,)`` float32: the picture's in [-1, 1], then the sound's in [0, 1].
    """
    fields = adaptive_avg_pool2d(torch.from_numpy(frames).float() / 255, FIELDS).numpy()  # (T, 3, 8, 8)
    colours = fields.swapaxes(0, 1)
    picture = np.stack([colours.mean(axis=0), *opponent(colours)])  # (3, T, 8, 8)
    columns = 2 * len(frames)
    starts = np.arange(columns) * len(wave) // columns
    padded = np.pad(wave, (0, N_FFT))
    pieces = padded[starts[:, None] + np.arange(N_FFT)] * np.hanning(N_FFT)
    spectrum = np.abs(np.fft.rfft(pieces)) * (4 / N_FFT)  # a full-scale sine is 1
    edges = np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS + 1) * N_FFT / sample_rate
    total = np.cumsum(np.square(spectrum), axis=1)
    bins = np.minimum(edges.round().astype(int), spectrum.shape[1] - 1)
    power = np.diff(total[:, bins], axis=1)
    level_db = (10 * np.log10(power + 1e-12)).clip(FLOOR_DB, 0)
    return np.concatenate([picture.ravel(), 1 - level_db.ravel() / FLOOR_DB]).astype(np.float32)


class Space:
    """The features with both halves in units of the distance of unrelated clips.

    Args:
        unrelated: ``(N, F)`` of true clips, at least 2.
        num_frames: T.
        device: where distances are computed.
    """

    def __init__(self, unrelated: np.ndarray, num_frames: int, device: torch.device) -> None:
        self.device = device
        split = num_frames * 3 * FIELDS**2
        scale = np.empty(unrelated.shape[1], np.float32)
        for half in (slice(0, split), slice(split, None)):
            # The mean squared distance of two is twice the variance.
            scale[half] = (2 * unrelated[:, half].var(axis=0, ddof=1).sum() * 2) ** -0.5
        self.scale = torch.from_numpy(scale).to(device)

    def place(self, rows: np.ndarray) -> Tensor:
        """Features ``(N, F)`` as points, on the device."""
        return torch.from_numpy(rows.astype(np.float32)).to(self.device) * self.scale


class Nearest:
    """For some points the nearest of many others, which come a few at a time.

    Attributes:
        distance: ``(N,)``.
        index: ``(N,)`` int64, of the nearest.
    """

    def __init__(self, space: Space, rows: np.ndarray) -> None:
        self.points = space.place(rows)
        self.distance = torch.full((len(rows),), torch.inf, device=space.device)
        self.index = torch.full((len(rows),), -1, device=space.device)

    def meet(self, indices: np.ndarray, others: Tensor) -> None:
        """Compare with points ``(M, F)`` of these indices."""
        nearest, place = torch.cdist(self.points, others).min(dim=1)
        nearer = nearest < self.distance
        self.distance = torch.where(nearer, nearest, self.distance)
        self.index = torch.where(nearer, torch.from_numpy(indices).to(place)[place], self.index)
