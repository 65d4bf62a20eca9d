"""How near pictures are to their originals, frame by frame: the forms that papers on video report.

PSNR over a whole clip, PVDM's form, is `pavdit.metrics.signal.psnr`; the forms here are those of
common_metrics_on_video_quality, which averages over frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pavdit.nn.lpips import LPIPS

BEST_PSNR_DB = 100.0
"""Of frames whose squared error is below `LEAST_ERROR`, where the logarithm would leave the mean infinite."""
LEAST_ERROR = 1e-10
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
"""Stabilise the ratios (Wang et al. 2004, K1 = 0.01 and K2 = 0.03, range 1)."""
FRAMES = 16
"""At a time, which bounds the memory of LPIPS."""


def frame_psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every frame, at most `BEST_PSNR_DB`, mean over the frames, in dB.

    Args:
        a: ``(B, T, C, H, W)`` in [0, 1].
        b: shape of `a`.

    Returns:
        ``(B,)`` float64.

    Raises:
        ValueError: other shapes.
    """
    _check("frame_psnr", a, b, 1)
    error = (a.double() - b.double()).square().flatten(2).mean(dim=2)  # (B, T)
    level = -10 * error.log10()
    return torch.where(error < LEAST_ERROR, BEST_PSNR_DB, level).mean(dim=1)


def frame_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian windows inside a frame, per channel, mean over all.

    Args:
        a: ``(B, T, C, H, W)`` in [0, 1], at least 11 x 11.
        b: shape of `a`.

    Returns:
        ``(B,)`` float64, 1 where the two are equal.

    Raises:
        ValueError: other shapes.
    """
    _check("frame_ssim", a, b, SSIM_WINDOW)
    x = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=a.device) - SSIM_WINDOW // 2
    window = torch.exp(-x.square() / (2 * SSIM_SIGMA**2))
    window = window / window.sum()

    def local_mean(pictures: Tensor) -> Tensor:
        flat = pictures.flatten(0, 2)[:, None]  # (B T C, 1, H, W)
        return F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None])

    scores = []
    for one, other in zip(a.double(), b.double(), strict=True):
        p, q = one[None], other[None]
        mean_p, mean_q = local_mean(p), local_mean(q)
        var_p, var_q = local_mean(p * p) - mean_p.square(), local_mean(q * q) - mean_q.square()
        covariance = local_mean(p * q) - mean_p * mean_q
        structure = (2 * covariance + SSIM_C2) / (var_p + var_q + SSIM_C2)
        luminance = (2 * mean_p * mean_q + SSIM_C1) / (mean_p.square() + mean_q.square() + SSIM_C1)
        scores.append((structure * luminance).mean())
    return torch.stack(scores)


def frame_lpips(network: LPIPS, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS of every frame, mean over the frames.

    Args:
        network: trunk and heads, which the score is named after.
        a: ``(B, T, 3, H, W)`` in [0, 1], at least 32 x 32.
        b: shape of `a`.

    Returns:
        ``(B,)`` float32.

    Raises:
        ValueError: other shapes.
    """
    _check("frame_lpips", a, b, 1)
    pairs = zip(a.flatten(0, 1).split(FRAMES), b.flatten(0, 1).split(FRAMES), strict=True)
    with torch.no_grad():
        distances = torch.cat([network(2 * x - 1, 2 * y - 1) for x, y in pairs])
    return distances.view(a.shape[:2]).mean(dim=1)


def _check(name: str, a: Tensor, b: Tensor, least: int) -> None:
    if a.shape != b.shape or a.ndim != 5 or not a.numel() or min(a.shape[3:]) < least:
        raise ValueError(
            f"{name}: want two batches (B,T,C,H,W) of one shape, at least {least} x {least}, got "
            f"{tuple(a.shape)}, {tuple(b.shape)}"
        )
