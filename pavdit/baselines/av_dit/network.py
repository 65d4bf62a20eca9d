"""AV-DiT: a frozen image DiT that makes films and their sound (Wang et al., arXiv 2406.07686, 2).

Where the paper is silent: the temporal adapter and the fusion read what the frozen adaLN of the attention
gives and are gated by its gate; what the fusion adds has gates of its own that begin at zero, so that the
network begins as the image DiT on every frame; the sound's head predicts the noise alone, for no loss is on
the variances; the positions of the sound are sin-cos of time and frequency.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pavdit.baselines.av_dit.config import AdaptationConfig, AVDiTConfig
from pavdit.baselines.av_dit.dit import Attention, Block, ImageDiT, with_positions
from pavdit.config import AdapterShape
from pavdit.nn.adapters import Adapters, BottleneckMLP, TemporalAdapter, adapt
from pavdit.nn.attention import begin_at_zero
from pavdit.nn.recompute import Recomputable
from pavdit.ops import adaln_modulate
from pavdit.stdit.block import add_gated
from pavdit.stdit.embed import PATCH, patchify, unpatchify

PROJECTIONS = ("q", "k", "v", "proj")


class BlockAdapters(nn.Module):
    """What is trained of one block."""

    def __init__(self, block: Block, config: AdaptationConfig) -> None:
        super().__init__()
        attention = block.attention
        width = attention.proj.out_features
        low_rank = AdapterShape(rank=config.rank, targets=PROJECTIONS)
        self.temporal = TemporalAdapter(width, attention.num_heads, config.temporal_ratio)
        self.audio = Adapters(attention, low_rank)
        self.fusion = Adapters(attention, low_rank)
        self.bottleneck = BottleneckMLP(width, config.bottleneck_ratio)
        self.video_gate = nn.Parameter(torch.zeros(width))
        self.audio_gate = nn.Parameter(torch.zeros(width))


class AVDiTAdapters(nn.Module):
    """All that is trained: 160.2 M parameters beside DiT-XL/2.

    Args:
        image: the DiT; only its sizes count.
        config: sizes.
    """

    def __init__(self, image: ImageDiT, config: AVDiTConfig) -> None:
        super().__init__()
        width, patch = config.dit.width, config.sound.channels * PATCH * PATCH
        self.embed = nn.Linear(patch, width)
        self.final = nn.Linear(width, patch)
        begin_at_zero(self.final)
        self.blocks = nn.ModuleList(
            BlockAdapters(cast(Block, block), config.adaptation) for block in image.blocks
        )


class AVDiTBlock(nn.Module):
    """A frozen block of the DiT between its adapters, with the parameters of both."""

    def __init__(self, image: Block, adapters: BlockAdapters) -> None:
        super().__init__()
        self.image, self.adapters = image, adapters
        self.audio_attention: Attention = adapt(image.attention, [(adapters.audio, 1.0)])
        self.fusion_attention: Attention = adapt(image.attention, [(adapters.fusion, 1.0)])

    def forward(self, video: Tensor, audio: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of frames ``(B, T, N_v, D)`` and of the sound ``(B, 1, N_a, D)`` to the same."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.image.modulate(condition)
        own = self.adapters
        video = add_gated(video, self.image.attention(adaln_modulate(video, shift, scale)), gate)
        video = add_gated(video, own.temporal(adaln_modulate(video, shift, scale)), gate)
        audio = add_gated(audio, self.audio_attention(adaln_modulate(audio, shift, scale)), gate)

        pooled = adaln_modulate(video, shift, scale).mean(1, keepdim=True)  # (B, 1, N_v, D)
        both = torch.cat([pooled, adaln_modulate(audio, shift, scale)], dim=2)  # (B, 1, N_v + N_a, D)
        sizes = [pooled.shape[2], audio.shape[2]]
        for_video, for_audio = self.fusion_attention(both).split(sizes, dim=2)
        video = add_gated(video, (own.video_gate * for_video).expand_as(video), gate)
        audio = add_gated(audio, own.audio_gate * for_audio, gate)

        video = add_gated(video, self.image.mlp(adaln_modulate(video, shift_mlp, scale_mlp)), gate_mlp)
        h = adaln_modulate(audio, shift_mlp, scale_mlp)
        return video, add_gated(audio, self.image.mlp(h) + own.bottleneck(h), gate_mlp)


class AVDiT(Recomputable):
    """The noise in both streams.

    Args:
        image: the frozen DiT.
        adapters: what is trained.
    """

    blocks: nn.ModuleList

    def __init__(self, image: ImageDiT, adapters: AVDiTAdapters) -> None:
        super().__init__()
        self.image, self.adapters = image, adapters
        self.blocks = nn.ModuleList(
            AVDiTBlock(cast(Block, block), cast(BlockAdapters, own))
            for block, own in zip(image.blocks, adapters.blocks, strict=True)
        )

    def forward(self, video: Tensor, audio: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents to their noise.

        Args:
            video: ``(B, C, T, rows, columns)``.
            audio: ``(B, C_a, 1, rows, columns)``, rows in time, columns in frequency.
            t: ``(B,)``, times from 0 (data) on.

        Returns:
            Noise of both, in their shapes.
        """
        image, own = self.image, self.adapters
        condition = image.condition(t)  # (B, D)
        x = with_positions(image.embed(patchify(video)), video)  # (B, T, N_v, D)
        y = with_positions(own.embed(patchify(audio)), audio)  # (B, 1, N_a, D)
        for block in self.blocks:
            x, y = self.run(block, x, y, condition)
        noise = unpatchify(image.final(image.last(x, condition)), video.shape[-2])[:, : image.channels]
        return noise, unpatchify(own.final(image.last(y, condition)), audio.shape[-2])
