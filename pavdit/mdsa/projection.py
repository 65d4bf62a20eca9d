"""The three projectors that drop one axis of the token volume each (PAV-DiT eq. 2, 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pavdit.nn.attention import QKV, HeadsOut, Mlp, begin_at_zero
from pavdit.nn.recompute import Recomputable
from pavdit.ops import axis_attention, axis_query_attention


class ProjectorLayer(nn.Module):
    """Self-attention along one axis and an MLP, pre-norm, residual. The MLP begins at zero; attention must
    not, for the summary token learns of its sequence through it alone."""

    def __init__(self, width: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = QKV(width, num_heads, head_dim)
        self.out = HeadsOut(width, num_heads, head_dim)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_dim)
        begin_at_zero(self.mlp.fc2)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        x = x + self.out(axis_attention(self.qkv(self.norm(x)), axis))
        return x + self.mlp(self.mlp_norm(x))

    def first_only(self, x: Tensor, axis: int) -> Tensor:
        """`forward` at index 0 of `axis` alone, which stays, of length 1: one query a sequence."""
        h = self.norm(x)
        heads = (self.qkv.num_heads, self.qkv.head_dim)
        inner = self.qkv.num_heads * self.qkv.head_dim
        q = linear(h.narrow(axis, 0, 1), self.qkv.weight[:inner]).unflatten(-1, (1, *heads))
        kv = linear(h, self.qkv.weight[inner:]).unflatten(-1, (2, *heads))
        x = x.narrow(axis, 0, 1) + self.out(axis_query_attention(q, kv, axis))
        return x + self.mlp(self.mlp_norm(x))


class Projector(Recomputable):
    """One of f^t, f^h, f^w of eq. 2: a transformer along the axis that is dropped.

    A learned summary token leads every sequence, and its own output is the plane. With a sum over r in mind
    this is eq. 3's view of u: what varies along the dropped axis is folded into channels, what remains is a
    matrix of the other two axes.

    Args:
        axis: the axis of ``(B, T, H', W', D)`` to drop: 1 gives hw (f^t), 2 gives tw (f^h), 3 gives th (f^w).
        length: tokens along that axis.
        width: D.
        depth, num_heads, head_dim, mlp_dim: of the transformer.
    """

    def __init__(
        self, axis: int, length: int, width: int, depth: int, num_heads: int, head_dim: int, mlp_dim: int
    ) -> None:
        super().__init__()
        self.axis = axis
        # Small beside the tokens: what all clips share must not drown what tells them apart.
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))  # the summary token stands alone
        sizes = (width, num_heads, head_dim, mlp_dim)
        self.layers = nn.ModuleList(ProjectorLayer(*sizes) for _ in range(depth - 1))
        self.last = ProjectorLayer(*sizes)

    def sequences(self, u: Tensor) -> Tensor:
        """The summary token, then the tokens with positions: ``(B, T, H', W', D)``, one longer on `axis`."""
        shape = [1] * u.ndim
        shape[self.axis], shape[-1] = self.positions.shape
        u = u + self.positions.view(shape)
        summary_shape = list(u.shape)
        summary_shape[self.axis] = 1
        return torch.cat([self.token.to(u.dtype).expand(summary_shape), u], dim=self.axis)

    def forward(self, u: Tensor) -> Tensor:
        x = self.sequences(u)
        for layer in self.layers:
            x = self.run(layer, x, self.axis)
        return self.run(self.last.first_only, x, self.axis).squeeze(self.axis)  # (B, rows, columns, D)
