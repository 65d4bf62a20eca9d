"""Rotary position tables (Su et al., arXiv 2104.09864). The ops rotate; this file only says by which angle.

A table is float32 ``(2, N, E/2)``: cosine and sine per position and pair. Pair ``i`` is made of the
neighbouring elements ``2i`` and ``2i + 1`` of a head and has one angle, so the rotation keeps the length of
the head's vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rope_table(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Cosine and sine of ``position * base**(-i / (E/2))`` for each pair i of a head.

    Args:
        positions: ``(N,)``, any unit; only differences matter to attention.
        head_dim: E, even.
        base: the slowest pair turns about `base` times slower than the fastest.

    Returns:
        ``(2, N, E/2)`` float32.

    Raises:
        ValueError: `positions` is not a vector, or E is odd.
    """
    if positions.ndim != 1 or head_dim < 2 or head_dim % 2:
        raise ValueError(
            f"rope_table: want positions (N,) and an even head_dim, got {tuple(positions.shape)}, {head_dim}"
        )
    pair = torch.arange(head_dim // 2, dtype=torch.float64, device=positions.device)
    frequencies = base ** (-pair / (head_dim // 2))
    angles = positions.to(torch.float64)[:, None] * frequencies  # (N, E/2)
    return torch.stack([angles.cos(), angles.sin()]).to(torch.float32)


def axial_rope_table(height: int, width: int, head_dim: int, base: float = 100.0) -> Tensor:
    """Positions of a grid: the first half of a head's pairs turns with the row, the second with the column.

    The default `base` is that of axial RoPE for images (Heo et al., arXiv 2403.13298): a grid has tens of
    positions, not thousands.

    Returns:
        ``(2, height * width, E/2)`` float32, row by row.

    Raises:
        ValueError: E is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"axial_rope_table: want head_dim a multiple of 4, got {head_dim}")
    rows = rope_table(torch.arange(height), head_dim // 2, base)  # (2, height, E/4)
    columns = rope_table(torch.arange(width), head_dim // 2, base)  # (2, width, E/4)
    rows = rows[:, :, None].expand(-1, -1, width, -1)
    columns = columns[:, None].expand(-1, height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(1, 2)  # (2, height * width, E/2)


class RopeTable(nn.Module):
    """Keeps a table beside a model: it moves between devices with the model, but stays float32.

    A model cast to bfloat16 casts its floating-point buffers, and angles in bfloat16 blur positions. So the
    buffer holds the same bits as int32. It is no part of the state: a table follows from the configuration.

    Args:
        table: float32, of `rope_table` or `axial_rope_table`.
    """

    bits: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("bits", table.view(torch.int32), persistent=False)

    def forward(self) -> Tensor:
        return self.bits.view(torch.float32)
