"""The coupled U-Nets: one for frames, one for the wave, attending to each other (arXiv 2212.09478, 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pavdit.baselines.mm_diffusion.blocks import Resample, ResBlock, VideoConv, begin_at_zero
from pavdit.baselines.mm_diffusion.config import UNetConfig
from pavdit.baselines.mm_diffusion.cross_attention import RandomShiftAttention
from pavdit.stdit.embed import sinusoid


class Layer(nn.Module):
    """A residual block, perhaps attention between the streams, perhaps a block that changes the resolution.

    Attributes:
        shift: index of its attention's shift among those of a forward pass; None: it has none.
    """

    def __init__(
        self,
        block: ResBlock,
        cross: RandomShiftAttention | None = None,
        after: ResBlock | None = None,
        shift: int | None = None,
    ) -> None:
        super().__init__()
        self.block, self.cross, self.after, self.shift = block, cross, after, shift

    def forward(self, video: Tensor, audio: Tensor, time: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        video, audio = self.block(video, audio, time)
        if self.cross is not None:
            video, audio = self.cross(video, audio, None if self.shift is None else shifts[self.shift])
        if self.after is not None:
            video, audio = self.after(video, audio, time)
        return video, audio


class CoupledUNet(nn.Module):
    """The noise in a noisy volume and a noisy wave.

    Args:
        config: sizes.
        num_frames: T, what windows of the attention between the streams lie in.
        video_channels, audio_channels: of what comes and goes: colours, and 1.

    Attributes:
        windows: of the shifted attentions, in the order of the shifts.
    """

    def __init__(
        self, config: UNetConfig, num_frames: int, video_channels: int = 3, audio_channels: int = 1
    ) -> None:
        super().__init__()
        self.config, self.num_frames = config, num_frames
        self.windows: list[int] = []
        width, depth = config.width, len(config.multipliers)
        self.time_in, self.time_out = nn.Linear(width, width), nn.Linear(width, width)
        channels = config.multipliers[0] * width
        self.video_in = VideoConv(video_channels, channels)
        self.audio_in = nn.Conv1d(audio_channels, channels, 3, padding=1)
        skips, count, factor = [channels], 1, 1  # count: blocks on the way, which dilation follows
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.num_blocks):
                self.down.append(self._layer(channels, multiplier * width, factor, count))
                channels, count = multiplier * width, count + 1
                skips.append(channels)
            if level < depth - 1:
                self.down.append(Layer(self._block(channels, channels, count, resample="down")))
                count, factor = count + 1, factor * 2
                skips.append(channels)
        heads = config.num_heads
        self.middle = Layer(
            self._block(channels, channels, count, video_heads=heads, audio_heads=heads),
            RandomShiftAttention(channels, config.cross_head_dim, config.groups, window=None),
            self._block(channels, channels, count, video_heads=heads, audio_heads=heads),
        )
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for number in range(config.num_blocks + 1):
                count -= 1
                layer = self._layer(channels + skips.pop(), multiplier * width, factor, count)
                channels = multiplier * width
                if level and number == config.num_blocks:
                    layer.after = self._block(channels, channels, count - 1, resample="up")
                    factor //= 2
                self.up.append(layer)
        self.video_norm = nn.GroupNorm(config.groups, channels)
        self.audio_norm = nn.GroupNorm(config.groups, channels)
        self.video_out = begin_at_zero(nn.Conv3d(channels, video_channels, 3, padding=1))
        self.audio_out = begin_at_zero(nn.Conv1d(channels, audio_channels, 3, padding=1))

    def _block(
        self,
        in_width: int,
        out_width: int,
        count: int,
        *,
        resample: Resample = None,
        video_heads: int = 0,
        audio_heads: int = 0,
    ) -> ResBlock:
        config = self.config
        return ResBlock(
            in_width,
            out_width,
            config.width,
            config.groups,
            config.dropout,
            2 ** (count % config.dilation_cycle),
            resample=resample,
            video_heads=video_heads,
            audio_heads=audio_heads,
        )

    def _layer(self, in_width: int, out_width: int, factor: int, count: int) -> Layer:
        config = self.config
        heads = config.num_heads if factor in config.attention else 0
        block = self._block(in_width, out_width, count, video_heads=heads)
        if factor not in config.cross_attention:
            return Layer(block)
        window = config.cross_attention[factor]
        cross = RandomShiftAttention(out_width, config.cross_head_dim, config.groups, window)
        self.windows.append(window)
        return Layer(block, cross, shift=len(self.windows) - 1)

    def draw_shifts(self, random: torch.Generator | None = None) -> Tensor:
        """Shifts of one forward pass: ``(len(self.windows),)`` int64 on the CPU, each from 0 to T - window.

        The paper draws one for each attention of each pass; all clips of a batch share it.
        """
        draws = torch.rand(len(self.windows), generator=random)
        room = torch.tensor([self.num_frames - window + 1 for window in self.windows])
        return (draws * room).long()

    def forward(
        self, video: Tensor, audio: Tensor, timestep: Tensor, shifts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise of both.

        Args:
            video: ``(B, 3, T, H, W)``.
            audio: ``(B, 1, S)``.
            timestep: ``(B,)``, from 0 (least noise), not necessarily whole.
            shifts: as from `draw_shifts`, on the device.

        Returns:
            Two tensors of the shapes of `video` and `audio`.
        """
        embedded = sinusoid(timestep, self.config.width).to(self.time_in.weight.dtype)
        time = self.time_out(silu(self.time_in(embedded)))  # (B, D)
        video = self.video_in(video.contiguous(memory_format=torch.channels_last_3d))
        audio = self.audio_in(audio)
        kept = [(video, audio)]
        for layer in self.down:
            video, audio = layer(video, audio, time, shifts)
            kept.append((video, audio))
        video, audio = self.middle(video, audio, time, shifts)
        for layer in self.up:
            skip_v, skip_a = kept.pop()
            video, audio = torch.cat([video, skip_v], 1), torch.cat([audio, skip_a], 1)
            video, audio = layer(video, audio, time, shifts)
        return self.video_out(silu(self.video_norm(video))), self.audio_out(silu(self.audio_norm(audio)))
