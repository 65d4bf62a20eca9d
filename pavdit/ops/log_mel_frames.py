"""Log-mel images of a wave, one per video frame."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pavdit.ops._checks import check_floating, check_number
from pavdit.ops._library import native
from pavdit.ops._raw import call, forbid_gradients, register_fake
from pavdit.ops._stft import (
    check_framing,
    inverse_spectrum,
    spectrum,
    windowed_columns,
    windowed_columns_backward,
)

torch.library.define(
    "pavdit::log_mel_frames",
    "(Tensor wave, Tensor window, Tensor filterbank, int n_fft, int hop_length, "
    "int columns_per_frame, float floor_db) -> Tensor",
)
torch.library.define(
    "pavdit::log_mel_frames_backward",
    "(Tensor grad, Tensor wave, Tensor window, Tensor filterbank, int n_fft, int hop_length, "
    "int columns_per_frame, float floor_db) -> Tensor",
)
forbid_gradients("log_mel_frames")
forbid_gradients("log_mel_frames_backward")

_forward = torch.ops.pavdit.log_mel_frames.default
_backward = torch.ops.pavdit.log_mel_frames_backward.default

NATIVE_N_FFT = {"cpu": (4, 1 << 15), "cuda": (128, 4096)}
"""Powers of two that the native kernels take, the smallest and the largest."""
LOWEST_FLOOR_DB = -300.0
"""Below, the native kernels' squares of magnitudes leave the range of float32."""


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
    numbers = (n_fft, hop_length, columns_per_frame, floor_db)
    if not _served(wave, window, filterbank, n_fft, floor_db):
        return log_mel_frames_reference(wave, window, filterbank, *numbers)
    if torch.is_grad_enabled():
        return _LogMelFrames.apply(wave, window, filterbank, *numbers)
    return call(_forward, wave, window, filterbank, *numbers)


def _served(wave: Tensor, window: Tensor, filterbank: Tensor, n_fft: int, floor_db: float) -> bool:
    """Whether the native kernel takes this call. It has no gradient for `window` and `filterbank`."""
    if not native("log_mel_frames", wave) or window.requires_grad or filterbank.requires_grad:
        return False
    smallest, largest = NATIVE_N_FFT[wave.device.type]
    return smallest <= n_fft <= largest and n_fft & (n_fft - 1) == 0 and floor_db >= LOWEST_FLOOR_DB


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


def _backward_raw(
    grad: Tensor,
    wave: Tensor,
    window: Tensor,
    filterbank: Tensor,
    n_fft: int,
    hop_length: int,
    columns_per_frame: int,
    floor_db: float,
) -> Tensor:
    """The gradient of `wave`, written out because autograd does not record inside an op."""
    columns = windowed_columns(wave.to(window.dtype), window, n_fft, hop_length)  # (B, N, win_length)
    bins = spectrum(columns, n_fft)  # (B, N, K)
    gain = 2 / window.sum()
    mel = (bins.abs() * gain) @ filterbank.T  # (B, N, M)
    seen = (mel > math.pow(10.0, floor_db / 20)) & (mel < 1.0)
    slope = (-2.0 / floor_db) * (20.0 / math.log(10.0))
    by_column = grad.to(window.dtype).transpose(2, 3).flatten(1, 2)  # (B, N, M)
    dmel = torch.where(seen, by_column * slope / mel, 0.0)
    dbins = torch.sgn(bins) * ((dmel @ filterbank) * gain)  # sgn(0) = 0
    # irfft counts every bin but the first and the last twice and divides by n_fft
    dbins[..., 1 : n_fft - n_fft // 2] *= 0.5
    dcolumns = inverse_spectrum(dbins, n_fft, window.shape[0]) * (window * n_fft)
    return windowed_columns_backward(dcolumns, wave.shape[1], n_fft, hop_length).to(wave.dtype)


torch.library.impl("pavdit::log_mel_frames", "CompositeExplicitAutograd", log_mel_frames_reference)
torch.library.impl("pavdit::log_mel_frames_backward", "CompositeExplicitAutograd", _backward_raw)


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


@register_fake("pavdit::log_mel_frames_backward")
def _(
    grad: Tensor,
    wave: Tensor,
    window: Tensor,
    filterbank: Tensor,
    n_fft: int,
    hop_length: int,
    columns_per_frame: int,
    floor_db: float,
) -> Tensor:
    return wave.new_empty(wave.shape)


class _LogMelFrames(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        wave: Tensor,
        window: Tensor,
        filterbank: Tensor,
        n_fft: int,
        hop_length: int,
        columns_per_frame: int,
        floor_db: float,
    ) -> Tensor:
        ctx.save_for_backward(wave, window, filterbank)
        ctx.numbers = (n_fft, hop_length, columns_per_frame, floor_db)
        return call(_forward, wave, window, filterbank, *ctx.numbers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dwave = call(_backward, grad, *ctx.saved_tensors, *ctx.numbers)
        return dwave, None, None, None, None, None, None
