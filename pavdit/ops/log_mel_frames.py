"""Log-mel images of a wave, one per video frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pavdit.ops._checks import check_floating, check_number
from pavdit.ops._library import forbid_gradients, register_fake
from pavdit.ops._stft import check_framing, spectrum, windowed_columns

torch.library.define(
    "pavdit::log_mel_frames",
    "(Tensor wave, Tensor window, Tensor filterbank, SymInt n_fft, SymInt hop_length, "
    "SymInt columns_per_frame, float floor_db) -> Tensor",
)
forbid_gradients("log_mel_frames")


def log_mel_frames(
    wave: Tensor,
    window: Tensor,
    filterbank: Tensor,
    n_fft: int,
    hop_length: int,
    columns_per_frame: int,
    floor_db: float,
) -> Tensor:
    r"""Cut a wave's log-mel spectrogram into the images that video frames own.

    ``level[m, n] = 20 log10 sum_k filterbank[m, k] |STFT[k, n]| / (sum(window) / 2)``, so that a full-scale
    sine is 0 dB, clamped to ``[floor_db, 0]`` and mapped to ``[-1, 1]``. One STFT runs over the whole wave,
    reflected by ``(n_fft - hop_length) / 2`` on both ends; column ``n`` is centred on sample ``(n + 1/2) *
    hop_length`` and belongs to frame ``n // columns_per_frame``.    Source: PAV-DiT 3.1, "Input
    Preprocessing".

    The gradient is exactly 0 where the level is clamped, at either end, and at magnitude 0.

    Args:
        wave: ``(B, S)``, S a multiple of ``hop_length * columns_per_frame``; float32, bfloat16, float16,
            float64.
        window: ``(win_length,)``, stands in the middle of the FFT; float32 (float64 beside a float64 wave).
        filterbank: ``(M, n_fft / 2 + 1)``, dtype and device of `window`.
        n_fft: samples of the FFT.
        hop_length: samples from one column to the next.
        columns_per_frame: L.
        floor_db: level that becomes -1, negative.

    Returns:
        ``(B, T, M, L)`` in [-1, 1], dtype of `wave`; computed in the dtype of `window`.

    Raises:
        ValueError: a shape or a number does not fit, or the wave is not longer than the reflect padding.
        TypeError: a dtype is none of the above.
    """
    check_floating("log_mel_frames", wave=wave)
    work = torch.float64 if wave.dtype == torch.float64 else torch.float32
    check_floating("log_mel_frames", window=window, filterbank=filterbank)
    if window.dtype != work:
        raise TypeError(
            f"log_mel_frames: want window, filterbank {work} beside a {wave.dtype} wave, got {window.dtype}"
        )
    if wave.device != window.device:
        raise ValueError(f"log_mel_frames: want window on {wave.device} as wave, got {window.device}")
    if wave.ndim != 2 or window.ndim != 1 or filterbank.ndim != 2:
        raise ValueError(
            "log_mel_frames: want wave (B,S), window (win_length,), filterbank (M,n_fft/2+1), got "
            f"{tuple(wave.shape)}, {tuple(window.shape)}, {tuple(filterbank.shape)}"
        )
    check_framing("log_mel_frames", wave.shape[1], window.shape[0], n_fft, hop_length)
    check_number("log_mel_frames", "columns_per_frame", columns_per_frame, int)
    check_number("log_mel_frames", "floor_db", floor_db)
    if filterbank.shape[1] != n_fft // 2 + 1:
        raise ValueError(
            f"log_mel_frames: want filterbank (M,{n_fft // 2 + 1}) for n_fft = {n_fft}, "
            f"got {tuple(filterbank.shape)}"
        )
    if columns_per_frame < 1 or wave.shape[1] % (hop_length * columns_per_frame):
        raise ValueError(
            f"log_mel_frames: want samples in multiples of hop_length * columns_per_frame = {hop_length} * "
            f"{columns_per_frame}, got {wave.shape[1]}"
        )
    if not floor_db < 0:
        raise ValueError(f"log_mel_frames: want floor_db < 0, got {floor_db}")
    return log_mel_frames_reference(wave, window, filterbank, n_fft, hop_length, columns_per_frame, floor_db)


def log_mel_frames_reference(
    wave: Tensor,
    window: Tensor,
    filterbank: Tensor,
    n_fft: int,
    hop_length: int,
    columns_per_frame: int,
    floor_db: float,
) -> Tensor:
    """The op in plain PyTorch."""
    columns = windowed_columns(wave.to(window.dtype), window, n_fft, hop_length)  # (B, N, win_length)
    magnitude = spectrum(columns, n_fft).abs() / (window.sum() / 2)  # (B, N, K); |0| has gradient 0
    mel = (magnitude @ filterbank.T).unflatten(1, (-1, columns_per_frame)).transpose(2, 3)  # (B, T, M, L)
    # not clamp(), whose gradient is 1 on the bound itself; and so a NaN goes through to the output
    floor = math.pow(10.0, floor_db / 20)
    mel = torch.where(mel <= floor, floor, mel)
    mel = torch.where(mel >= 1.0, 1.0, mel)
    level_db = 20.0 * mel.log10()
    images = (1.0 - level_db * (2.0 / floor_db)).clamp(-1.0, 1.0)  # the floor's logarithm is rounded
    return images.to(wave.dtype).contiguous()


torch.library.impl("pavdit::log_mel_frames", "CompositeExplicitAutograd", log_mel_frames_reference)


@register_fake("pavdit::log_mel_frames")
def _(
    wave: Tensor,
    window: Tensor,
    filterbank: Tensor,
    n_fft: int,
    hop_length: int,
    columns_per_frame: int,
    floor_db: float,
) -> Tensor:
    num_frames = wave.shape[1] // (hop_length * columns_per_frame)
    return wave.new_empty((wave.shape[0], num_frames, filterbank.shape[0], columns_per_frame))
