"""Pixels and mel values to tokens and back. Both streams end on the same grid (T, H', W')."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class PatchEmbed(nn.Module):
    """Frames to tokens: every patch of every frame, flattened, through one linear layer.

    Args:
        channels: 3 for video, 1 for mel images.
        patch: (rows, columns) of a patch: (d, d) for video, (M/H', L/W') for mel images.
        width: D.
    """

    def __init__(self, channels: int, patch: tuple[int, int], width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * patch[0] * patch[1], width)
        nn.init.normal_(self.proj.weight, std=self.proj.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        p, q = self.patch
        x = x.reshape(b, c, t, h // p, p, w // q, q)
        x = x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)  # (B, T, H', W', C*p*q)
        return self.proj(x)  # (B, T, H', W', D)

    @torch.no_grad()
    def calibrate(self, mean: Tensor, std: Tensor) -> None:
        """Fold ``(x - mean) / std`` into the layer: `mean` ``(channels,)``, `std` 0-d."""
        self.proj.weight.div_(std)
        self.proj.bias.sub_(self.proj.weight @ mean.repeat_interleave(self.patch[0] * self.patch[1]))


class ToPixels(nn.Module):
    """Tokens to frames: a transposed convolution with kernel = stride = patch, which is one matrix product.

    The output is linear: no activation, so values may leave [-1, 1].

    Args:
        channels, patch, width: as for `PatchEmbed`.
    """

    def __init__(self, channels: int, patch: tuple[int, int], width: int) -> None:
        super().__init__()
        self.patch = patch
        # Nearly black at first: noise in the first pictures would be unlearned by silencing the latent.
        self.weight = nn.Parameter(0.03 * width**-0.5 * torch.randn(width, channels, *patch))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        (p, q), channels = self.patch, self.bias.shape[0]
        bias = self.bias.repeat_interleave(p * q)
        x = linear(tokens, self.weight.flatten(1).T, bias).unflatten(-1, (channels, p, q))
        x = x.permute(0, 4, 1, 2, 5, 3, 6)  # (B, C, T, H', p, W', q)
        return x.flatten(5, 6).flatten(3, 4)  # (B, C, T, H, W)

    @torch.no_grad()
    def calibrate(self, mean: Tensor) -> None:
        """Give frames of the colour `mean` ``(channels,)`` where the tokens say nothing."""
        self.bias.copy_(mean)
