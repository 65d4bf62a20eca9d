"""One iteration of fast Griffin-Lim."""

from __future__ import annotations

import torch
from torch import Tensor

from pavdit.ops._checks import check_floating, check_number, check_tensor
from pavdit.ops._library import native
from pavdit.ops._raw import call, forbid_gradients, register_fake
from pavdit.ops._stft import check_framing, inverse_spectrum, overlap_add, spectrum, windowed_columns

torch.library.define(
    "pavdit::griffin_lim_step",
    "(Tensor columns, Tensor previous, Tensor magnitude, Tensor window, Tensor square_sum, int n_fft, "
    "int hop_length, float momentum) -> (Tensor, Tensor)",
)
forbid_gradients("griffin_lim_step")

_forward = torch.ops.pavdit.griffin_lim_step.default

NATIVE_N_FFT = {"cpu": (4, 1 << 15), "cuda": (128, 4096)}
"""Powers of two that the native kernels take, the smallest and the largest."""
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def griffin_lim_step(
    columns: Tensor,
    previous: Tensor,
    magnitude: Tensor,
    window: Tensor,
    square_sum: Tensor,
    n_fft: int,
    hop_length: int,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    r"""Bring the columns of a spectrogram one step closer to those of a real wave.

    ``wave = overlap_add(columns) / square_sum``, ``rebuilt = STFT(wave)``,
    ``ahead = rebuilt + momentum * (rebuilt - previous)``; the new columns are the inverse FFTs of
    ``magnitude * ahead / |ahead|``, multiplied by the window.    Source: Griffin & Lim 1984; the momentum:
    Perraudin, Balazs & Søndergaard 2013, "A fast Griffin-Lim algorithm".

    The state between two steps is in time, so that a column needs its neighbours' samples, not their spectra.
    A column's phase counts from the first sample of its window. The native kernels have no gradient:
    where one is needed, the reference serves.

    Args:
        columns: ``(B, N, win_length)``, inverse FFTs of the current spectrum, multiplied by the window;
            float32 or float64.
        previous: ``(B, N, n_fft / 2 + 1)`` complex, `rebuilt` of the step before, zeros for the first one.
        magnitude: ``(B, N, n_fft / 2 + 1)``, the wanted unscaled magnitude, dtype of `columns`.
        window: ``(win_length,)``, dtype of `columns`.
        square_sum: ``(S,)``, sum of the squared windows at each sample, nowhere 0; ``S = N * hop_length``.
        n_fft: samples of the FFT.
        hop_length: samples from one column to the next.
        momentum: 0 is plain Griffin-Lim.

    Returns:
        ``columns`` and ``rebuilt`` for the next step, in the shapes and dtypes of `columns` and `previous`.

    Raises:
        ValueError: a shape, a device or a number does not fit.
        TypeError: a dtype is none of the above.
    """
    real = {"columns": columns, "magnitude": magnitude, "window": window, "square_sum": square_sum}
    check_floating("griffin_lim_step", **real)
    check_tensor("griffin_lim_step", "previous", previous)
    check_number("griffin_lim_step", "hop_length", hop_length, int)
    check_number("griffin_lim_step", "momentum", momentum)
    if columns.dtype not in COMPLEX:
        raise TypeError(f"griffin_lim_step: want columns float32 or float64, got {columns.dtype}")
    if previous.dtype != COMPLEX[columns.dtype] or previous.device != columns.device:
        raise TypeError(
            f"griffin_lim_step: want previous {COMPLEX[columns.dtype]} on {columns.device}, got "
            f"{previous.dtype} on {previous.device}"
        )
    if columns.ndim != 3 or window.shape != columns.shape[2:]:
        raise ValueError(
            "griffin_lim_step: want columns (B,N,win_length), window (win_length,), got "
            f"{tuple(columns.shape)}, {tuple(window.shape)}"
        )
    batch, num_columns, win_length = columns.shape
    num_samples = num_columns * hop_length
    check_framing("griffin_lim_step", num_samples, win_length, n_fft, hop_length)
    bins = (batch, num_columns, n_fft // 2 + 1)
    if previous.shape != bins or magnitude.shape != bins or square_sum.shape != (num_samples,):
        raise ValueError(
            f"griffin_lim_step: want previous and magnitude {bins}, square_sum ({num_samples},), got "
            f"{tuple(previous.shape)}, {tuple(magnitude.shape)}, {tuple(square_sum.shape)}"
        )
    if not momentum >= 0:
        raise ValueError(f"griffin_lim_step: want momentum >= 0, got {momentum}")
    tensors = (columns, previous, magnitude, window, square_sum)
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if not needs_gradient and _served(columns, n_fft):
        return call(_forward, *tensors, n_fft, hop_length, momentum)
    return griffin_lim_step_reference(*tensors, n_fft, hop_length, momentum)


def _served(columns: Tensor, n_fft: int) -> bool:
    """Whether the native kernel takes this call."""
    if not native("griffin_lim_step", columns):
        return False
    smallest, largest = NATIVE_N_FFT[columns.device.type]
    return smallest <= n_fft <= largest and n_fft & (n_fft - 1) == 0


def griffin_lim_step_reference(
    columns: Tensor,
    previous: Tensor,
    magnitude: Tensor,
    window: Tensor,
    square_sum: Tensor,
    n_fft: int,
    hop_length: int,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    """The op in plain PyTorch."""
    wave = overlap_add(columns, n_fft, hop_length) / square_sum  # (B, S)
    rebuilt = spectrum(windowed_columns(wave, window, n_fft, hop_length), n_fft)  # (B, N, K)
    # rebuilt + momentum * (rebuilt - previous), divided by 1 + momentum: a phase does not see the factor
    ahead = torch.sub(rebuilt, previous, alpha=momentum / (1.0 + momentum))
    projected = magnitude * torch.sgn(ahead)  # sgn(z) = z / |z|, 0 at 0
    return inverse_spectrum(projected, n_fft, window.shape[0]) * window, rebuilt


torch.library.impl("pavdit::griffin_lim_step", "CompositeExplicitAutograd", griffin_lim_step_reference)


@register_fake("pavdit::griffin_lim_step")
def _(
    columns: Tensor,
    previous: Tensor,
    magnitude: Tensor,
    window: Tensor,
    square_sum: Tensor,
    n_fft: int,
    hop_length: int,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    return columns.new_empty(columns.shape), previous.new_empty(previous.shape)
