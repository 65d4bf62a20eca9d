"""Convolutions, self-attention and the residual block of the coupled U-Nets (arXiv 2212.09478, 3.2).

A volume is ``(B, C, T, H, W)`` with its channels innermost in memory (`torch.channels_last_3d`), so that its
frames, its columns of pixels and its tokens are views. Sound is ``(B, C, S)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, interpolate, scaled_dot_product_attention, silu

from pavdit.baselines.mm_diffusion.config import AUDIO_STRIDE
from pavdit.nn.recompute import Recomputable
from pavdit.ops import axis_attention

Resample = Literal["down", "up"] | None


def begin_at_zero(layer: nn.Module) -> nn.Module:
    """Zero a layer that ends a residual branch, so that the branch begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def frames_of(volume: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` to ``(B T, C, H, W)``."""
    return volume.transpose(1, 2).flatten(0, 1)


def volume_of(frames: Tensor, batch: int) -> Tensor:
    """``(B T, C, H, W)`` to ``(B, C, T, H, W)``."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


class VideoConv(nn.Module):
    """3 x 3 over a frame, then 3 over time."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.time = nn.Conv2d(out_width, out_width, (3, 1), padding=(1, 0))  # rows are frames

    def forward(self, volume: Tensor) -> Tensor:
        volume = volume_of(self.space(frames_of(volume)), volume.shape[0])
        return self.time(volume.flatten(3)).unflatten(3, volume.shape[3:])


class VideoPointwise(nn.Linear):
    """A 1 x 1 x 1 convolution."""

    def forward(self, volume: Tensor) -> Tensor:
        return super().forward(volume.movedim(1, -1)).movedim(-1, 1)


def resample_video(volume: Tensor, way: Resample) -> Tensor:
    """Halve or double rows and columns: means, or nearest."""
    if way is None:
        return volume
    frames = frames_of(volume)
    frames = avg_pool2d(frames, 2) if way == "down" else interpolate(frames, scale_factor=2.0)
    return volume_of(frames, volume.shape[0])


def resample_audio(audio: Tensor, way: Resample) -> Tensor:
    """A quarter of the samples or four times as many: means, or nearest."""
    if way is None:
        return audio
    return (
        avg_pool1d(audio, AUDIO_STRIDE)
        if way == "down"
        else interpolate(audio, scale_factor=float(AUDIO_STRIDE))
    )


class SelfAttention(nn.Module):
    """What attention over pixels, frames and samples share: norm, queries, keys and values, projection."""

    def __init__(self, width: int, num_heads: int, groups: int) -> None:
        super().__init__()
        self.heads = num_heads, width // num_heads
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = begin_at_zero(nn.Linear(width, width))

    def attend(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, N, C)``, normalised, to what is added to them."""
        q, k, v = (
            part.transpose(1, 2) for part in self.qkv(tokens).unflatten(-1, (3, *self.heads)).unbind(2)
        )
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SpaceAttention(SelfAttention):
    """Pixels of a frame attend to each other."""

    def forward(self, volume: Tensor) -> Tensor:
        frames = frames_of(volume)
        added = self.attend(self.norm(frames).flatten(2).transpose(1, 2))  # (B T, H W, C)
        added = added.unflatten(1, frames.shape[2:]).movedim(-1, 1)
        return volume + volume_of(added, volume.shape[0])


class TimeAttention(SelfAttention):
    """A pixel attends to itself in other frames; it is normalised over them, with no other pixel."""

    def forward(self, volume: Tensor) -> Tensor:
        pixels = volume.movedim(1, -1)  # (B, T, H, W, C)
        grouped = pixels.unflatten(-1, (self.norm.num_groups, -1)).float()
        variance, mean = torch.var_mean(grouped, dim=(1, -1), correction=0, keepdim=True)
        grouped = (grouped - mean) * torch.rsqrt(variance + self.norm.eps)
        tokens = (grouped.flatten(-2) * self.norm.weight + self.norm.bias).to(volume.dtype)
        qkv = self.qkv(tokens).unflatten(-1, (3, *self.heads))  # (B, T, H, W, 3, A, E)
        return volume + self.out(axis_attention(qkv, 1).flatten(-2)).movedim(-1, 1)


class SampleAttention(SelfAttention):
    """Samples of the sound attend to each other."""

    def forward(self, audio: Tensor) -> Tensor:
        return audio + self.attend(self.norm(audio).transpose(1, 2)).transpose(1, 2)


class ResBlock(Recomputable):
    """One residual block of each stream, with one embedding of the time.

    Args:
        in_width: channels that come.
        out_width: channels that go.
        time_dim: of the time's embedding.
        groups: of the normalisations.
        dropout: before the last convolution.
        dilation: of the sound's convolution.
        resample: what it does to the resolution, behind its convolution.
        video_heads: heads of attention over space, then time; 0: there is none.
        audio_heads: heads of attention over samples; 0: there is none.
    """

    draws = True

    def __init__(
        self,
        in_width: int,
        out_width: int,
        time_dim: int,
        groups: int,
        dropout: float,
        dilation: int,
        *,
        resample: Resample = None,
        video_heads: int = 0,
        audio_heads: int = 0,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.time = nn.Linear(time_dim, 2 * out_width)
        self.dropout = nn.Dropout(dropout)
        self.video_norm_in, self.audio_norm_in = (
            nn.GroupNorm(groups, in_width),
            nn.GroupNorm(groups, in_width),
        )
        self.video_in = VideoConv(in_width, out_width)
        self.audio_in = nn.Conv1d(in_width, out_width, 3, padding=dilation, dilation=dilation)
        self.video_norm_out = nn.GroupNorm(groups, out_width)
        self.audio_norm_out = nn.GroupNorm(groups, out_width)
        self.video_out = begin_at_zero(VideoPointwise(out_width, out_width))
        self.audio_out = begin_at_zero(nn.Conv1d(out_width, out_width, 1))
        same = in_width == out_width
        self.video_skip = nn.Identity() if same else VideoPointwise(in_width, out_width)
        self.audio_skip = nn.Identity() if same else nn.Conv1d(in_width, out_width, 1)
        self.space = SpaceAttention(out_width, video_heads, groups) if video_heads else None
        self.frames = TimeAttention(out_width, video_heads, groups) if video_heads else None
        self.samples = SampleAttention(out_width, audio_heads, groups) if audio_heads else None

    def forward(self, video: Tensor, audio: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Volume, sound, and the embedding of the time ``(B, time_dim)``."""
        return self.run(self._forward, video, audio, time)

    def _forward(self, video: Tensor, audio: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.time(silu(time))[..., None].chunk(2, dim=1)  # (B, C, 1)
        h = resample_video(self.video_in(silu(self.video_norm_in(video))), self.resample)
        h = self.video_norm_out(h) * (1 + scale[..., None, None]) + shift[..., None, None]
        video = self.video_skip(resample_video(video, self.resample)) + self.video_out(self.dropout(silu(h)))
        h = resample_audio(self.audio_in(silu(self.audio_norm_in(audio))), self.resample)
        h = self.audio_norm_out(h) * (1 + scale) + shift
        audio = self.audio_skip(resample_audio(audio, self.resample)) + self.audio_out(self.dropout(silu(h)))
        if self.space is not None and self.frames is not None:
            video = self.frames(self.space(video))
        if self.samples is not None:
            audio = self.samples(audio)
        return video, audio
