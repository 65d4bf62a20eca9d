"""The framing that the sound ops share: which samples a column of the spectrogram sees.

Column ``n`` (of ``N = S / hop_length``) is centred on sample ``(n + 1/2) * hop_length``: the wave is
reflected by ``(n_fft - hop_length) / 2`` on both ends and the window stands in the middle of the FFT. Samples
outside the window are multiplied by zero, so only the `win_length` samples under it are cut out and the FFT
pads them at its end. That changes a column by a linear phase, which neither a magnitude nor a round trip nor
a phase projection can see.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pavdit.ops._checks import check_number


def check_framing(op: str, num_samples: int, win_length: int, n_fft: int, hop_length: int) -> None:
    """Raise a ValueError, named after `op`, where the framing is not defined for a wave of `num_samples`.

    Raises a TypeError where `n_fft` or `hop_length` is no int.
    """
    check_number(op, "n_fft", n_fft, int)
    check_number(op, "hop_length", hop_length, int)
    if not 0 < hop_length <= win_length <= n_fft:
        raise ValueError(
            f"{op}: want 0 < hop_length <= win_length <= n_fft, got {hop_length}, {win_length}, {n_fft}"
        )
    if (n_fft - hop_length) % 2:
        raise ValueError(f"{op}: want n_fft - hop_length even, got {n_fft} - {hop_length}")
    if num_samples % hop_length:
        raise ValueError(f"{op}: want samples in multiples of hop_length = {hop_length}, got {num_samples}")
    padding = (n_fft - hop_length) // 2
    if num_samples <= padding:
        raise ValueError(
            f"{op}: want more samples than the reflect padding (n_fft - hop_length) / 2 = {padding}, "
            f"got {num_samples}"
        )


def window_margin(win_length: int, n_fft: int, hop_length: int) -> tuple[int, int]:
    """How far the first window reaches before the wave and the last one behind it, in samples."""
    left = (n_fft - hop_length) // 2 - (n_fft - win_length) // 2
    return left, win_length - hop_length - left


def windowed_columns(wave: Tensor, window: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """``(B, S)`` to the windowed pieces of the reflected wave, ``(B, N, win_length)``."""
    win_length = window.shape[0]
    margin = window_margin(win_length, n_fft, hop_length)
    padded = F.pad(wave.unsqueeze(1), margin, mode="reflect").squeeze(1)
    return padded.unfold(-1, win_length, hop_length) * window


def windowed_columns_backward(columns: Tensor, num_samples: int, n_fft: int, hop_length: int) -> Tensor:
    """The gradient of the wave: columns that carry their window already, added up and folded back."""
    left, right = window_margin(columns.shape[2], n_fft, hop_length)
    padded = F.pad(_added(columns, hop_length), (0, right))[:, : left + num_samples + right]
    wave = padded[:, left : left + num_samples].clone()
    wave[:, 1 : left + 1] += padded[:, :left].flip(1)
    wave[:, num_samples - 1 - right : num_samples - 1] += padded[:, left + num_samples :].flip(1)
    return wave


def overlap_add(columns: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Add windowed columns ``(B, N, win_length)`` where they belong and cut the margins: ``(B, S)``."""
    num_columns, win_length = columns.shape[1:]
    left, _ = window_margin(win_length, n_fft, hop_length)
    return _added(columns, hop_length)[:, left : left + num_columns * hop_length]


def _added(columns: Tensor, hop_length: int) -> Tensor:
    """The overlap-add with its margins, filled up with zeros to whole hops."""
    batch, num_columns, win_length = columns.shape
    hops = -(-win_length // hop_length)  # that a window reaches into
    padded = columns.new_zeros(batch, num_columns + hops, hop_length)
    for hop in range(hops):
        piece = columns[..., hop * hop_length : (hop + 1) * hop_length]
        padded[:, hop : hop + num_columns, : piece.shape[2]] += piece
    return padded.flatten(1)


def window_square_sum(window: Tensor, num_columns: int, n_fft: int, hop_length: int) -> Tensor:
    """Sum of the squared windows over each sample, ``(S,)``: what an overlap-add is divided by."""
    squares = (window * window).expand(1, num_columns, -1)
    return overlap_add(squares, n_fft, hop_length)[0]


def spectrum(columns: Tensor, n_fft: int) -> Tensor:
    """Windowed columns ``(B, N, win_length)`` to ``(B, N, n_fft / 2 + 1)`` complex, unscaled."""
    if columns.numel() == 0:  # MKL refuses an empty batch
        empty = F.pad(columns, (0, n_fft // 2 + 1 - columns.shape[2]))
        return torch.complex(empty, empty)
    return torch.fft.rfft(columns, n=n_fft)


def inverse_spectrum(bins: Tensor, n_fft: int, win_length: int) -> Tensor:
    """``(B, N, n_fft / 2 + 1)`` to the samples that stand under the window, ``(B, N, win_length)``."""
    if bins.numel() == 0:
        return F.pad(bins.real, (0, win_length - bins.shape[2]))
    return torch.fft.irfft(bins, n=n_fft)[..., :win_length]
