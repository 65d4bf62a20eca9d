"""One stream's encoder: eq. 1 and 2 give three planes of the right axes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pavdit.config import ModelConfig
from pavdit.mdsa.attention import MultiScaleTemporalSelfAttention
from pavdit.mdsa.encoder import StreamEncoder


def encoder(config: ModelConfig) -> StreamEncoder:
    return StreamEncoder(config.mdsa, config.grid, channels=1, patch=config.mel_patch)


def test_planes_have_the_axes_of_their_names(system: Callable[..., ModelConfig]) -> None:
    planes = encoder(system())(torch.randn(2, 1, 12, 16, 24))
    assert {name: tuple(plane.shape) for name, plane in planes._asdict().items()} == {
        "hw": (2, 4, 6, 32),
        "tw": (2, 12, 6, 32),
        "th": (2, 12, 4, 32),
    }


def test_without_mt_self_attention_its_parameters_are_gone(system: Callable[..., ModelConfig]) -> None:
    modules = encoder(system(mt_self_attn=False)).modules()
    assert not any(isinstance(module, MultiScaleTemporalSelfAttention) for module in modules)
