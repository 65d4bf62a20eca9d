"""Eq. 7 by index loops, and the decoder's output."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch

from pavdit.config import ModelConfig
from pavdit.latents import Planes
from pavdit.mdsa.attention import PlaneFeatures
from pavdit.mdsa.decoder import StreamDecoder, expand_and_sum


def test_expand_and_sum_is_eq_7() -> None:
    t, h, w, d = 4, 3, 5, 2
    planes = PlaneFeatures(torch.randn(1, h, w, d), torch.randn(1, t, w, d), torch.randn(1, t, h, d))
    z = expand_and_sum(planes)
    assert z.shape == (1, t, h, w, d)
    for i, j, k in product(range(t), range(h), range(w)):
        want = planes.hw[:, j, k] + planes.tw[:, i, k] + planes.th[:, i, j]
        assert torch.equal(z[:, i, j, k], want)


def test_decoder_ends_at_linear_frames(system: Callable[..., ModelConfig]) -> None:
    config = system()
    decoder = StreamDecoder(config.mdsa, config.grid, channels=1, patch=config.mel_patch)
    torch.nn.init.constant_(decoder.to_pixels.bias, 5.0)
    planes = Planes(torch.randn(2, 4, 4, 6), torch.randn(2, 4, 12, 6), torch.randn(2, 4, 12, 4))
    frames = decoder(decoder.expand(planes))
    assert frames.shape == (2, 1, 12, 16, 24)
    assert frames.mean() > 1  # no squashing
