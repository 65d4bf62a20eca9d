"""When sounds begin: hits, also over what still rings, and sounds that go on.

The power in several bands is held against what it was just before, on a fine grid of time. Where most bands
rise at once, something begins; when exactly is read off the envelope of the bands that rise, where its
amplitude is half way up, which the symmetric smear of a spectrogram's window does not move.
"""

from __future__ import annotations

import math

import numpy as np

GRID_HZ = 4000
"""Rate of the power in a band, at least."""
EDGES_HZ = (80, 250, 500, 900, 1500, 2300, 3300, 4500, 5800, 7200)
BEFORE_SECONDS, AFTER_SECONDS = 0.020, 0.008
FLOOR_DB = -38.0
"""Of a band under the loudest moment of the loudest one; what is softer counts as silence."""
MAX_RISE_DB = 20.0
"""More in one band tells no more."""
POWER = 1.5
"""Of the mean over the bands: a ring that begins under noise is heard in one or two of them."""
MIN_RISE_DB = 3.9
"""Mean over the bands from which on it is an onset; the steadiest noise of a ball that rolls stays below."""
MIN_SPACING_SECONDS = 0.08
SMOOTH_SECONDS = 0.003
MARGIN_SECONDS = 0.05
END_SECONDS = 0.015
"""What begins later than this before the end is cut off too early to tell."""


def sound_onsets(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Times at which sounds begin.

    Args:
        wave: ``(S,)``, mono.
        sample_rate: Hz.

    Returns:
        ``(N,)`` float64 seconds, ascending; none where the wave is silent.

    Raises:
        ValueError: the wave is not one-dimensional, or not finite.
    """
    wave = np.asarray(wave, np.float64)
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise ValueError(f"sound_onsets: want a finite wave (S,), got shape {wave.shape}")
    if not wave.any():
        return np.zeros(0)
    power, rate = _band_power(wave, sample_rate)  # (bands, time)
    before, after = round(BEFORE_SECONDS * rate), round(AFTER_SECONDS * rate)
    total = np.cumsum(np.pad(power, ((0, 0), (before + 1, after)), "edge"), axis=1)
    middle = total[:, before:-after]
    louder = (total[:, before + after :] - middle) / after
    softer = (middle - total[:, : -before - after]) / before
    floor = louder.max() * 10 ** (FLOOR_DB / 10)
    rise = (10 * np.log10((louder + floor) / (softer + floor))).clip(0, MAX_RISE_DB)  # (bands, time)
    left = (rise**POWER).mean(axis=0) ** (1 / POWER)
    left[-round(END_SECONDS * rate) :] = 0
    spacing = round(MIN_SPACING_SECONDS * rate)
    found = []
    while left[peak := int(left.argmax())] >= MIN_RISE_DB:
        found.append(_refine(power, rise[:, peak], peak, rate))
        left[max(0, peak - spacing) : peak + spacing] = 0
    return np.sort(np.array(found))


def _band_power(wave: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
    """Power in each band, ``(bands, time)`` at the returned rate, from the first sample on.

    The bins of a band, alone in a shorter inverse FFT, are its complex envelope at a lower rate.
    """
    margin = min(len(wave) - 1, round(MARGIN_SECONDS * sample_rate))
    wave = np.pad(wave, margin, "reflect", reflect_type="odd")  # the cut at either end is no event
    n = len(wave)
    spectrum = np.fft.rfft(wave)
    edges = [round(f * n / sample_rate) for f in EDGES_HZ if f <= 0.45 * sample_rate]
    length = math.ceil(GRID_HZ * n / sample_rate)
    bands = np.zeros((len(edges) - 1, length), complex)
    for band, low, high in zip(bands, edges, edges[1:], strict=False):
        # Half a cosine over a fifth of the band at either end: sharp ends would ring.
        inside = np.arange(low, high)
        ramp = np.clip(np.minimum(inside - low, high - inside) / (0.25 * (high - low)), 0, 1)
        band[: high - low] = spectrum[low:high] * (0.5 - 0.5 * np.cos(np.pi * ramp))
    rate = length * sample_rate / n
    power = np.abs(np.fft.ifft(bands, axis=1)) ** 2 * (length / n) ** 2
    first = round(margin * rate / sample_rate)
    return power[:, first : length - first], rate


def _refine(power: np.ndarray, rise: np.ndarray, peak: int, rate: float) -> float:
    """Seconds at which the amplitude of the bands that rise is half way up."""
    weight = np.where(rise > 0.5 * rise.max(), 1.0, 0.0)
    before, after = round(0.03 * rate), round(0.03 * rate)
    begin = max(0, peak - before)
    window = power[:, begin : peak + after]
    envelope = weight @ window
    smooth = max(1, round(SMOOTH_SECONDS * rate))
    envelope = np.convolve(envelope, np.ones(smooth) / smooth, "same")
    centre = peak - begin
    top = centre + int(envelope[centre : centre + round(0.025 * rate)].argmax())
    low = np.sqrt(envelope[: centre + 1].min())
    half = (low + 0.5 * (np.sqrt(envelope[top]) - low)) ** 2
    below = np.flatnonzero(envelope[: top + 1] < half)
    first = int(below[-1]) if len(below) else 0
    a, b = envelope[first : first + 2] if first + 1 < len(envelope) else (half, half)
    return (begin + first + ((half - a) / (b - a) if b > a else 0.0)) / rate
