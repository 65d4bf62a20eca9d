"""Sound at another rate, by the ideal filter but for a short transition.

A Kaiser-windowed sinc that passes all up to 91 % of the lower band, nothing from its end on, without delay:
the response of the resampler (soxr, "HQ") behind ``librosa.load``, so that what is measured here agrees with
what is measured there. The reader's own resampler is FFmpeg's (`pavdit.media.sound`).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

PASSED = 0.9137
"""Of the lower of the two bands; the transition lies between it and 1."""
REJECTION_DB = 132.0
"""soxr's response is nearest with this one: white noise differs by 0.3 % of its deviation at most."""


def resample(wave: Tensor, source_rate: int, sample_rate: int) -> Tensor:
    """Bring waves to another rate; sample 0 stays in place.

    Args:
        wave: ``(B, S)``, float32 or float64.
        source_rate: Hz.
        sample_rate: Hz.

    Returns:
        ``(B, ceil(S * sample_rate / source_rate))``, dtype of `wave`.

    Raises:
        ValueError: another shape, or a rate that is not positive.
    """
    if wave.ndim != 2 or min(source_rate, sample_rate) < 1:
        raise ValueError(
            f"resample: want wave (B,S) and rates above 0, got {tuple(wave.shape)}, {source_rate} and "
            f"{sample_rate} Hz"
        )
    if source_rate == sample_rate:
        return wave
    common = math.gcd(source_rate, sample_rate)
    down, up = source_rate // common, sample_rate // common
    kernels = _kernels(down, up).to(wave)  # (up, 1, K)
    reach = (kernels.shape[2] - down) // 2
    length = -(-wave.shape[1] * up // down)
    padded = F.pad(wave, (reach, reach + down))
    phases = F.conv1d(padded[:, None], kernels, stride=down)  # (B, up, ceil(S / down) or more)
    return phases.transpose(1, 2).flatten(1)[:, :length]


@lru_cache(maxsize=8)
def _kernels(down: int, up: int) -> Tensor:
    """``(up, 1, K)`` float64: the filter as it lies over the input for each of `up` outputs."""
    band = min(1.0, up / down)  # of the input's
    transition = (1 - PASSED) * band
    half = math.ceil((REJECTION_DB - 8) / (2.285 * math.pi * transition) / 2)  # Kaiser's formula
    beta = 0.1102 * (REJECTION_DB - 8.7)
    cutoff = band - transition / 2
    taps = torch.arange(-half, half + down, dtype=torch.float64)
    distance = taps - torch.arange(up, dtype=torch.float64)[:, None] * (down / up)  # (up, K), input samples
    window = torch.special.i0(beta * (1 - (distance / half).square()).clamp(min=0).sqrt())
    window = torch.where(distance.abs() <= half, window, 0.0) / float(torch.special.i0(torch.tensor(beta)))
    return (cutoff * torch.sinc(cutoff * distance) * window)[:, None]
