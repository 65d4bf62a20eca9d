"""Compiled blocks: few codes, none made later, and the same velocity."""

from __future__ import annotations

import pytest
import torch
from nano import nano
from numerics import assert_no_worse
from torch import Tensor
from torch._dynamo.utils import counters

from pavdit.latents import PlaneLayout
from pavdit.stdit import STDiT
from pavdit.text import BUCKETS

SHAPES = 2
"""Batch 1, and all larger ones."""
CODES = SHAPES * (2 + 1)
"""Of the two kinds of attention, and of the MLP, which is the same code in both kinds of blocks."""


def build(dtype: torch.dtype) -> STDiT:
    """Two blocks of each kind, so that one of them has a predecessor of each kind."""
    torch.manual_seed(0)
    config = nano()
    stdit = config.stdit.model_copy(update={"depth": 2})
    model = STDiT(stdit, PlaneLayout.choose(config.grid), config.mdsa.latent_channels)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def run(model: STDiT, batch: int, tokens: int, masked: bool) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    text = torch.randn(batch, tokens, model.config.text_dim, generator=generator).to(model.final.weight.dtype)
    mask = torch.arange(tokens) < tokens - torch.arange(batch)[:, None]
    condition = model.prepare(
        text,
        text_mask=mask if masked else None,
        drop_text=None,
        task=torch.zeros(batch, dtype=torch.long),
        fps=torch.full((batch,), 10.0),
    )
    layout = model.layout
    shape = batch, model.latent_channels, layout.num_frames, layout.rows, layout.columns
    modulation = model.modulate(torch.tensor([[0.5, 0.5]]), None, condition.vector[:1])
    return model.velocity(torch.rand(shape, generator=generator) * 2 - 1, modulation, condition)


@pytest.fixture
def fresh_compiler() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.usefixtures("fresh_compiler")
def test_two_codes_of_a_kind_serve_all_batches_text_lengths_and_masks() -> None:
    model = build(torch.bfloat16)
    model.compile_blocks("eager")  # which codes there are does not depend on the backend
    for batch in (2, 1):
        run(model, batch, 8, False)
    assert counters["stats"]["unique_graphs"] == CODES
    for masked in (False, True):
        for batch in range(1, 9):
            for tokens in BUCKETS:
                run(model, batch, tokens, masked)
    assert counters["stats"]["unique_graphs"] == CODES
    assert not counters["graph_break"]


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_blocks_give_the_same_velocity() -> None:
    """In bfloat16; tests/test_exact.py has 30 steps in float32."""
    dtype = torch.bfloat16
    model = build(dtype)
    eager = run(model, 2, 8, True)
    exact = run(build(dtype).double(), 2, 8, True)
    model.compile_blocks()
    assert_no_worse(run(model, 2, 8, True), eager, exact.double())
