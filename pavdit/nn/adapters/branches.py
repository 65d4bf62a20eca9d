"""Adapters that are layers of their own, behind or beside a frozen module (AV-DiT, Wang et al., 2).

Both begin at zero, so that the module begins as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pavdit.nn.attention import begin_at_zero
from pavdit.nn.twin import twin

HEAD_DIM = 64
"""Of the temporal adapter's values, where nothing else is said."""

Module = TypeVar("Module", bound=nn.Module)


class TemporalAdapter(nn.Module):
    """Attention across frames at one position, its queries and keys narrower than its values.

    The frames are told apart by sin-cos positions, which the paper does not mention: without any, a film and
    its frames in another order would be alike.

    Args:
        width: D.
        num_heads: A; None: of `HEAD_DIM` as far as they go.
        ratio: D over the width of queries and keys.

    Raises:
        ValueError: the heads do not divide the widths.
    """

    def __init__(self, width: int, num_heads: int | None = None, ratio: int = 8) -> None:
        super().__init__()
        self.num_heads = num_heads or max(1, width // HEAD_DIM)
        if width % 2 or width % self.num_heads or width % (ratio * self.num_heads):
            raise ValueError(
                f"TemporalAdapter: want an even width, a multiple of num_heads * ratio = "
                f"{self.num_heads} * {ratio}, got {width}"
            )
        self.q = nn.Linear(width, width // ratio)
        self.k = nn.Linear(width, width // ratio)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        begin_at_zero(self.proj)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, ..., D)`` to the same shape, what is to be added."""
        frames, width = x.shape[1], x.shape[-1]
        x = x.movedim(1, -2)  # (B, ..., T, D)
        where = x.shape
        x = x.reshape(-1, frames, width) + frame_positions(frames, width, x.device).to(x.dtype)
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )  # (B * ..., A, T, E / ratio) twice, (B * ..., A, T, E)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(-2)).view(where).movedim(-2, 1)


def frame_positions(frames: int, width: int, device: torch.device) -> Tensor:
    """Sin-cos of the frame's number, ``(T, D)`` float32 (Vaswani et al., arXiv 1706.03762, 3.5)."""
    exponent = torch.arange(width // 2, dtype=torch.float32, device=device) / (width // 2)
    number = torch.arange(frames, dtype=torch.float32, device=device)
    angles = number[:, None] * torch.pow(10_000.0, -exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class BottleneckMLP(nn.Module):
    """A narrow MLP beside another one: linear, GELU, linear (Houlsby et al., arXiv 1902.00751).

    Args:
        width: D.
        ratio: D over the width of its hidden layer.

    Raises:
        ValueError: the ratio does not divide the width.
    """

    def __init__(self, width: int, ratio: int = 2) -> None:
        super().__init__()
        if width % ratio:
            raise ValueError(f"BottleneckMLP: want a width that ratio {ratio} divides, got {width}")
        self.down = nn.Linear(width, width // ratio)
        self.up = nn.Linear(width // ratio, width)
        begin_at_zero(self.up)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to the same shape, what is to be added."""
        return self.up(functional.gelu(self.down(x)))


class Branched(nn.Module):
    """A frozen module with `BottleneckMLP` beside it and `TemporalAdapter` behind it, by `with_branches`."""

    branches: nn.ModuleList
    branch_strengths: tuple[float, ...]

    def forward(self, x: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 (whatever the module takes)
        y: Tensor = super().forward(x, *others)  # type: ignore[misc]
        out = y
        for branch, strength in zip(self.branches, self.branch_strengths, strict=True):
            out = out + strength * branch(y if isinstance(branch, TemporalAdapter) else x)
        return out


@cache
def _branched(kind: type[nn.Module]) -> type[Branched]:
    return type(f"Branched{kind.__name__}", (Branched, kind), {})


def with_branches(module: Module, branches: Sequence[tuple[nn.Module, float]]) -> Module:
    """The same module, which is not changed, with branches of some strengths."""
    second: Any = twin(module)
    second.__class__ = _branched(type(module))  # type: ignore[arg-type]
    second.branches = nn.ModuleList(branch for branch, _ in branches)
    second.branch_strengths = tuple(strength for _, strength in branches)
    return second  # type: ignore[no-any-return]
