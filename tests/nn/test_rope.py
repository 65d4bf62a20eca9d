"""Rotary tables: lengths kept, scores of relative positions only, axes not confused."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_equation
from torch import Tensor

from pavdit.nn.rope import RopeTable, axial_rope_table, rope_table
from pavdit.ops import axis_attention


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Neighbouring elements of ``(N, E)`` as complex numbers, times the table's."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(table[0], table[1])).flatten(-2)


def test_table_is_the_equation() -> None:
    table = rope_table(torch.tensor([0.0, 3.0]), 8, base=100.0)
    angles = [3.0 * 100.0 ** (-i / 4) for i in range(4)]
    assert table.shape == (2, 2, 4) and table.dtype == torch.float32
    assert table[0, 0].tolist() == [1, 1, 1, 1] and table[1, 0].tolist() == [0, 0, 0, 0]
    assert_equation(table[0, 1], torch.tensor(angles).cos())
    assert_equation(table[1, 1], torch.tensor(angles).sin())


def test_rotation_keeps_length() -> None:
    x = torch.randn(7, 16)
    assert_equation(rotate(x, rope_table(torch.arange(7), 16)).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("shift", [1, 5])
def test_scores_depend_on_the_distance_only(shift: int) -> None:
    q, k = torch.randn(7, 16), torch.randn(7, 16)
    here, there = rope_table(torch.arange(7), 16), rope_table(torch.arange(7) + shift, 16)
    scores = rotate(q, here) @ rotate(k, here).T
    assert_equation(rotate(q, there) @ rotate(k, there).T, scores)
    assert not torch.allclose(scores, q @ k.T)


def test_attention_with_the_table_depends_on_the_distance_only() -> None:
    qkv = torch.randn(3, 6, 3, 2, 8)
    here, there = rope_table(torch.arange(6), 8), rope_table(torch.arange(6) + 11, 8)
    out = axis_attention(qkv, 1, rope=here)
    assert_equation(axis_attention(qkv, 1, rope=there), out)
    assert not torch.allclose(axis_attention(qkv, 1, rope=rope_table(2 * torch.arange(6), 8)), out)


def test_axial_table_turns_half_the_pairs_by_row_and_half_by_column() -> None:
    height, width = 3, 5
    table = axial_rope_table(height, width, 8).unflatten(1, (height, width))  # (2, 3, 5, 4)
    rows, columns = table[..., :2], table[..., 2:]
    assert torch.equal(rows, rows[:, :, :1].expand_as(rows))
    assert torch.equal(columns, columns[:, :1].expand_as(columns))
    assert torch.equal(rows[:, :, 0], rope_table(torch.arange(height), 4, 100.0))
    assert torch.equal(columns[:, 0], rope_table(torch.arange(width), 4, 100.0))


def test_kept_table_survives_a_cast_of_the_model() -> None:
    table = rope_table(torch.arange(5), 8)
    kept = RopeTable(table)
    assert torch.equal(kept.to(torch.bfloat16)(), table)
    assert not kept.state_dict()


def test_odd_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rope_table: want .* even head_dim, got \(4,\), 7"):
        rope_table(torch.arange(4), 7)


def test_head_that_no_two_axes_share_is_refused() -> None:
    with pytest.raises(ValueError, match="axial_rope_table: want head_dim a multiple of 4, got 6"):
        axial_rope_table(2, 2, 6)
