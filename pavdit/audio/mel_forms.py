"""Mel spectrograms as other code makes them, for networks and measures that expect exactly theirs.

pavdit's own mel images are `pavdit.audio.mel`. The peers differ in scale, in the shape of the triangles, in
how the ends are padded and in what is taken of a bin; a `MelForm` says all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pavdit.audio.mel import hann_window, hz_to_mel, mel_to_hz, triangles

HTK_MELS, HTK_HZ = 2595.0, 700.0
"""HTK's scale: ``2595 log10(1 + f / 700)``."""


@dataclass(frozen=True, slots=True)
class MelForm:
    """How a spectrogram is made.

    Attributes:
        sample_rate: Hz.
        n_fft: length of the FFT.
        win_length: of a periodic Hann window, centred in the FFT.
        hop_length: samples between columns.
        n_mels: M.
        f_min_hz: where the first triangle begins.
        f_max_hz: where the last one ends.
        scale: of the mel.
        straight_in: the unit in which the triangles' sides are straight. ``mel`` is TensorFlow's.
        equal_areas: each triangle over half its width in Hz, which librosa calls norm "slaney"; without it
            they peak at 1.
        power: of the magnitude: 1 or 2.
        padding: at both ends; None: only whole windows count, the first begins at the first sample.
        pad_length: how much; None is half an FFT, which puts column k's middle on sample ``k * hop_length``.
        floor: added to a squared magnitude.
    """

    sample_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    f_min_hz: float
    f_max_hz: float
    scale: Literal["slaney", "htk"]
    straight_in: Literal["hz", "mel"] = "hz"
    equal_areas: bool = False
    power: Literal[1, 2] = 2
    padding: Literal["reflect", "constant"] | None = None
    pad_length: int | None = None
    floor: float = 0.0


def librosa_form(sample_rate: int, n_fft: int = 2048, hop_length: int = 512, n_mels: int = 128) -> MelForm:
    """``librosa.feature.melspectrogram`` of librosa 0.10 and later, with its defaults."""
    return MelForm(
        sample_rate, n_fft, n_fft, hop_length, n_mels, 0, sample_rate / 2, "slaney",
        equal_areas=True, padding="constant",
    )  # fmt: skip


def torchaudio_form(sample_rate: int, n_fft: int = 400, hop_length: int = 200, n_mels: int = 128) -> MelForm:
    """``torchaudio.transforms.MelSpectrogram`` with its defaults."""
    return MelForm(
        sample_rate, n_fft, n_fft, hop_length, n_mels, 0, sample_rate / 2, "htk", padding="reflect"
    )


def hifigan_form(sample_rate: int, n_fft: int, hop_length: int, n_mels: int) -> MelForm:
    """What HiFi-GAN, AudioLDM and most vocoders take, before `log_floored`: a column per whole hop."""
    return MelForm(
        sample_rate, n_fft, n_fft, hop_length, n_mels, 0, sample_rate / 2, "slaney", equal_areas=True,
        power=1, padding="reflect", pad_length=(n_fft - hop_length) // 2, floor=1e-9,
    )  # fmt: skip


def mel_spectrogram(wave: Tensor, form: MelForm) -> Tensor:
    """Mel spectrogram, not yet logarithmic.

    Args:
        wave: ``(B, S)`` at the form's rate, float32 or float64.
        form: how it is made.

    Returns:
        ``(B, M, L)``, dtype of `wave`.

    Raises:
        ValueError: another shape, or a wave that is too short for a column, or to be reflected.
    """
    pad = 0 if form.padding is None else form.n_fft // 2 if form.pad_length is None else form.pad_length
    least = max(pad + 1 if form.padding == "reflect" else 1, form.win_length - 2 * pad)
    if wave.ndim != 2 or wave.shape[1] < least:
        raise ValueError(f"mel_spectrogram: want wave (B,S), S >= {least}, got {tuple(wave.shape)}")
    if form.padding is not None:
        wave = F.pad(wave[:, None], (pad, pad), mode=form.padding)[:, 0]
        margin = (form.n_fft - form.win_length) // 2
        wave = wave[:, margin : wave.shape[1] - margin]
    window = hann_window(form.win_length, wave.device, wave.dtype)
    columns = wave.unfold(-1, form.win_length, form.hop_length) * window  # (B, L, window)
    spectrum = torch.fft.rfft(columns, form.n_fft)  # (B, L, K)
    squared = spectrum.real.square() + spectrum.imag.square() + form.floor
    bins = squared if form.power == 2 else squared.sqrt()
    return (bins @ form_filterbank(form, wave.device, wave.dtype).T).transpose(1, 2)  # (B, M, L)


@lru_cache(maxsize=32)
def form_filterbank(
    form: MelForm, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Triangles of a form, ``(M, n_fft / 2 + 1)``, built in float64; shared, do not write to it."""
    with torch.inference_mode(False):
        to_mel, to_hz = (hz_to_mel, mel_to_hz) if form.scale == "slaney" else (_htk_mel, _htk_hz)
        limits = to_mel(torch.tensor([form.f_min_hz, form.f_max_hz], dtype=torch.float64, device="cpu"))
        corners = torch.linspace(
            float(limits[0]), float(limits[1]), form.n_mels + 2, dtype=torch.float64, device="cpu"
        )
        bins = torch.arange(form.n_fft // 2 + 1, dtype=torch.float64, device="cpu") * (
            form.sample_rate / form.n_fft
        )
        corners_hz = to_hz(corners)
        weights = (
            triangles(corners_hz, bins) if form.straight_in == "hz" else triangles(corners, to_mel(bins))
        )
        if form.equal_areas:
            weights = weights * (2 / (corners_hz[2:] - corners_hz[:-2]))[:, None]
        return weights.to(device=device, dtype=dtype)


def log_floored(mel: Tensor) -> Tensor:
    """HiFi-GAN's and AudioLDM's logarithm: natural, of at least 1e-5."""
    return mel.clamp(min=1e-5).log()


def log_unit(mel: Tensor) -> Tensor:
    """SpecVQGAN's and MM-LDM's: decibels of at least 1e-5, with -80 at 0 and 20 at 1, clipped to [0, 1]."""
    return ((20 * mel.clamp(min=1e-5).log10() + 80) / 100).clamp(0, 1)


def power_db(power: Tensor, reference: Tensor | float = 1.0, range_db: float = 80.0) -> Tensor:
    """librosa's decibels of a power ``(B, M, L)``, at least 1e-10 and within `range_db` of its loudest."""
    level = 10 * (power.clamp(min=1e-10).log10() - torch.as_tensor(reference).clamp(min=1e-10).log10())
    return torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - range_db)


def _htk_mel(frequency_hz: Tensor) -> Tensor:
    return HTK_MELS * (1 + frequency_hz / HTK_HZ).log10()


def _htk_hz(mel: Tensor) -> Tensor:
    return HTK_HZ * (10 ** (mel / HTK_MELS) - 1)
