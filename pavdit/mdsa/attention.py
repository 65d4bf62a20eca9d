"""The attention mechanisms that PAV-DiT adds around its TimeSformers: eq. 4, 5, 6 and 8.

Everything here is channels last, pre-norm, residual and begins as the identity. Where one stream must not see
the other, its update is exactly zero, whatever the other stream holds, NaN included.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pavdit.nn.attention import QKV, HeadsOut, begin_at_zero
from pavdit.nn.rope import RopeTable, axial_rope_table
from pavdit.ops import (
    axis_attention,
    block_attention,
    block_cross_attention,
    multiscale_temporal_attention,
)

SCALES = (1, 2, 4)
"""Pooling factors k_n along T (eq. 4, 5)."""


class PlaneFeatures(NamedTuple):
    """A stream's planes of width D: hw ``(B, H', W', D)``, tw ``(B, T, W', D)``, th ``(B, T, H', D)``."""

    hw: Tensor
    tw: Tensor
    th: Tensor


class SpatialSelfAttention(nn.Module):
    """Self-attention over all positions of the hw plane (PAV-DiT 3.1), with axial rotary positions.

    Args:
        grid: (H', W').
        width, num_heads, head_dim: D, A, E.
    """

    def __init__(self, grid: tuple[int, int], width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = QKV(width, num_heads, head_dim)
        self.out = HeadsOut(width, num_heads, head_dim)
        begin_at_zero(self.out)
        self.rope = RopeTable(axial_rope_table(*grid, head_dim))

    def forward(self, hw: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(hw))[:, None].unbind(-3)  # (B, 1, H', W', A, E) each
        heads = block_attention(q, k, v, block=(1, *hw.shape[1:3]), rope=self.rope())
        return hw + self.out(heads[:, 0])  # (B, H', W', D)


class MultiScaleTemporalSelfAttention(nn.Module):
    """MT-SelfAttn (eq. 4, 5) on tw or th: attention along T at three rates, per position of S.

    One LayerNorm, then queries, keys and values without bias. Pooling commutes with that projection, so with
    shared scales one matrix product serves all three (eq. 5 has one Attn_t). DeConv_k of eq. 5 is a
    transposed convolution along T with kernel = stride = k and starts at zero; it also takes the heads back
    to D.

    Args:
        width, num_heads, head_dim: D, A, E.
        share_scales: False gives each scale its own projection.
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, share_scales: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.ModuleList(
            QKV(width, num_heads, head_dim) for _ in range(1 if share_scales else len(SCALES))
        )
        # DeConv_k as a matrix: k output frames of width D from the heads of one pooled frame.
        self.deconv = nn.ParameterList(
            nn.Parameter(torch.zeros(scale * width, num_heads * head_dim)) for scale in SCALES
        )

    def forward(self, z: Tensor) -> Tensor:
        h = self.norm(z)  # (B, T, S, D)
        attended: tuple[Tensor, ...]
        if len(self.qkv) == 1:
            attended = multiscale_temporal_attention(self.qkv[0](h))
        else:
            attended = tuple(
                axis_attention(qkv(average_pool(h, scale)), axis=1)
                for qkv, scale in zip(self.qkv, SCALES, strict=True)
            )
        return self.add_deconvolutions(z, attended)  # (B, T, S, D)

    def add_deconvolutions(self, z: Tensor, attended: tuple[Tensor, ...]) -> Tensor:
        """Add DeConv_k of every scale's heads ``(B, T/k, S, A, E)`` to z ``(B, T, S, D)``."""
        for heads, weight, scale in zip(attended, self.deconv, SCALES, strict=True):
            frames = linear(heads.flatten(-2), weight)  # (B, T/k, S, k*D)
            frames = frames.unflatten(-1, (scale, z.shape[-1])).transpose(2, 3)  # (B, T/k, k, S, D)
            z = (z.unflatten(1, frames.shape[1:3]) + frames).flatten(1, 2)  # reads the view: no copy
        return z


def average_pool(x: Tensor, scale: int) -> Tensor:
    """Mean of every `scale` neighbouring frames: ``(B, T, ...)`` to ``(B, T/scale, ...)`` (eq. 4)."""
    return x if scale == 1 else x.unflatten(1, (-1, scale)).mean(2)


class PlaneSelfAttention(nn.Module):
    """A stream's own plane attention: spatial on hw, MT-SelfAttn (eq. 4, 5) on tw and th."""

    def __init__(
        self,
        grid: tuple[int, int],
        width: int,
        num_heads: int,
        head_dim: int,
        *,
        share_scales: bool,
        hw_self_attn: bool,
        mt_self_attn: bool,
    ) -> None:
        super().__init__()
        self.hw: nn.Module = nn.Identity()
        self.tw: nn.Module = nn.Identity()
        self.th: nn.Module = nn.Identity()
        if hw_self_attn:
            self.hw = SpatialSelfAttention(grid, width, num_heads, head_dim)
        if mt_self_attn:
            self.tw = MultiScaleTemporalSelfAttention(width, num_heads, head_dim, share_scales)
            self.th = MultiScaleTemporalSelfAttention(width, num_heads, head_dim, share_scales)

    def forward(self, planes: PlaneFeatures) -> PlaneFeatures:
        return PlaneFeatures(self.hw(planes.hw), self.tw(planes.tw), self.th(planes.th))


class CrossStreamAttention(nn.Module):
    """Bi-Block CrossAttn (eq. 8): each stream queries the other inside non-overlapping 3-D blocks.

    Both directions start from the same inputs. Without positions: row and column of a video frame have no
    counterpart in the mel bin and time of a mel image. With a block as large as the input it is the CA of eq.
    6.

    Args:
        width, num_heads, head_dim: D, A, E.
    """

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.video_norm = nn.LayerNorm(width)
        self.audio_norm = nn.LayerNorm(width)
        self.video_qkv = QKV(width, num_heads, head_dim)
        self.audio_qkv = QKV(width, num_heads, head_dim)
        self.video_out = HeadsOut(width, num_heads, head_dim)
        self.audio_out = HeadsOut(width, num_heads, head_dim)
        begin_at_zero(self.video_out, self.audio_out)

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        block: tuple[int, int, int],
        video_sees_audio: Tensor | None = None,
        audio_sees_video: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update ``(B, T, H', W', D)`` of both streams; masks are ``(B,)`` bool, None where all see."""
        qkv_video = self.video_qkv(self.video_norm(video))  # (B, T, H', W', 3, A, E)
        qkv_audio = self.audio_qkv(self.audio_norm(audio))
        qkv_video = _drop_unseen(qkv_video, video_sees_audio, audio_sees_video)
        qkv_audio = _drop_unseen(qkv_audio, audio_sees_video, video_sees_audio)
        for_video, for_audio = block_cross_attention(qkv_video, qkv_audio, block)
        return (
            video + _where_seen(video_sees_audio, self.video_out(for_video)),
            audio + _where_seen(audio_sees_video, self.audio_out(for_audio)),
        )


def _drop_unseen(qkv: Tensor, sees: Tensor | None, is_seen: Tensor | None) -> Tensor:
    """Zero the queries of samples that do not look and the keys and values of samples that nobody looks at.

    Zeroing the result alone would still let NaN through in the backward pass, as 0 * NaN.
    """
    if sees is None and is_seen is None:
        return qkv
    everyone = qkv.new_ones(qkv.shape[0], dtype=torch.bool)
    q = everyone if sees is None else sees
    kv = everyone if is_seen is None else is_seen
    keep = torch.stack([q, kv, kv], dim=1)  # (B, 3)
    return torch.where(keep[:, None, None, None, :, None, None], qkv, 0)


def _where_seen(sees: Tensor | None, update: Tensor) -> Tensor:
    return update if sees is None else torch.where(sees.view(-1, *[1] * (update.ndim - 1)), update, 0)


class GroupCrossModalAttention(nn.Module):
    """GCM-Attn (eq. 6): ``z_a = CA(z_v, z_a) + z_a`` and the reverse, for each pair of planes."""

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.hw = CrossStreamAttention(width, num_heads, head_dim)
        self.tw = CrossStreamAttention(width, num_heads, head_dim)
        self.th = CrossStreamAttention(width, num_heads, head_dim)

    def forward(
        self,
        video: PlaneFeatures,
        audio: PlaneFeatures,
        video_sees_audio: Tensor | None = None,
        audio_sees_video: Tensor | None = None,
    ) -> tuple[PlaneFeatures, PlaneFeatures]:
        pairs = []
        for cross, z_v, z_a in zip((self.hw, self.tw, self.th), video, audio, strict=True):
            whole_plane = (1, z_v.shape[1], z_v.shape[2])
            z_v, z_a = cross(z_v[:, None], z_a[:, None], whole_plane, video_sees_audio, audio_sees_video)
            pairs.append((z_v[:, 0], z_a[:, 0]))  # (B, rows, columns, D) each
        return PlaneFeatures(*(v for v, _ in pairs)), PlaneFeatures(*(a for _, a in pairs))
