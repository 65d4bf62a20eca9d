"""Onsets of a sound as librosa 0.11 finds them with its defaults, for measures that are defined by it.

pavdit's own detector (`pavdit.metrics.onsets`) is finer: here a step is 23 ms.
"""

from __future__ import annotations

import numpy as np
import torch

from pavdit.audio.mel_forms import librosa_form, mel_spectrogram, power_db
from pavdit.audio.resample import resample

FORM = librosa_form(22050)
CENTRING = FORM.n_fft // (2 * FORM.hop_length)
"""Columns by which an onset's rise comes before its column is centred on it."""
BEFORE, AFTER = 4, 5
"""Columns of the mean that a peak stands above: 100 ms to either side, its own among the later ones."""
DELTA = 0.07
"""How much above, of the highest."""
WAIT = 1
"""Columns after a peak in which there is no other."""


def onset_strength(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean rise of the mel bands from column to column.

    Args:
        wave: ``(S,)``, mono.
        sample_rate: Hz; the sound is brought to 22,050.

    Returns:
        ``(L,)`` float64, decibels, one every 512 samples.

    Raises:
        ValueError: the wave is not one-dimensional, empty, or not finite.
    """
    wave = np.asarray(wave, np.float64)
    if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
        raise ValueError(f"onset_strength: want a finite wave (S,), got shape {wave.shape}")
    sound = resample(torch.from_numpy(wave)[None], sample_rate, FORM.sample_rate)
    levels = power_db(mel_spectrogram(sound, FORM))[0]  # (M, L)
    rise = levels.diff(dim=1).clamp(min=0).mean(dim=0).numpy()
    return np.concatenate([np.zeros(1 + CENTRING), rise])[: levels.shape[1]]


def pick_onsets(strength: np.ndarray) -> np.ndarray:
    """Columns of peaks: not below the one before, and `DELTA` above the mean around, ``(N,)`` ascending."""
    x = strength - strength.min()
    if not x.any():
        return np.zeros(0, np.int64)
    x = x / x.max()
    peaks: list[int] = []
    for n in range(len(x)):
        waited = not peaks or n > peaks[-1] + WAIT
        highest = x[n] >= x[max(0, n - 1) : n + 1].max()
        if waited and highest and x[n] >= x[max(0, n - BEFORE) : n + AFTER].mean() + DELTA:
            peaks.append(n)
    return np.array(peaks, np.int64)


def onset_times(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Seconds at which sounds begin, ``(N,)`` ascending; none in silence. Arguments: see `onset_strength`."""
    return pick_onsets(onset_strength(wave, sample_rate)) * FORM.hop_length / FORM.sample_rate
