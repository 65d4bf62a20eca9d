"""Nothing between the noise and the last step waits for the device, and decoding does not either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from nano import nano
from torch import Tensor
from waiting import PLACES, NoWaiting

from pavdit.codec import Codec
from pavdit.flow.graph import Graphs
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.options import SamplingOptions
from pavdit.sampling import BoundVelocity, Captions, sample_batch
from pavdit.stdit import STDiT

BATCH, TOKENS = 2, 8


@contextmanager
def strict(device: str) -> Iterator[None]:
    """On CUDA the driver watches too, for what no dispatcher sees."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoWaiting():
            yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def stdit(device: str, dtype: torch.dtype) -> STDiT:
    config = nano()
    layout = PlaneLayout.choose(config.grid, "fold")  # with padding, so that every mask takes part
    model = STDiT(config.stdit, layout, config.mdsa.latent_channels)
    return model.to(device, dtype).eval().requires_grad_(False)


def latent_of(model: STDiT, device: str) -> Tensor:
    layout = model.layout
    return torch.rand(BATCH, model.latent_channels, layout.num_frames, layout.rows, layout.columns).to(device)


def captions(model: STDiT, device: str) -> Captions:
    tokens = torch.randn(BATCH, TOKENS, model.config.text_dim).to(device)
    return Captions(tokens, (torch.arange(TOKENS) < torch.tensor([[8], [3]])).to(device), known=True)


@pytest.mark.parametrize("device", PLACES)
def test_the_network_does_not_wait(device: str) -> None:
    model = stdit(device, torch.bfloat16)
    latent, given = latent_of(model, device), captions(model, device)
    rows = {
        "drop_text": torch.tensor([False, True]).to(device),
        "task": torch.tensor([0, 1]).to(device),
        "fps": torch.tensor([10.0, 12.0]).to(device),
    }
    t, clean = torch.rand(BATCH, 2).to(device), torch.tensor([[False, True], [False, False]]).to(device)

    def forward() -> Tensor:
        return model(latent, t, given.tokens, text_mask=given.mask, clean=clean, **rows)

    forward()
    with strict(device):
        forward()


def called(function: Callable[[], None]) -> Callable[[], None]:
    function()
    return function


@pytest.mark.parametrize(("method", "graphed"), [("euler", False), ("euler", True), ("heun", False)])
@pytest.mark.parametrize("device", PLACES)
def test_steps_do_not_wait(device: str, method: str, graphed: bool) -> None:
    """Both halves, mix, step and fold, on some frames only, with and without guidance."""
    model = stdit(device, torch.bfloat16)
    options = SamplingOptions("t2v", 3, 4.0, guidance_interval=(0.2, 1.0), method=method)
    velocity = BoundVelocity(model, captions(model, device), options, fps=10.0)
    target, latent = model.layout.frames_of("video").to(device), latent_of(model, device)
    graphs = None if not graphed else Graphs(capture=None if device == "cuda" else called)
    sample_batch(velocity, latent, target=target, graphs=graphs)
    with strict(device):
        sample_batch(velocity, latent, target=target, graphs=graphs)


@pytest.mark.parametrize("device", PLACES)
def test_decoding_does_not_wait(device: str) -> None:
    mdsa = MDSA(nano()).to(device, torch.bfloat16).eval().requires_grad_(False)
    codec = Codec(nano(), mdsa, torch.device(device), torch.bfloat16)
    layout = PlaneLayout.choose(nano().grid)
    latent = torch.rand(BATCH, 4, layout.num_frames, layout.rows, layout.columns).to(device)

    def decode() -> Tensor:
        frames, images = codec.to_frames(*layout.unstack(latent))
        assert frames is not None and images is not None
        return codec.to_waves(images)

    decode()  # makes the tables
    with strict(device):
        decode()
