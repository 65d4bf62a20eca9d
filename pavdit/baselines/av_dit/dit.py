"""DiT, the image transformer that AV-DiT leaves as it is (Peebles & Xie, arXiv 2212.09748)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pavdit.baselines.av_dit.config import DiTConfig
from pavdit.ops import adaln_modulate
from pavdit.stdit.block import Mlp, add_gated
from pavdit.stdit.embed import PATCH, ScalarEmbedder, patchify, sinusoid, unpatchify


class Attention(nn.Module):
    """Self-attention with projections of their own for q, k and v, so that each can be adapted."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, G, N, D)``, every group by itself."""
        groups = x.flatten(0, 1)  # (B * G, N, D)
        q, k, v = (
            layer(groups).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )  # (B * G, A, N, E) each
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(-2)).view_as(x)


class Block(nn.Module):
    """Attention and MLP with adaLN-Zero: shift, scale and gate of both come from the condition."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.modulation = nn.Linear(width, 6 * width)

    def modulate(self, condition: Tensor) -> tuple[Tensor, ...]:
        """``(B, D)`` to shift, scale, gate of the attention, then of the MLP, ``(B, 1, D)`` each."""
        return self.modulation(functional.silu(condition)).unflatten(-1, (6, 1, -1)).unbind(1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``(B, G, N, D)`` to the same; every group is a picture."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulate(condition)
        x = add_gated(x, self.attention(adaln_modulate(x, shift, scale)), gate)
        return add_gated(x, self.mlp(adaln_modulate(x, shift_mlp, scale_mlp)), gate_mlp)


class ImageDiT(nn.Module):
    """Noise, and what its variances are said to be, of noisy latents of pictures.

    Args:
        config: sizes.
        channels: C of the latents.
    """

    blocks: nn.ModuleList

    def __init__(self, config: DiTConfig, channels: int) -> None:
        super().__init__()
        width = config.width
        self.config, self.channels = config, channels
        self.embed = nn.Linear(channels * PATCH * PATCH, width)
        self.timestep = ScalarEmbedder(width)
        self.label = nn.Embedding(config.num_classes + 1, width)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, 2 * channels * PATCH * PATCH)

    def condition(self, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Times ``(B,)`` from 0 (data) on, and classes; None: no class. ``(B, D)``."""
        if label is None:
            label = torch.full(t.shape, self.config.num_classes, device=t.device)
        return self.timestep(t) + self.label(label)

    def last(self, x: Tensor, condition: Tensor) -> Tensor:
        """The norm of the final layer: ``(B, G, N, D)`` to the same."""
        shift, scale = self.final_modulation(functional.silu(condition)).unflatten(-1, (2, 1, -1)).unbind(1)
        return adaln_modulate(x, shift, scale)

    def forward(self, latent: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Pictures ``(B, C, G, rows, columns)`` of G independent frames to ``(B, 2 C, G, rows, columns)``."""
        condition = self.condition(t, label)
        x = with_positions(self.embed(patchify(latent)), latent)
        for block in self.blocks:
            x = block(x, condition)
        return unpatchify(self.final(self.last(x, condition)), latent.shape[-2])


def with_positions(x: Tensor, latent: Tensor) -> Tensor:
    """Add sin-cos of column and row of every patch of ``(..., rows, columns)`` to tokens ``(B, G, N, D)``.

    Halves of D: the column's sines, its cosines, the row's sines, its cosines, as in facebookresearch/DiT.
    """
    rows, columns, width = latent.shape[-2] // PATCH, latent.shape[-1] // PATCH, x.shape[-1]
    axes = []
    for length, shape in ((columns, (1, columns)), (rows, (rows, 1))):
        cos, sin = sinusoid(torch.arange(length, device=x.device), width // 2).chunk(2, dim=-1)
        axes.append(torch.cat([sin, cos], dim=-1).view(*shape, -1).expand(rows, columns, -1))
    return x + torch.cat(axes, dim=-1).flatten(0, 1).to(x.dtype)
