"""One stream's encoder: tokens, their 3-D features, three planes (PAV-DiT eq. 1, 2)."""

from __future__ import annotations

from torch import Tensor, nn

from pavdit.config import MDSAConfig
from pavdit.mdsa.attention import PlaneFeatures, PlaneSelfAttention
from pavdit.mdsa.patch import PatchEmbed
from pavdit.mdsa.projection import Projector
from pavdit.mdsa.timesformer import TimeSformer


class StreamEncoder(nn.Module):
    """``u = f_thw(x)`` (eq. 1), ``z = [f_t(u), f_h(u), f_w(u)]`` (eq. 2), then eq. 4 and 5 on those planes.

    Args:
        config: sizes.
        grid: (T, H', W').
        channels: of the frames, 3 or 1.
        patch: (rows, columns) of a patch.
    """

    def __init__(
        self, config: MDSAConfig, grid: tuple[int, int, int], channels: int, patch: tuple[int, int]
    ) -> None:
        super().__init__()
        self.patch = PatchEmbed(channels, patch, config.width)
        self.timesformer = TimeSformer(
            grid,
            config.width,
            config.encoder_depth,
            config.num_heads,
            config.head_dim,
            config.mlp_ratio,
        )
        self.to_hw, self.to_tw, self.to_th = (
            Projector(
                axis,
                length,
                config.width,
                config.projector_depth,
                config.projector_num_heads,
                config.projector_head_dim,
                config.projector_mlp_dim,
            )
            for axis, length in enumerate(grid, start=1)
        )
        self.plane_attention = PlaneSelfAttention(
            grid[1:],
            config.width,
            config.fusion_num_heads,
            config.fusion_head_dim,
            share_scales=config.share_scales,
            hw_self_attn=config.hw_self_attn,
            mt_self_attn=config.mt_self_attn,
        )

    def forward(self, x: Tensor) -> PlaneFeatures:
        """Frames ``(B, channels, T, rows, columns)`` to planes of width D."""
        u = self.timesformer(self.patch(x))  # (B, T, H', W', D), eq. 1
        planes = PlaneFeatures(hw=self.to_hw(u), tw=self.to_tw(u), th=self.to_th(u))  # eq. 2
        return self.plane_attention(planes)
