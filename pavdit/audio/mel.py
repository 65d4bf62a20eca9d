"""Mel images: the log-mel spectrogram of a clip's sound, cut into one image per video frame.

PAV-DiT 3.1, "Input Preprocessing": the sound becomes a stack of images that is aligned with the frames. The
paper cuts the wave into chunks first; here one STFT runs over the clip and its columns are cut, because
chunks lose the sound at every border. An image stays M x L; the paper's H x W picture is its nearest repeat
(`display`).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pavdit.clip import ClipSpec
from pavdit.config import MelConfig
from pavdit.ops import log_mel_frames

SLANEY_HZ_PER_MEL = 200.0 / 3
"""The Slaney scale is linear up to 1 kHz (15 mel) …"""
SLANEY_BREAK_HZ = 1000.0
SLANEY_LOG_STEP = math.log(6.4) / 27
"""… and logarithmic above: 27 mel from 1 kHz to 6.4 kHz."""

CACHED_TABLES = 32
"""Windows and filterbanks that are kept; a process uses one or two configurations on one or two devices."""


def hz_to_mel(frequency_hz: Tensor) -> Tensor:
    """Slaney's mel scale."""
    linear = frequency_hz / SLANEY_HZ_PER_MEL
    above = frequency_hz.clamp(min=SLANEY_BREAK_HZ) / SLANEY_BREAK_HZ
    knee = SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL
    return torch.where(frequency_hz < SLANEY_BREAK_HZ, linear, knee + above.log() / SLANEY_LOG_STEP)


def mel_to_hz(mel: Tensor) -> Tensor:
    """Inverse of `hz_to_mel`."""
    knee = SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL
    above = SLANEY_BREAK_HZ * ((mel - knee).clamp(min=0) * SLANEY_LOG_STEP).exp()
    return torch.where(mel < knee, mel * SLANEY_HZ_PER_MEL, above)


def triangles(corners: Tensor, bins: Tensor) -> Tensor:
    """``(M, K)``: row m rises from 0 at corner m to 1 at corner m + 1 and falls to 0 at corner m + 2.

    Args:
        corners: ``(M + 2,)``, ascending.
        bins: ``(K,)``, where the triangles are read off.
    """
    low, centre, high = (corners[i : len(corners) - 2 + i, None] for i in range(3))
    return torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)


@lru_cache(maxsize=CACHED_TABLES)
def filterbank(
    mel: MelConfig, sample_rate: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Triangles, evenly spaced on the mel scale, whose rows sum to 1: each is a weighted mean of FFT bins.

    A weighted mean is never above its largest bin, so a full-scale sine never clips. Built in float64. The
    returned tensor is shared: do not write to it.

    Returns:
        ``(M, n_fft / 2 + 1)``.

    Raises:
        ValueError: `mel` reaches above half of `sample_rate`, or a filter is narrower than the FFT's bins.
    """
    if mel.f_max_hz > sample_rate / 2:
        raise ValueError(
            f"filterbank: want f_max_hz <= sample_rate / 2 = {sample_rate / 2:g}, got {mel.f_max_hz:g}"
        )
    with torch.inference_mode(False):  # a table made in inference mode could not serve training later
        limits = hz_to_mel(torch.tensor([mel.f_min_hz, mel.f_max_hz], dtype=torch.float64, device="cpu"))
        steps = torch.arange(mel.n_mels + 2, dtype=torch.float64, device="cpu") / (mel.n_mels + 1)
        corners_hz = mel_to_hz(limits[0] + (limits[1] - limits[0]) * steps)  # (M + 2,)
        bins_hz = torch.arange(mel.n_fft // 2 + 1, dtype=torch.float64, device="cpu") * (
            sample_rate / mel.n_fft
        )
        weights = triangles(corners_hz, bins_hz)  # (M, K)
        sums = weights.sum(dim=1, keepdim=True)
        if (sums == 0).any():
            raise ValueError(
                f"filterbank: want a bin in each of {mel.n_mels} filters, got {int((sums == 0).sum())} "
                f"empty ones at n_fft {mel.n_fft}, {sample_rate} Hz"
            )
        return (weights / sums).to(device=device, dtype=dtype)


@lru_cache(maxsize=CACHED_TABLES)
def hann_window(
    win_length: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Periodic Hann window ``(win_length,)``, built in float64; shared, do not write to it."""
    with torch.inference_mode(False):
        n = torch.arange(win_length, dtype=torch.float64, device="cpu")
        return (0.5 - 0.5 * torch.cos(n * (2 * math.pi / win_length))).to(device=device, dtype=dtype)


def mel_images(wave: Tensor, clip: ClipSpec, mel: MelConfig) -> Tensor:
    """Log-mel images of the sound of whole clips (PAV-DiT 3.1, "Input Preprocessing").

    Args:
        wave: ``(B, S)``, full scale 1; float32, bfloat16, float16 or float64.
        clip: rates and sizes; S is its `num_samples`.
        mel: the spectrogram.

    Returns:
        ``(B, 1, T, M, L)`` in [-1, 1], dtype of `wave`: -1 is `floor_db`, 1 is 0 dB, the level of a
        full-scale sine.

    Raises:
        ValueError: `wave` has another shape, or `mel` does not fit `clip`.
        TypeError: `wave` has no floating-point dtype.
    """
    if wave.ndim != 2 or wave.shape[1] != clip.num_samples:
        raise ValueError(f"mel_images: want wave (B,{clip.num_samples}), got {tuple(wave.shape)}")
    work = torch.float64 if wave.dtype == torch.float64 else torch.float32
    images = log_mel_frames(
        wave,
        hann_window(mel.win_length, wave.device, work),
        filterbank(mel, clip.sample_rate, wave.device, work),
        mel.n_fft,
        clip.hop_length,
        clip.columns_per_frame,
        mel.floor_db,
    )
    return images.unsqueeze(1)


def display(images: Tensor, height: int, width: int) -> Tensor:
    """Mel images as pictures, for people and picture networks: the nearest repeat, low frequencies below.

    Args:
        images: ``(B, 1, T, M, L)``.
        height: H of the pictures.
        width: W of the pictures.

    Returns:
        ``(B, 1, T, H, W)``.

    Raises:
        ValueError: `images` has another shape.
    """
    if images.ndim != 5 or images.shape[1] != 1:
        raise ValueError(f"display: want images (B,1,T,M,L), got {tuple(images.shape)}")
    pictures = F.interpolate(images.flip(3).squeeze(1), size=(height, width), mode="nearest-exact")
    return pictures.unsqueeze(1)
