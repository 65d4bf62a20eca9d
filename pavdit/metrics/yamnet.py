"""YAMNet: sound to embeddings and to 521 classes of AudioSet, for FAD-YAMNet.

The network is MobileNet-v1 (Howard et al. 2017, arXiv 1704.04861, table 1) on log-mel patches of 0.96 s, in
the export for Coral (Apache-2.0), whose activations end at 6. Weights come from a file of the user: int8 with
scales by channel, computed with in float32. A Fréchet distance of these embeddings is no FAD of the papers,
which take VGGish or AudioCLIP, and is always printed as FAD-YAMNet.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pavdit.clip import DataError
from pavdit.metrics.networks import Network, fill, sha256_of

SAMPLE_RATE = 16000
WIN_LENGTH, HOP_LENGTH, N_FFT = 400, 160, 512
N_MELS, F_MIN, F_MAX = 64, 125.0, 7500.0
LOG_OFFSET = 1e-3
PATCH, PATCH_HOP = 96, 48  # mel columns: 0.96 s, 0.48 s
EMBEDDING, NUM_CLASSES = 1024, 521
LAYERS = (  # stride and channels of the separable convolutions
    (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512), (1, 512), (1, 512), (1, 512),
    (1, 512), (2, 1024), (1, 1024),
)  # fmt: skip


def _mel_filters() -> Tensor:
    """``(N_FFT / 2 + 1, N_MELS)``: triangles on HTK's mel scale, highest value 1, nothing from the mean."""

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    bins = mel(np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1))[:, None]
    edges = np.linspace(mel(F_MIN), mel(F_MAX), N_MELS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    filters = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(0)
    filters[0] = 0
    return torch.from_numpy(filters.astype(np.float32))


def log_mel(wave: Tensor) -> Tensor:
    """``(B, S)`` at 16 kHz to ``(B, 1 + (S - 400) // 160, 64)``: ``ln(mel of the magnitude + 0.001)``."""
    window = torch.hann_window(WIN_LENGTH, periodic=True, device=wave.device)
    columns = wave.float().unfold(-1, WIN_LENGTH, HOP_LENGTH) * window
    magnitude = torch.fft.rfft(columns, N_FFT).abs()
    return torch.log(magnitude @ _mel_filters().to(wave.device) + LOG_OFFSET)


def patches(wave: Tensor) -> Tensor:
    """Log-mel patches of 0.96 s, one every 0.48 s; a shorter wave is followed by silence.

    Args:
        wave: ``(B, S)`` float at 16 kHz.

    Returns:
        ``(B, K, 96, 64)`` float32; what remains behind the last whole patch is left out.
    """
    least = WIN_LENGTH + (PATCH - 1) * HOP_LENGTH
    wave = F.pad(wave, (0, max(0, least - wave.shape[-1])))
    return log_mel(wave).unfold(1, PATCH, PATCH_HOP).transpose(2, 3).contiguous()


def _same(x: Tensor, stride: int) -> Tensor:
    """TensorFlow's SAME padding for a kernel of 3."""
    pad: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
        pad += [total // 2, total - total // 2]
    return F.pad(x, pad)


class YAMNet(nn.Module):
    """The network behind the log-mel patches."""

    def __init__(self) -> None:
        super().__init__()
        self.c0 = nn.Conv2d(1, 32, 3, 2)
        widths = (32, *(channels for _, channels in LAYERS))
        self.dw = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride, groups=width)
            for width, (stride, _) in zip(widths, LAYERS, strict=False)
        )
        self.pw = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.fc = nn.Linear(EMBEDDING, NUM_CLASSES)

    def forward(self, patches: Tensor) -> Tensor:
        """``(N, 96, 64)`` to embeddings ``(N, 1024)``."""
        x = F.relu6(self.c0(_same(patches[:, None], 2)))
        for (stride, _), depthwise, pointwise in zip(LAYERS, self.dw, self.pw, strict=True):
            x = F.relu6(depthwise(_same(x, stride)))
            x = F.relu6(pointwise(x))
        return x.mean(dim=(2, 3))

    def scores(self, embedding: Tensor) -> Tensor:
        """Embeddings ``(N, 1024)`` to the probabilities of each class ``(N, 521)``."""
        return self.fc(embedding).sigmoid()


def read_yamnet(path: Path) -> YAMNet:
    """The network from ``yamnet_int8.npz``: per layer int8 ``w``, its ``scale`` along ``axis``, and ``b``.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    state: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in [name.removesuffix(".w") for name in stored.files if name.endswith(".w")]:
                weight, axis = stored[f"{key}.w"].astype(np.float32), int(stored[f"{key}.w.axis"])
                shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
                weight = weight * stored[f"{key}.w.scale"].reshape(shape)
                if weight.ndim == 4:  # TensorFlow's order; of a depthwise one the channels are last
                    weight = weight.transpose((3, 0, 1, 2) if key.startswith("dw") else (0, 3, 1, 2))
                name = key if key in ("c0", "fc") else f"{key[:2]}.{key[2:]}"
                state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(weight))
                state[f"{name}.bias"] = torch.from_numpy(stored[f"{key}.b"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, np.exceptions.AxisError) as error:
        raise DataError(f"{path}: want YAMNet as .npz, got {' '.join(str(error).split())[:80]}") from None
    model = YAMNet()
    fill(model, state, path)
    return model.eval()


def load_yamnet(path: Path, device: torch.device) -> Network:
    """YAMNet, ready for waves.

    Returns:
        ``run``: ``(B, S)`` at 16 kHz to embeddings ``(B, K, 1024)`` float32 on the CPU, one of each patch.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    digest = sha256_of(path)
    model = read_yamnet(path).to(device)

    @torch.inference_mode()
    def run(wave: Tensor) -> Tensor:
        pieces = patches(wave.to(device))
        return model(pieces.flatten(0, 1)).unflatten(0, pieces.shape[:2]).cpu()

    return Network(path.name, digest, run)
