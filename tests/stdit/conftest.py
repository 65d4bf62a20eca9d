"""Small generators with live branches, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pavdit.config import TASKS, STDiTConfig
from pavdit.latents import PlaneLayout
from pavdit.stdit import STDiT

SMALL = STDiTConfig(width=32, depth=2, num_heads=2, text_dim=12, max_text_length=16)

LAYOUTS = {
    "six": ((8, 8, 8), "six"),
    "six-padded": ((4, 8, 8), "six"),
    "six-wide": ((4, 4, 8), "six"),
    "concat4": ((4, 8, 8), "concat4"),
    "cut": ((4, 16, 16), "cut"),
    "fold-padded": ((4, 6, 6), "fold"),
    "fold-tall": ((4, 8, 6), "fold"),
}
"""(T, H', W') and kind, by name; ``-padded``, ``-wide`` and ``-tall`` have padding."""


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> PlaneLayout:
    return PlaneLayout.choose(*LAYOUTS[request.param])


@pytest.fixture(params=[name for name in LAYOUTS if "-" in name])
def padded_layout(request: pytest.FixtureRequest) -> PlaneLayout:
    return PlaneLayout.choose(*LAYOUTS[request.param])


@pytest.fixture
def fill_zeros() -> Callable[[nn.Module], None]:
    """Fill what is initialised to zero (biases too) with noise, so that no branch is closed."""

    def fill(module: nn.Module) -> None:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in module.parameters():
                if not parameter.any():
                    fan_in = parameter.shape[-1] if parameter.ndim > 1 else 100
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)

    return fill


@pytest.fixture
def build(fill_zeros: Callable[[nn.Module], None]) -> Callable[..., STDiT]:
    """``build(layout, **config)``: a small STDiT in float32, open branches unless ``fresh=True``."""

    def make(layout: PlaneLayout, *, fresh: bool = False, **changes: Any) -> STDiT:
        torch.manual_seed(0)
        model = STDiT(SMALL.model_copy(update=changes), layout, latent_channels=4)
        if not fresh:
            fill_zeros(model)
        return model

    return make


@pytest.fixture
def inputs() -> Callable[..., dict[str, Any]]:
    """``inputs(model, batch=2, groups=1, length=5)``: keyword arguments of `STDiT.forward`, reproducible."""

    def make(model: STDiT, batch: int = 2, groups: int = 1, length: int = 5, seed: int = 1) -> dict[str, Any]:
        layout, config = model.layout, model.config
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        shape = (batch, model.latent_channels, layout.num_frames, layout.rows, layout.columns)
        return {
            "latent": 2 * uniform(*shape) - 1,
            "t": uniform(batch, groups),
            "text": torch.randn(batch, length, config.text_dim, generator=generator),
            "task": torch.arange(batch) % len(TASKS),
            "fps": 8 + 4 * uniform(batch),
        }

    return make
