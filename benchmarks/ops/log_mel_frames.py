"""log_mel_frames at the settings of our models: make bench OP=log_mel_frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, forward, forward_backward, main
from pavdit.audio.mel import filterbank, hann_window
from pavdit.config import MelConfig
from pavdit.ops.log_mel_frames import log_mel_frames, log_mel_frames_reference

N_FFT, WIN_LENGTH, HOP_LENGTH, COLUMNS, FLOOR_DB, SAMPLE_RATE = 2048, 512, 50, 32, -100.0, 16_000
SHAPES = [  # batch, samples, n_mels
    (1, 25_600, 128),
    (1, 25_600, 256),
    (16, 25_600, 128),
    (16, 25_600, 256),
    (64, 25_600, 256),
    (1, 960_000, 128),
]
Way = Callable[[Tensor], Tensor]


def scaled(mel: Tensor) -> Tensor:
    """``(B, M, N)`` to images ``(B, T, M, L)``."""
    level_db = 20.0 * mel.clamp(10 ** (FLOOR_DB / 20), 1.0).log10()
    images = (1.0 - level_db * (2.0 / FLOOR_DB)).unflatten(2, (-1, COLUMNS))
    return images.transpose(1, 2).contiguous()


def padded(wave: Tensor) -> Tensor:
    padding = (N_FFT - HOP_LENGTH) // 2
    return F.pad(wave, (padding, padding), mode="reflect")


def by_op(op: Callable[..., Tensor], window: Tensor, bank: Tensor) -> Way:
    return lambda wave: op(wave, window, bank, N_FFT, HOP_LENGTH, COLUMNS, FLOOR_DB)


def by_stft(window: Tensor, bank: Tensor) -> Way:
    """torch.stft and a matrix product, as one writes it."""

    def run(wave: Tensor) -> Tensor:
        bins = torch.stft(
            padded(wave), N_FFT, HOP_LENGTH, WIN_LENGTH, window, center=False, return_complex=True
        )
        return scaled(bank @ (bins.abs() / (window.sum() / 2)))

    return run


def by_torchaudio(window: Tensor, n_mels: int) -> Way | None:
    """torchaudio's transform of the same sizes, where it imports; its filters have another scale."""
    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError):
        return None
    transform = MelSpectrogram(
        SAMPLE_RATE, N_FFT, WIN_LENGTH, HOP_LENGTH, n_mels=n_mels, power=1.0, center=False, mel_scale="slaney"
    ).to(window.device)
    return lambda wave: scaled(transform(padded(wave)) / (window.sum() / 2))


def cases(device: str) -> Iterator[Case]:
    """Forward moves the wave and the images; backward reads the images' gradient and writes the wave's."""
    place = torch.device(device)
    for batch, samples, n_mels in SHAPES:
        torch._dynamo.reset()
        window = hann_window(WIN_LENGTH, place)
        bank = filterbank(MelConfig(n_mels=n_mels), SAMPLE_RATE, place)
        stft = by_stft(window, bank)
        ways = {
            "ours": by_op(log_mel_frames, window, bank),
            "reference": by_op(log_mel_frames_reference, window, bank),
            "stft": stft,
            "compile": torch.compile(stft),
        }
        if torchaudio := by_torchaudio(window, n_mels):
            ways["torchaudio"] = torchaudio
        wave = 0.1 * torch.randn(batch, samples, device=device)
        grad = torch.randn_like(ways["ours"](wave))
        shape = f"{batch}x{samples}x{n_mels}"
        fwd = {way: forward(op, wave) for way, op in ways.items()}
        yield Case("fwd", shape, "fp32", fwd, wave.nbytes + grad.nbytes)
        if samples == 25_600 and batch == 16:
            both = {way: forward_backward(ways[way], [grad], wave) for way in ("ours", "reference", "stft")}
            yield Case("fwd+bwd", shape, "fp32", both, 3 * wave.nbytes + 2 * grad.nbytes)


if __name__ == "__main__":
    main("log_mel_frames", cases)
