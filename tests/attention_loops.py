"""Attention as its equation reads: index loops over single vectors. Slow, differentiable, the ops' oracle."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention_row(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """``sum_j exp(q k_j / sqrt(E)) v_j / sum_j exp(q k_j / sqrt(E))`` for a query ``(E,)``; 0 if no keys."""
    if not keys:
        return torch.zeros_like(query)
    weights = [torch.exp((query * key).sum() / math.sqrt(query.shape[0])) for key in keys]
    total = torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)
    return total / torch.stack(weights).sum()


def norm_and_rotate_vector(x: Tensor, weight: Tensor | None, rope: Tensor | None, position: int) -> Tensor:
    """RMS norm of one vector ``(E,)``, then the rotation of its pairs by the angles of `position`."""
    if weight is not None:
        x = x / torch.sqrt((x * x).sum() / x.shape[0] + 1e-6) * weight
    if rope is None:
        return x
    turned = []
    for pair in range(x.shape[0] // 2):
        cos, sin = rope[0, position, pair], rope[1, position, pair]
        first, second = x[2 * pair], x[2 * pair + 1]
        turned += [first * cos - second * sin, first * sin + second * cos]
    return torch.stack(turned)


def eager_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain attention of ``(..., L, E)`` in the dtype given, every step rounded to it."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores, dim=-1) @ v


def eager_norm_and_rotate(x: Tensor, weight: Tensor, rope: Tensor | None) -> Tensor:
    """RMS norm and rotation of ``(..., N, A, E)`` in the dtype given, every step rounded to it."""
    x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight.to(x.dtype)
    if rope is None:
        return x
    cos, sin = rope.to(x.dtype).unsqueeze(-2).unbind(0)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2)


def angles(length: int, head_dim: int) -> Tensor:
    """A rotary table ``(2, length, E/2)``, float32, with an angle of its own for every position and pair."""
    turn = torch.arange(length)[:, None] * 0.7 + torch.arange(head_dim // 2) * 0.3
    return torch.stack((turn.cos(), turn.sin()))
