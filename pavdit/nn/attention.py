"""Small layers around attention that several models share. All act on the last axis alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from pavdit.ops import geglu_mlp


class QKV(nn.Linear):
    """Queries, keys and values of all heads at once, without bias: ``(..., D)`` to ``(..., 3, A, E)``."""

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__(width, 3 * num_heads * head_dim, bias=False)
        self.num_heads = num_heads
        self.head_dim = head_dim

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(-1, (3, self.num_heads, self.head_dim))


class HeadsOut(nn.Linear):
    """The heads' outputs back to the width of the model: ``(..., A, E)`` to ``(..., D)``."""

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads * head_dim, width)

    def forward(self, heads: Tensor) -> Tensor:
        return super().forward(heads.flatten(-2))


def begin_at_zero(*layers: nn.Linear) -> None:
    """Zero layers that end a residual branch, so that the branch begins as the identity."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class GegluMlp(nn.Module):
    """An MLP whose hidden values are gated by the GELU of a second projection (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return geglu_mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
