"""Projectors: the right axis goes, the token's own output is read, the short last layer is the whole one."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_equation
from zeros import fill_zeros

from pavdit.mdsa.projection import Projector

GRID = (4, 3, 5)
AXES = pytest.mark.parametrize("axis", [1, 2, 3], ids=["hw", "tw", "th"])


def projector(axis: int) -> Projector:
    torch.manual_seed(axis)
    return fill_zeros(
        Projector(axis, GRID[axis - 1], width=16, depth=3, num_heads=2, head_dim=8, mlp_dim=24)
    ).double()


def tokens() -> torch.Tensor:
    return torch.randn(2, *GRID, 16, dtype=torch.float64)


@AXES
def test_plane_is_the_first_output_of_the_whole_transformer(axis: int) -> None:
    project, u = projector(axis), tokens()
    x = project.sequences(u)
    for layer in (*project.layers, project.last):
        x = layer(x, axis)
    assert_equation(project(u), x.select(axis, 0))


@AXES
def test_sequence_is_the_token_then_the_axis_in_order(axis: int) -> None:
    project, u = projector(axis), tokens()
    x = project.sequences(u)
    assert torch.equal(x.select(axis, 0), project.token.expand_as(x.select(axis, 0)))
    for index in range(GRID[axis - 1]):
        assert torch.equal(x.select(axis, index + 1), u.select(axis, index) + project.positions[index])


@AXES
def test_plane_keeps_the_other_two_axes(axis: int) -> None:
    project, u = projector(axis), tokens()
    moved = u.clone()
    place = (2, 1, 4)
    moved[(slice(None), *place)] += torch.randn(
        16, dtype=torch.float64
    )  # a constant would vanish in LayerNorm
    changed = (project(moved) != project(u)).any(-1)[0]
    kept = tuple(n for index, n in enumerate(place, start=1) if index != axis)
    want = torch.zeros(changed.shape, dtype=torch.bool)
    want[kept] = True
    assert project(u).shape == (2, *(n for index, n in enumerate(GRID, start=1) if index != axis), 16)
    assert torch.equal(changed, want)


@AXES
def test_no_element_of_the_axis_is_special(axis: int) -> None:
    """Without positions the order along the dropped axis cannot matter: element 0 is not what is read."""
    project, u = projector(axis), tokens()
    torch.nn.init.zeros_(project.positions)
    assert_equation(project(u.flip(axis)), project(u))


@AXES
def test_positions_make_the_order_matter(axis: int) -> None:
    project, u = projector(axis), tokens()
    assert not torch.allclose(project(u.flip(axis)), project(u))


def test_projector_compiles_without_a_graph_break() -> None:
    project, u = projector(2), tokens()
    compiled = torch.compile(project, backend="eager", fullgraph=True)
    assert_equation(compiled(u), project(u))
