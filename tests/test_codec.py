"""Decoding as captured functions: the same bits, a capture a shape, results that nobody else holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nano import nano

from pavdit.codec import Codec
from pavdit.flow.graph import Graphs
from pavdit.latents import Planes
from pavdit.mdsa.autoencoder import MDSA


def called(function: Callable[[], None]) -> Callable[[], None]:
    function()
    return function


def codec(graphs: Graphs | None, dtype: torch.dtype = torch.float32) -> Codec:
    torch.manual_seed(0)
    mdsa = MDSA(nano()).to(dtype).eval().requires_grad_(False)
    for parameter in mdsa.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Codec(nano(), mdsa, torch.device("cpu"), dtype, graphs)


def planes(seed: int, batch: int = 2) -> Planes:
    generator = torch.Generator().manual_seed(seed)
    return Planes(*(torch.rand(batch, 4, 4, 4, generator=generator) * 2 - 1 for _ in range(3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("streams", [(1, 2), (1, None), (None, 2)])
def test_graphs_give_the_same_bits(streams: tuple[int | None, int | None], dtype: torch.dtype) -> None:
    graphs = Graphs(capture=called)
    plain, graphed = codec(None, dtype), codec(graphs, dtype)
    for shift in (0, 2):  # the second time by a replay
        given = [None if seed is None else planes(seed + shift) for seed in streams]
        for want, got in zip(plain.decode(*given), graphed.decode(*given), strict=True):
            assert torch.equal(want.frames, got.frames) and torch.equal(want.wave, got.wave)
            assert want.frames.any() == (streams[0] is not None)
            assert want.wave.any() == (streams[1] is not None)
    assert graphs.captures == (1 if streams[1] is None else 2)  # decode, and where there is sound its inverse


def test_another_batch_is_another_graph_and_clips_do_not_see_each_other() -> None:
    graphs = Graphs(capture=called)
    graphed = codec(graphs)
    [first, second] = graphed.decode(planes(1), planes(2))
    [alone] = graphed.decode(*(planes(seed).map(lambda plane: plane[1:]) for seed in (1, 2)))
    assert graphs.captures == 4
    assert (second.frames.int() - alone.frames.int()).abs().max() <= 1  # one rounding to a byte
    assert not torch.equal(first.frames, second.frames)
