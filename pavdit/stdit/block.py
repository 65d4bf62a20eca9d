"""The two block types of STDiT: the same block, with attention inside a frame of P or across its frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pavdit.nn.frame_attention import FrameAttention
from pavdit.nn.rope import RopeTable
from pavdit.ops import axis_attention, gated_residual_adaln, linear_gelu


class SelfAttention(nn.Module):
    """What both attentions share: packed QKV with bias, RMS QK-norm per head, an output layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_weight = nn.Parameter(torch.ones(width // num_heads))
        self.k_weight = nn.Parameter(torch.ones(width // num_heads))
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> Tensor:
        """``(B, G, N, D)`` to ``(B, G, N, 3, A, E)``."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1))


class SpatialAttention(SelfAttention):
    """Every frame of P attends inside itself: N tokens a problem (256 at 256 x 256)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)
        self.inside = FrameAttention()

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        x = self.inside(self.project(x), valid, self.q_weight, self.k_weight)
        return self.proj(x.flatten(-2))  # (B, G, N, D)


class TemporalAttention(SelfAttention):
    """Every position of P attends across the frames, so the planes of both streams see each other.

    Args:
        width: D.
        num_heads: A.
        rope: ``(2, G, E/2)`` float32, rotary positions over the frames, or None.
    """

    def __init__(self, width: int, num_heads: int, rope: Tensor | None) -> None:
        super().__init__(width, num_heads)
        self.rope = None if rope is None else RopeTable(rope)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        rope = None if self.rope is None else self.rope()
        x = axis_attention(
            self.project(x), 1, valid=valid, q_weight=self.q_weight, k_weight=self.k_weight, rope=rope
        )
        return self.proj(x.flatten(-2))  # (B, G, N, D)


class CrossAttention(nn.Module):
    """Tokens read the condition. No norm, no gate, no QK-norm (Open-Sora 1.2)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def keys_values(self, condition: Tensor) -> Tensor:
        """Condition tokens ``(B, M, D)`` to keys and values ``(2, B, A, M, E)``."""
        return self.kv(condition).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, keys_values: Tensor, bias: Tensor | None) -> Tensor:
        """``(B, G, N, D)``; `bias` ``(B, 1, 1, M)`` is 0 on tokens and -inf on padding."""
        q = self.q(x.flatten(1, 2)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, A, G*N, E)
        k, v = keys_values.unbind(0)
        bias = None if bias is None else bias.to(q.dtype)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(-2)).view_as(x)


class Mlp(nn.Module):
    """Linear, tanh-GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(linear_gelu(x, self.fc1.weight, self.fc1.bias))


class Block(nn.Module):
    """Self-attention, cross-attention, MLP, with adaLN-single modulation.

    Source: PixArt-alpha (Chen et al., arXiv 2310.00426), 2.3; Open-Sora 1.2, STDiT3 (PAV-DiT 3.2).

    The last residual of a block is left pending: a block takes and returns ``(x, y, gate)``, meaning
    ``x + gate * y``, and the next block's LayerNorm closes it in the same pass over memory.

    Args:
        width: D.
        attention: `SpatialAttention` or `TemporalAttention`.
        num_heads: A, of the cross-attention.
        mlp_ratio: width of the MLP's hidden layer over D.

    Attributes:
        norm: closes a residual and prepares the input of attention and MLP.
    """

    norm: Callable[..., Any]

    def __init__(self, width: int, attention: SelfAttention, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm = gated_residual_adaln
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attention = attention
        self.cross = CrossAttention(width, num_heads)
        self.mlp = Mlp(width, mlp_ratio * width)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        gate: Tensor,
        modulation: Tensor,
        keys_values: Tensor,
        bias: Tensor | None,
        valid: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One block.

        Args:
            x: ``(B, G, N, D)``.
            y: ``(B, G, N, D)``, the pending residual.
            gate: ``(B or 1, F, D)``, its gate, one per frame group.
            modulation: ``(B or 1, F, 6, D)``, `table` already added: shift, scale, gate of the attention,
                then of the MLP.
            keys_values: ``(2, B, A, M, E)``, from `CrossAttention.keys_values`.
            bias: ``(B, 1 or A, 1, M)`` or None.
            valid: ``(1, G, N)`` bool, False on padding tokens, or None.

        Returns:
            x, y and gate for the next block.
        """
        x = self.attend(x, y, gate, modulation, valid)
        y = self.cross(x, keys_values, bias)
        return *self.transform(x, y, modulation), modulation.select(2, 5)

    def attend(self, x: Tensor, y: Tensor, gate: Tensor, modulation: Tensor, valid: Tensor | None) -> Tensor:
        """The pending residual and self-attention; arguments as in `forward`."""
        shift, scale, gate_msa = modulation[:, :, :3].unbind(2)  # (B or 1, F, D) each
        x, h = self.norm(x, y, gate, shift, scale)
        return add_gated(x, self.attention(h, valid), gate_msa)  # (B, G, N, D)

    def transform(self, x: Tensor, y: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """What cross-attention gave, `y`, is added, and the MLP leaves its own result pending."""
        shift, scale = modulation[:, :, 3:5].unbind(2)
        x, h = self.norm(x, y, None, shift, scale)
        return x, self.mlp(h)

    def compile_parts(self, backend: str) -> None:
        """Compile what stands before and behind the cross-attention.

        The cross-attention itself is two GEMMs and a library's attention, in which a compiler finds nothing
        to do. Outside, it makes the codes independent of the text's length and of its mask: with no mask the
        library takes its fastest kernel, and no second code is needed for that.
        """
        self.attend = compiled_part(self.attend, backend)  # type: ignore[method-assign]
        self.transform = compiled_part(self.transform, backend)  # type: ignore[method-assign]


Part = TypeVar("Part", bound=Callable[..., object])


def compiled_part(part: Part, backend: str) -> Part:
    """A function of ``(x, y, ...)`` compiled for a batch of 1 and for all larger ones."""
    compiled = torch.compile(part, fullgraph=True, backend=backend)

    def call(x: Tensor, y: Tensor, *others: Tensor | None) -> object:
        if x.shape[0] > 1:  # said before the compiler guesses from the first batch that it sees
            torch._dynamo.maybe_mark_dynamic(x, 0)
            torch._dynamo.maybe_mark_dynamic(y, 0)
        return compiled(x, y, *others)

    return cast(Part, call)


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """``x + gate * y``, rounded once.

    Args:
        x: ``(B, G, N, D)``.
        y: ``(B, G, N, D)``.
        gate: ``(B or 1, F, D)``; frame g is in group g * F // G.
    """
    x_groups, y_groups = (z.unflatten(1, (gate.shape[1], -1)) for z in (x, y))  # (B, F, G/F, N, D)
    return torch.addcmul(x_groups, gate[:, :, None, None], y_groups).to(x.dtype).flatten(1, 2)
