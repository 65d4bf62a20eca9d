"""How high a sound is: its strongest partial, apart from what rang before it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

WINDOW_SECONDS = 0.096
STEP_SECONDS = 0.016
SKIPPED_SECONDS = 0.004
"""After an onset, of its click, which has no pitch."""
LONGEST_SECONDS = 0.5
LOWEST_HZ, HIGHEST_HZ = 110.0, 3200.0
SMOOTH_SHARE = 0.15
"""Of a frequency: the partials of what rolls or slides are bands of noise as wide."""
N_FFT_SECONDS = 0.256


def strongest_partials(wave: np.ndarray, sample_rate: int, onsets: np.ndarray) -> np.ndarray:
    """Frequency at which most power is new after each onset.

    The power spectrum from an onset to the next one (or for `LONGEST_SECONDS`), mean of short windows, less
    that of the window before it; on a logarithmic axis and smoothed, so that a damped sine is one peak, and
    so is a band of noise.

    Args:
        wave: ``(S,)``, mono.
        sample_rate: Hz.
        onsets: ``(N,)`` seconds, ascending.

    Returns:
        ``(N, 2)`` float64: Hz, and how much power (of any unit) is new there.
    """
    window = round(WINDOW_SECONDS * sample_rate)
    margin = window
    padded = np.pad(np.asarray(wave, np.float64), (margin, 2 * margin))
    n_fft = round(N_FFT_SECONDS * sample_rate)
    taper = np.hanning(window + 2)[1:-1]
    octaves = np.log2(HIGHEST_HZ / LOWEST_HZ)
    axis = LOWEST_HZ * 2 ** np.linspace(0, octaves, round(96 * octaves))

    def power(starts: np.ndarray) -> np.ndarray:
        pieces = padded[margin + starts[:, None] + np.arange(window)] * taper
        spectrum = np.square(np.abs(np.fft.rfft(pieces, n_fft))).mean(axis=0)
        return np.interp(axis, np.arange(len(spectrum)) * sample_rate / n_fft, spectrum)

    width = round(SMOOTH_SHARE * 96 / np.log(2)) | 1
    kernel = np.hanning(width + 2)[1:-1]
    found = []
    for begin, end in pairwise([*onsets, len(wave) / sample_rate]):
        first = round((begin + SKIPPED_SECONDS) * sample_rate)
        last = max(first, round(min(end, begin + LONGEST_SECONDS) * sample_rate) - window)
        after = power(np.arange(first, last + 1, round(STEP_SECONDS * sample_rate)))
        before = power(np.array([max(-margin, round(begin * sample_rate) - window)]))
        new = np.convolve((after - before).clip(0), kernel / kernel.sum(), "same")
        found.append((axis[new.argmax()], new.max()))
    return np.array(found).reshape(-1, 2)
