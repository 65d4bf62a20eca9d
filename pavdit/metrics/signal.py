"""Measures that need no network: how near a picture or a sound is to its original.

Each takes a batch and gives one float64 number per clip, so that a report can say mean and spread. They never
replace an undefined value: a silent original has no peak and no envelope shape, and gives nan.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from pavdit.audio.mel import hann_window

LSD_N_FFT = 1024
LSD_HOP_LENGTH = 256
LSD_RANGE_DB = 60.0
"""Levels further below the original's loudest bin count as silence."""
ENVELOPE_STEPS_PER_SECOND = 100


def psnr(a: Tensor, b: Tensor, peak: float) -> Tensor:
    """Peak signal-to-noise ratio, ``20 log10 peak - 10 log10 mse``, in dB.

    Video and mel images are measured on [0, 1]; tensors in [-1, 1] give the same number with ``peak=2``.

    Args:
        a: ``(B, ...)``.
        b: shape of `a`.
        peak: width of the value range: 1, 2 or 255.

    Returns:
        ``(B,)``; equal tensors give inf.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"psnr: want two tensors (B,...) of one shape, got {tuple(a.shape)}, {tuple(b.shape)}"
        )
    error = (a.double() - b.double()) / peak
    return -10.0 * error.square().flatten(1).mean(dim=1).log10()


def log_spectral_distance_db(output: Tensor, original: Tensor) -> Tensor:
    """Log-spectral distance: RMS over frequency of the difference in level, mean over time, in dB.

    STFT with `LSD_N_FFT`, `LSD_HOP_LENGTH`, Hann; levels more than 60 dB below the loudest bin of
    the original are raised to that floor, in both waves.

    Args:
        output: ``(B, S)``, at least `LSD_N_FFT` samples.
        original: shape of `output`.

    Returns:
        ``(B,)``; a silent original gives nan.

    Raises:
        ValueError: a shape does not fit.
    """
    _check_waves("log_spectral_distance_db", output, original, LSD_N_FFT)
    window = hann_window(LSD_N_FFT, output.device, torch.float64)

    def level_db(wave: Tensor) -> Tensor:
        columns = wave.double().unfold(-1, LSD_N_FFT, LSD_HOP_LENGTH) * window
        return 20.0 * torch.fft.rfft(columns).abs().log10()  # (B, columns, bins)

    theirs, ours = level_db(original), level_db(output)
    floor = theirs.amax(dim=(1, 2), keepdim=True) - LSD_RANGE_DB
    difference = torch.maximum(ours, floor) - torch.maximum(theirs, floor)
    distance = difference.square().mean(dim=2).sqrt().mean(dim=1)
    return torch.where(floor.flatten().isfinite(), distance, torch.nan)


def envelope_correlation(output: Tensor, original: Tensor, sample_rate: int) -> Tensor:
    """Pearson correlation of the two 10 ms RMS envelopes: does the sound happen at the same times?

    A step lasts ``sample_rate / 100`` samples, its ends rounded; an incomplete last step is left out.

    Args:
        output: ``(B, S)``, at least two steps long.
        original: shape of `output`.
        sample_rate: Hz.

    Returns:
        ``(B,)`` in [-1, 1]; a constant envelope gives nan.

    Raises:
        ValueError: a shape does not fit.
    """
    step = sample_rate / ENVELOPE_STEPS_PER_SECOND
    _check_waves("envelope_correlation", output, original, round(2 * step))
    borders = [round(i * step) for i in range(int(output.shape[1] / step) + 1)]

    def envelope(wave: Tensor) -> Tensor:
        power = wave.double().square()
        pieces = [power[:, a:b].mean(dim=1) for a, b in pairwise(borders)]
        return torch.stack(pieces, dim=1).sqrt()  # (B, steps)

    ours, theirs = envelope(output), envelope(original)
    ours, theirs = ours - ours.mean(dim=1, keepdim=True), theirs - theirs.mean(dim=1, keepdim=True)
    return (ours * theirs).sum(dim=1) / (ours.square().sum(dim=1) * theirs.square().sum(dim=1)).sqrt()


def border_jump(output: Tensor, original: Tensor, samples_per_frame: int) -> Tensor:
    """How much rougher a wave is at the borders of video frames than its original is there.

    Roughness: mean step between neighbouring samples across frame borders, over the mean step anywhere.

    Args:
        output: ``(B, S)``, at least two frames long.
        original: shape of `output`.
        samples_per_frame: wave samples that a video frame owns.

    Returns:
        ``(B,)``, 1 where the output is as smooth as the original; a constant original gives nan.

    Raises:
        ValueError: a shape does not fit.
    """
    _check_waves("border_jump", output, original, samples_per_frame + 1)

    def roughness(wave: Tensor) -> Tensor:
        steps = wave.double().diff(dim=1).abs()
        return steps[:, samples_per_frame - 1 :: samples_per_frame].mean(dim=1) / steps.mean(dim=1)

    return roughness(output) / roughness(original)


def _check_waves(name: str, output: Tensor, original: Tensor, least: int) -> None:
    if output.shape != original.shape or output.ndim != 2 or output.shape[1] < least:
        raise ValueError(
            f"{name}: want two waves (B,S) of one shape, S >= {least}, got {tuple(output.shape)}, "
            f"{tuple(original.shape)}"
        )
