"""Mel images back to sound without a vocoder.

PAV-DiT 3.1, "Input Preprocessing": the sound comes back by the inverse mel transformation, with no neural
vocoder. The amplitudes are the pseudo-inverse of the filterbank; the phase that a spectrogram lacks is found
by Griffin & Lim 1984 with the momentum of Perraudin, Balazs & Søndergaard 2013, over the whole clip at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from pavdit.audio.mel import CACHED_TABLES, filterbank, hann_window
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig
from pavdit.ops import griffin_lim_step
from pavdit.ops._stft import (
    check_framing,
    inverse_spectrum,
    overlap_add,
    spectrum,
    window_square_sum,
    windowed_columns,
)

PHASE_SEED = 0
"""Seed of the initial phase where the caller brings no generator."""


@dataclass(frozen=True, slots=True)
class InverseTables:
    """What the inverse reads besides the images; a captured graph of it needs them alive.

    Attributes:
        window: ``(win_length,)``.
        filterbank_inverse: ``(n_fft / 2 + 1, M)``, its pseudo-inverse, computed in float64.
        square_sum: ``(S,)``, what an overlap-add of the whole clip is divided by.
        phase: ``(N, n_fft / 2 + 1)`` unit complex numbers, uniform on the circle, the same every time.
    """

    window: Tensor
    filterbank_inverse: Tensor
    square_sum: Tensor
    phase: Tensor


class Vocoder(Protocol):
    """What may stand in for `invert_mel` in the pipeline: a model that turns mel images into a wave."""

    def __call__(self, images: Tensor, clip: ClipSpec, mel: MelConfig) -> Tensor:
        """``(B, 1, T, M, L)`` in [-1, 1] to ``(B, S)`` float32."""


def stft(wave: Tensor, window: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Spectrum of a whole wave, framed as mel images are.

    Args:
        wave: ``(B, S)``, S a multiple of `hop_length`.
        window: ``(win_length,)``, dtype of `wave`.
        n_fft: samples of the FFT.
        hop_length: samples from one column to the next.

    Returns:
        ``(B, S / hop_length, n_fft / 2 + 1)`` complex, unscaled; a column's phase counts from the first
        sample of its window.

    Raises:
        ValueError: the framing is not defined for this wave.
    """
    check_framing("stft", wave.shape[-1], window.shape[0], n_fft, hop_length)
    return spectrum(windowed_columns(wave, window, n_fft, hop_length), n_fft)


