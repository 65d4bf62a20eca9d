"""Frame-wise measures where they are known, and against their definitions."""

import math

import pytest
import torch
from numerics import assert_equation
from torch import nn

from pavdit.metrics.picture_quality import frame_lpips, frame_psnr, frame_ssim


def test_equal_frames_count_100_db():
    a = torch.zeros(2, 2, 3, 4, 4)
    b = a.clone()
    b[:, 1] += 0.1
    b[1, 0] += 0.01
    assert frame_psnr(a, b).tolist() == pytest.approx([(100 + 20) / 2, (40 + 20) / 2], abs=1e-4)


def test_ssim_of_black_and_white():
    # Only the luminance term is left: 2 * 0 * 1 + C1 over 0 + 1 + C1.
    black, white = torch.zeros(1, 1, 3, 16, 16), torch.ones(1, 1, 3, 16, 16)
    assert frame_ssim(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-9)
    assert frame_ssim(white, white).item() == pytest.approx(1)


def test_ssim_is_its_definition():
    a, b = torch.rand(2, 2, 1, 12, 13, dtype=torch.float64), torch.rand(2, 2, 1, 12, 13, dtype=torch.float64)
    g = torch.tensor([[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)])
    g = g.double() / g.double().sum()
    want = []
    for p, q in zip(a, b, strict=True):
        values = []
        for frame in range(2):
            for top in range(2):
                for left in range(3):
                    x, y = (t[frame, 0, top : top + 11, left : left + 11] for t in (p, q))
                    mx, my = (g * x).sum(), (g * y).sum()
                    vx, vy = (g * (x - mx) ** 2).sum(), (g * (y - my) ** 2).sum()
                    cov = (g * (x - mx) * (y - my)).sum()
                    luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
                    values.append(luminance * (2 * cov + 9e-4) / (vx + vy + 9e-4))
        want.append(torch.stack(values).mean())
    assert (frame_ssim(a, b) - torch.stack(want)).abs().max() < 1e-7  # the window above is float32
    assert_equation(frame_ssim(a, b), frame_ssim(b, a))


def test_lpips_is_the_mean_over_frames_of_pictures_in_minus_one_to_one():
    class Distance(nn.Module):
        def forward(self, a, b):
            assert a.min() >= -1 and a.max() > 0.9 and a.ndim == 4
            return (a - b).abs().mean((1, 2, 3))

    a = torch.rand(2, 20, 3, 8, 8)
    b = torch.rand(2, 20, 3, 8, 8)
    want = 2 * (a - b).abs().mean((1, 2, 3, 4))
    assert_equation(frame_lpips(Distance(), a, b), want)


@pytest.mark.parametrize("shape", [(1, 1, 3, 10, 20), (2, 3, 16, 16)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"^frame_ssim: want two batches \(B,T,C,H,W\) of one shape, at least 11 x"
    ):
        frame_ssim(torch.zeros(shape), torch.zeros(shape))
