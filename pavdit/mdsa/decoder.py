"""One stream's decoder: planes to a token volume (PAV-DiT eq. 7), and the volume to frames."""

from __future__ import annotations

from torch import Tensor, nn

from pavdit.config import MDSAConfig
from pavdit.latents import Planes
from pavdit.mdsa.attention import PlaneFeatures
from pavdit.mdsa.bottleneck import FromLatent
from pavdit.mdsa.patch import ToPixels
from pavdit.mdsa.timesformer import TimeSformer


def expand_and_sum(planes: PlaneFeatures) -> Tensor:
    """``Z[t,h,w] = hw[h,w] + tw[t,w] + th[t,h]`` per channel (eq. 7): ``(B, T, H', W', D)``."""
    return planes.hw[:, None] + planes.tw[:, :, None] + planes.th[:, :, :, None]


class StreamDecoder(nn.Module):
    """Eq. 7, then (in `MDSA.decode`, where both streams meet) eq. 8, then a TimeSformer and pixels.

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
        self.from_latent = FromLatent(config.latent_channels, config.width)
        self.timesformer = TimeSformer(
            grid,
            config.width,
            config.decoder_depth,
            config.num_heads,
            config.head_dim,
            config.mlp_ratio,
        )
        self.norm = nn.LayerNorm(config.width)
        self.to_pixels = ToPixels(channels, patch, config.width)

    def expand(self, planes: Planes) -> Tensor:
        """Latent planes to the volume Z ``(B, T, H', W', D)`` of eq. 7."""
        return expand_and_sum(self.from_latent(planes))

    def forward(self, volume: Tensor) -> Tensor:
        """Z, after its exchange with the other stream, to frames ``(B, channels, T, rows, columns)``."""
        return self.to_pixels(self.norm(self.timesformer(volume)))
