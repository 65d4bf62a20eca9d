"""A system small enough for every test, with T, H' and W' all different."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from zeros import fill_zeros

from pavdit.clip import ClipSpec
from pavdit.config import MDSAConfig, MelConfig, ModelConfig
from pavdit.mdsa import MDSA


def small_system(**mdsa: object) -> ModelConfig:
    """12 frames of 32 x 48 with patch 8: the grid is (12, 4, 6). Keywords replace fields of `mdsa`."""
    sizes: dict[str, object] = {
        "patch_size": 8,
        "width": 32,
        "encoder_depth": 1,
        "decoder_depth": 1,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_ratio": 2,
        "projector_depth": 2,
        "projector_num_heads": 2,
        "projector_head_dim": 8,
        "projector_mlp_dim": 48,
        "fusion_num_heads": 2,
        "fusion_head_dim": 8,
    }
    return ModelConfig(
        clip=ClipSpec(12, 32, 48, sample_rate=12000, columns_per_frame=24),
        mel=MelConfig(n_mels=16, f_max_hz=6000),
        mdsa=MDSAConfig.model_validate({**sizes, **mdsa}),
    )


@pytest.fixture
def system() -> Callable[..., ModelConfig]:
    return small_system


@pytest.fixture
def model() -> nn.Module:
    """The small system's autoencoder with nothing at zero."""
    torch.manual_seed(0)
    return fill_zeros(MDSA(small_system()))


@pytest.fixture
def streams() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips: frames (2, 3, 12, 32, 48) and mel images (2, 1, 12, 16, 24), in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    video = torch.rand(2, 3, 12, 32, 48, generator=generator) * 2 - 1
    return video, torch.rand(2, 1, 12, 16, 24, generator=generator) * 2 - 1
