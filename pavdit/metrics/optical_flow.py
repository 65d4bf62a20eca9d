"""Dense optical flow by polynomial expansion (Farnebäck, SCIA 2003), as OpenCV computes it with box windows.

Near every pixel a picture is fitted by ``x^T A x + b^T x + c``. Where it moves by d, b changes by -2 A d;
this is solved for d in the least-squares sense over a window, again with d known, from coarse scales to fine.
What the paper leaves open (the border's weights, the damping, the smoothing before a scale) is OpenCV's, so
that measures of motion agree with the peers'. The flow differs from OpenCV's by rounding; where nothing moves
at the upper or left border, its sign decides whether a pixel left the picture: some pixels differ by more.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = 3
"""Halvings beyond the full size; those below `SMALLEST_SIDE` are left out."""
SMALLEST_SIDE = 32
ITERATIONS = 3
POLY_N, POLY_SIGMA = 5, 1.2
"""A neighbourhood is 2 n + 1 pixels wide, weighted by a Gaussian."""
BORDER = (0.14, 0.14, 0.4472, 0.4472, 0.4472)
"""Certainty of a fit so many pixels from the border."""
DAMPING = 1e-3
"""Added to the determinant: no texture, no motion."""
LEAST_SIDE = 2 * len(BORDER) + 2


def farneback_flow(pictures: Tensor) -> Tensor:
    """Motion of every pixel from each picture to the next.

    Args:
        pictures: ``(T, H, W)`` grey, 0 to 255, any dtype; T at least 2, at least 12 x 12.

    Returns:
        ``(T - 1, 2, H, W)`` float32, pixels to the right and down.

    Raises:
        ValueError: the shape is another one.
    """
    if pictures.ndim != 3 or len(pictures) < 2 or min(pictures.shape[1:]) < LEAST_SIDE:
        raise ValueError(
            f"farneback_flow: want at least 2 pictures (T,H,W) of at least {LEAST_SIDE} x {LEAST_SIDE}, got "
            f"{tuple(pictures.shape)}"
        )
    rows, columns = pictures.shape[1:]
    x = pictures.float()[:, None]  # (T, 1, H, W)
    scales = [k for k in range(SCALES + 1) if not k or min(rows, columns) * 0.5**k >= SMALLEST_SIDE]
    flow = None
    for k in reversed(scales):
        size = (round(rows * 0.5**k), round(columns * 0.5**k))
        if flow is None:
            flow = x.new_zeros(len(x) - 1, 2, *size)
        else:
            flow = 2 * F.interpolate(flow, size, mode="bilinear")
        fits = _expand(F.interpolate(_blur(x, k), size, mode="bilinear"))
        for _ in range(ITERATIONS):
            flow = _solve(_box(_equations(fits[:-1], fits[1:], flow)))
    assert flow is not None  # noqa: S101 - the full size is among the scales
    return flow


def _gaussian(n: int, sigma: float) -> Tensor:
    x = torch.arange(-n, n + 1, dtype=torch.float64)
    weights = torch.exp(-x.square() / (2 * sigma**2))
    return weights / weights.sum()


def _filter(x: Tensor, kernel: Tensor, dim: int, border: str = "replicate") -> Tensor:
    """``(B, C, H, W)`` correlated with `kernel` along `dim`.

    As a sum of shifted pictures: a convolution of so few channels takes several times as long on a CPU.
    """
    n = len(kernel) // 2
    length = x.shape[dim]
    x = F.pad(x, (0, 0, n, n) if dim == 2 else (n, n, 0, 0), mode=border)
    weights = kernel.tolist()
    out = x.narrow(dim, 0, length) * weights[0]
    for i, weight in enumerate(weights[1:], 1):
        if weight:
            out.add_(x.narrow(dim, i, length), alpha=weight)
    return out


def _blur(x: Tensor, scale: int) -> Tensor:
    """Gaussian blur before halving so often; at full size the smallest one."""
    sigma = (2.0**scale - 1) / 2
    kernel = _gaussian((round(5 * sigma) | 1) // 2, sigma) if scale else torch.tensor([0.25, 0.5, 0.25])
    return _filter(_filter(x, kernel, 2, "reflect"), kernel, 3, "reflect")


def _box(x: Tensor) -> Tensor:
    """Mean over 15 x 15 pixels, the ends held: 15 = 8 + 4 + 2 + 1, and each is twice the next."""
    for dim in (2, 3):
        length = x.shape[dim]
        x = F.pad(x, (0, 0, 7, 7) if dim == 2 else (7, 7, 0, 0), mode="replicate")
        out = x.narrow(dim, 14, length) * (1 / 15)
        for width, begin in ((2, 12), (4, 8), (8, 0)):
            shorter = x.shape[dim] - width // 2
            x = x.narrow(dim, 0, shorter) + x.narrow(dim, width // 2, shorter)
            out.add_(x.narrow(dim, begin, length), alpha=1 / 15)
        x = out
    return x


@lru_cache(maxsize=1)
def _inverse() -> tuple[float, float, float, float]:
    """What inverts the normal equations of a fit by 1, y, x, y^2, x^2, xy: only 1, y^2, x^2 are coupled."""
    x, g = torch.arange(-POLY_N, POLY_N + 1, dtype=torch.float64), _gaussian(POLY_N, POLY_SIGMA)
    second, fourth = float((g * x**2).sum()), float((g * x**4).sum())
    coupled = torch.tensor(
        [[1, second, second], [second, fourth, second**2], [second, second**2, fourth]], dtype=torch.float64
    ).inverse()
    return 1 / second, float(coupled[0, 1]), float(coupled[1, 1]), 1 / second**2


def _expand(x: Tensor) -> Tensor:
    """Fit of every neighbourhood: coefficients of y, x, y^2, x^2, xy, ``(T, 5, H, W)``."""
    linear, constant, square, mixed = _inverse()
    g, place = _gaussian(POLY_N, POLY_SIGMA), torch.arange(-POLY_N, POLY_N + 1, dtype=torch.float64)
    flat, slope, curve = (_filter(x, g * place**power, 2) for power in range(3))
    level = _filter(flat, g * constant, 3)
    return torch.cat(
        [
            _filter(slope, g * linear, 3),
            _filter(flat, g * place * linear, 3),
            level + _filter(curve, g * square, 3),
            level + _filter(flat, g * place**2 * square, 3),
            _filter(slope, g * place * mixed, 3),
        ],
        dim=1,
    )


def _equations(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Normal equations of each pixel alone: g11, g12, g22, h1, h2 (1 = y, 2 = x), ``(B, 5, H, W)``."""
    height, width = first.shape[2:]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]  # (B, H, W), where the pixel went
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    inside = ((x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1))[:, None]
    places = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    moved = F.grid_sample(second, places, padding_mode="border", align_corners=True)
    both = torch.where(inside, 0.5 * (first + moved), first)
    change = 0.5 * (first - torch.where(inside, moved, 0.0))
    yy, xx, xy = both[:, 2], both[:, 3], 0.5 * both[:, 4]
    dy = change[:, 0] + yy * flow[:, 1] + xy * flow[:, 0]
    dx = change[:, 1] + xy * flow[:, 1] + xx * flow[:, 0]
    certainty = (_certainty(height, flow)[:, None] * _certainty(width, flow)).square()
    equations = [yy * yy + xy * xy, (yy + xx) * xy, xx * xx + xy * xy, yy * dy + xy * dx, xy * dy + xx * dx]
    return torch.stack(equations, dim=1) * certainty


def _certainty(length: int, like: Tensor) -> Tensor:
    ends = like.new_tensor(BORDER)
    weights = like.new_ones(length)
    weights[: len(ends)] *= ends
    weights[-len(ends) :] *= ends.flip(0)
    return weights


def _solve(equations: Tensor) -> Tensor:
    """Motion ``(B, 2, H, W)``, x then y, from equations averaged over a window."""
    g11, g12, g22, h1, h2 = equations.unbind(1)
    determinant = g11 * g22 - g12 * g12 + DAMPING
    return torch.stack([g11 * h2 - g12 * h1, g22 * h1 - g12 * h2], dim=1) / determinant[:, None]