def istft(columns: Tensor, window: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """The wave whose `stft` is nearest to `columns` in the least-squares sense (Griffin & Lim 1984, eq. 6).

    Inverse FFT, window, overlap-add, divided by the sum of the squared windows, trimmed. `torch.istft`
    refuses this framing, and its check waits for the device.

    Args:
        columns: ``(B, N, n_fft / 2 + 1)`` complex.
        window: ``(win_length,)``, at least two hops long.
        n_fft: samples of the FFT.
        hop_length: samples from one column to the next.

    Returns:
        ``(B, N * hop_length)``, real.

    Raises:
        ValueError: the windows do not overlap enough to be undone, or a shape does not fit.
    """
    num_samples = columns.shape[1] * hop_length
    check_framing("istft", num_samples, window.shape[0], n_fft, hop_length)
    _check_overlap("istft", window.shape[0], hop_length)
    pieces = inverse_spectrum(columns, n_fft, window.shape[0]) * window
    return overlap_add(pieces, n_fft, hop_length) / window_square_sum(
        window, columns.shape[1], n_fft, hop_length
    )


def invert_mel(
    images: Tensor,
    clip: ClipSpec,
    mel: MelConfig,
    *,
    num_iterations: int = 64,
    momentum: float = 0.99,
    generator: torch.Generator | None = None,
    tables: InverseTables | None = None,
) -> Tensor:
    """Turn mel images into sound (PAV-DiT 3.1, "Input Preprocessing"); never waits for the device.

    The tables are made at the first call for a configuration and a device; every call after it is the same
    sequence of kernels, which a CUDA graph can hold (with `generator` None or one of the device's own).

    A clip's sound does not depend on the others of its batch: they share one initial phase.

    Args:
        images: ``(B, 1, T, M, L)``; values outside [-1, 1] are clamped, as pixels are.
        clip: rates and sizes.
        mel: the spectrogram that the images hold.
        num_iterations: steps of Griffin-Lim.
        momentum: of Griffin-Lim, 0 is the plain algorithm.
        generator: draws the initial phase; None takes the same phase every time.
        tables: of `inverse_tables`, from a caller who keeps them alive beside a captured graph.

    Returns:
        ``(B, S)`` float32 (float64 for float64 images). Not clipped to [-1, 1].

    Raises:
        ValueError: `images` has another shape, or `mel` and `clip` give windows that do not overlap enough.
        TypeError: `images` has no floating-point dtype.
    """
    want = (1, clip.num_frames, mel.n_mels, clip.columns_per_frame)
    if images.ndim != 5 or images.shape[1:] != want:
        raise ValueError(
            f"invert_mel: want images (B,1,T,M,L) = (B,{','.join(map(str, want))}), got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise TypeError(f"invert_mel: want floating-point images, got {images.dtype}")
    if num_iterations < 0:
        raise ValueError(f"invert_mel: want num_iterations >= 0, got {num_iterations}")
    check_framing("invert_mel", clip.num_samples, mel.win_length, mel.n_fft, clip.hop_length)
    _check_overlap("invert_mel", mel.win_length, clip.hop_length)
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    tables = tables or inverse_tables(clip, mel, images.device, dtype)
    window, square_sum, phase = tables.window, tables.square_sum, tables.phase
    magnitude = linear_magnitude(images.to(dtype), clip, mel, tables)  # (B, N, K)
    if generator is not None:
        _, num_columns, num_bins = magnitude.shape
        phase = _draw_phase(num_columns, num_bins, dtype, generator).to(images.device)  # (N, K)
    columns = inverse_spectrum(magnitude * phase, mel.n_fft, mel.win_length) * window
    rebuilt = torch.zeros_like(magnitude, dtype=dtype.to_complex())
    for _ in range(num_iterations):
        columns, rebuilt = griffin_lim_step(
            columns, rebuilt, magnitude, window, square_sum, mel.n_fft, clip.hop_length, momentum
        )
    return overlap_add(columns, mel.n_fft, clip.hop_length) / square_sum


def linear_magnitude(
    images: Tensor, clip: ClipSpec, mel: MelConfig, tables: InverseTables | None = None
) -> Tensor:
    """Undo level and filterbank.

    Args:
        images: ``(B, 1, T, M, L)``, float32 or float64; clamped to [-1, 1].
        clip: rates and sizes.
        mel: the spectrogram that the images hold.
        tables: as for `invert_mel`.

    Returns:
        ``(B, T * L, n_fft / 2 + 1)``, unscaled STFT magnitudes, never negative.
    """
    level_db = (1.0 - images.clamp(-1.0, 1.0)) * (mel.floor_db / 2)
    # -1 stands for every level from the floor down, so for silence; taken as the floor, it hisses at -81 dBFS
    amplitude = torch.pow(10.0, level_db / 20) * (images > -1.0)
    amplitude = amplitude.squeeze(1).transpose(2, 3).flatten(1, 2)  # (B, N, M)
    tables = tables or inverse_tables(clip, mel, images.device, images.dtype)
    full_scale = tables.window.sum() / 2
    return (amplitude @ tables.filterbank_inverse.T).clamp(min=0) * full_scale


@lru_cache(maxsize=CACHED_TABLES)
def inverse_tables(clip: ClipSpec, mel: MelConfig, device: torch.device, dtype: torch.dtype) -> InverseTables:
    """The tables for clips of these sizes, made once for a configuration and a device."""
    num_columns = clip.num_frames * clip.columns_per_frame
    with torch.inference_mode(False), torch.no_grad():
        window = hann_window(mel.win_length, device, dtype)
        exact = filterbank(mel, clip.sample_rate, torch.device("cpu"), torch.float64)
        phase = _draw_phase(num_columns, mel.n_fft // 2 + 1, dtype, torch.Generator().manual_seed(PHASE_SEED))
        return InverseTables(
            window,
            torch.linalg.pinv(exact).to(device=device, dtype=dtype),
            window_square_sum(window, num_columns, mel.n_fft, clip.hop_length),
            phase.to(device),
        )


def _draw_phase(num_columns: int, num_bins: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    turns = torch.rand(num_columns, num_bins, generator=generator, device=generator.device)
    angle = turns.to(dtype) * (2 * math.pi)
    return torch.polar(torch.ones_like(angle), angle)


def _check_overlap(name: str, win_length: int, hop_length: int) -> None:
    """A Hann window is 0 at its start: with less than two windows over a sample, nothing could be divided."""
    if win_length < 2 * hop_length:
        raise ValueError(f"{name}: want win_length >= 2 * hop_length, got {win_length} < 2 * {hop_length}")
