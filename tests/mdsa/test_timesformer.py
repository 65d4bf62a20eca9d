"""Divided attention: time mixes frames of one position, space mixes positions of one frame."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from numerics import assert_equation
from torch import Tensor, nn
from zeros import fill_zeros

from pavdit.mdsa.timesformer import TimeSformer, TimeSformerLayer

GRID = (4, 3, 5)


def timesformer() -> TimeSformer:
    return fill_zeros(TimeSformer(GRID, width=16, depth=1, num_heads=2, head_dim=8, mlp_ratio=2))


def pairs_rotated(x: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring elements of ``(..., N, E)`` by a ``(2, N, E/2)`` table."""
    even, odd, (cos, sin) = x[..., 0::2], x[..., 1::2], table
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def attention(
    x: Tensor, norm: nn.Module, qkv: nn.Linear, out: nn.Module, table: Tensor, heads: int
) -> Tensor:
    """Plain multi-head self-attention over the last axis but one of ``(..., N, D)``."""
    q, k, v = (
        (norm(x) @ qkv.weight.T).unflatten(-1, (3, heads, -1)).movedim(-2, -4).unbind(-2)
    )  # (..., A, N, E)
    q, k = pairs_rotated(q, table), pairs_rotated(k, table)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return x + (weights @ v).movedim(-3, -2).flatten(-2) @ out.weight.T + out.bias


def test_layer_is_time_then_space_then_mlp() -> None:
    model = timesformer().double()
    layer = model.layers[0]
    x = torch.randn(2, *GRID, 16, dtype=torch.float64)
    y = attention(
        x.movedim(1, 3), layer.time_norm, layer.time_qkv, layer.time_out, model.time_rope().double(), 2
    ).movedim(3, 1)
    y = attention(
        y.flatten(2, 3), layer.space_norm, layer.space_qkv, layer.space_out, model.space_rope().double(), 2
    ).view_as(x)
    assert_equation(model(x), y + layer.mlp(layer.mlp_norm(y)))


def test_fresh_layers_pass_their_input() -> None:
    x = torch.randn(2, *GRID, 16)
    assert torch.equal(TimeSformer(GRID, 16, depth=2, num_heads=2, head_dim=8, mlp_ratio=2)(x), x)


def silence(layer: TimeSformerLayer, *parts: str) -> None:
    for part in parts:
        for parameter in getattr(layer, part).parameters():
            nn.init.zeros_(parameter)


@pytest.mark.parametrize(
    ("silent", "reached"),
    [("space_out", (slice(None), 1, 2)), ("time_out", (3, slice(None), slice(None)))],
    ids=["time", "space"],
)
def test_axes_are_not_confused(silent: str, reached: tuple[int | slice, ...]) -> None:
    model = timesformer()
    silence(model.layers[0], silent)
    x = torch.randn(1, *GRID, 16)
    moved = x.clone()
    moved[0, 3, 1, 2] += torch.randn(16)  # a constant would vanish in the LayerNorm
    changed = (model(moved) != model(x)).any(-1)[0]
    want = torch.zeros(GRID, dtype=torch.bool)
    want[reached] = True
    assert torch.equal(changed, want)


def test_layer_compiles_without_a_graph_break() -> None:
    model = timesformer().double()
    x = torch.randn(2, *GRID, 16, dtype=torch.float64)
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, backend="eager", fullgraph=True)
    assert_equation(compiled(x), model(x))
