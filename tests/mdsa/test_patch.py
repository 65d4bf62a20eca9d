"""Patches against index loops, pixels against PyTorch's transposed convolution."""

from __future__ import annotations

import torch
from numerics import assert_equation
from torch.nn.functional import conv_transpose2d

from pavdit.mdsa.patch import PatchEmbed, ToPixels


def test_token_is_its_own_patch() -> None:
    embed = PatchEmbed(channels=3, patch=(2, 5), width=7).double()
    x = torch.randn(2, 3, 4, 6, 10, dtype=torch.float64)
    tokens = embed(x)
    assert tokens.shape == (2, 4, 3, 2, 7)
    for t in range(4):
        for row in range(3):
            for column in range(2):
                patch = x[:, :, t, 2 * row : 2 * row + 2, 5 * column : 5 * column + 5].reshape(2, -1)
                want = patch @ embed.proj.weight.T + embed.proj.bias
                assert_equation(tokens[:, t, row, column], want)


def test_pixels_are_a_transposed_convolution_of_every_frame() -> None:
    to_pixels = ToPixels(channels=3, patch=(2, 5), width=7).double()
    torch.nn.init.normal_(to_pixels.bias)
    tokens = torch.randn(2, 4, 3, 2, 7, dtype=torch.float64)
    out = to_pixels(tokens)
    assert out.shape == (2, 3, 4, 6, 10)
    for t in range(4):
        frame = tokens[:, t].movedim(-1, 1)  # (B, D, H', W')
        want = conv_transpose2d(frame, to_pixels.weight, to_pixels.bias, stride=(2, 5))
        assert_equation(out[:, :, t], want)
