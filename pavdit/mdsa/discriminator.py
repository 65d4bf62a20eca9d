"""The second stage's critics: patch discriminators (PatchGAN, arXiv 1611.07004) of both streams."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from pavdit.config import ModelConfig
from pavdit.mdsa.loss import frame_of_each

KERNEL = 4
PADDING = 2  # with it every size from 1 on has an output, whatever the depth
SLOPE = 0.2
INITIAL_STD = 0.02
CHANNELS_PER_GROUP = 8
WIDEST = 8
"""Channels grow from `width` to at most this many times as many."""


class Judgement(NamedTuple):
    """What a discriminator says of B inputs.

    Attributes:
        logits: ``(B, 1, …)``, one per patch; above 0 it takes the patch for real.
        features: outputs of the layers below, ``(B, channels, …)`` each, for feature matching.
    """

    logits: Tensor
    features: tuple[Tensor, ...]


class PatchDiscriminator(nn.Module):
    """`depth` convolutions of stride 2, one of stride 1, then one logit per patch.

    Normalised per sample (GroupNorm) where PatchGAN has BatchNorm: a clip is judged the same whatever is
    beside it, so a missing stream touches no other clip, and parts of a batch or ranks need not meet.

    Args:
        dimensions: 2 for pictures, 3 for volumes, which are halved along time too.
        in_channels: of the input.
        width: channels of the first layer, a multiple of 8; the next have twice, four and at most eight times
            as many.
        depth: layers of stride 2.
    """

    def __init__(self, dimensions: int, in_channels: int, width: int, depth: int) -> None:
        super().__init__()
        conv: type[nn.Module] = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        widths = [in_channels, *(width * min(2**i, WIDEST) for i in range(depth + 1))]
        self.convs = nn.ModuleList(
            conv(inner, outer, KERNEL, 2 if i < depth else 1, PADDING)
            for i, (inner, outer) in enumerate(zip(widths, widths[1:], strict=False))
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels) if i else nn.Identity()
            for i, channels in enumerate(widths[1:])
        )
        self.to_logit = conv(widths[-1], 1, KERNEL, 1, PADDING)
        for layer in (*self.convs, self.to_logit):
            nn.init.normal_(layer.weight, std=INITIAL_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Judgement:
        features = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = leaky_relu(norm(conv(x)), SLOPE)
            features.append(x)
        return Judgement(self.to_logit(x), tuple(features))


class Discriminators(nn.Module):
    """All of them (DESIGN 2): video by frame (2-D) and as a whole (3-D), sound by its spectrogram (2-D).

    The mel images of a clip side by side are its spectrogram, and that is what is judged: one image alone is
    narrower than a patch, and what happens between frames would be nobody's business.

    Args:
        config: a system; `mdsa.discriminator` has their size.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.mdsa.discriminator
        if config.mdsa.has("video"):
            self.frame = PatchDiscriminator(2, 3, size.width, size.depth)
            self.clip = PatchDiscriminator(3, 3, size.width, size.depth)
        if config.mdsa.has("audio"):
            self.spectrogram = PatchDiscriminator(2, 1, size.width, size.depth)

    def forward(self, video: Tensor | None, audio: Tensor | None, frames: Tensor) -> dict[str, Judgement]:
        """Judge clips.

        Args:
            video: ``(B, 3, T, H, W)``; None where the system has no such stream.
            audio: ``(B, 1, T, M, L)``, likewise.
            frames: ``(B,)``, the frame of each clip that is judged alone.

        Returns:
            Name of the discriminator to its judgement.
        """
        judged: dict[str, Judgement] = {}
        if video is not None:
            judged |= {"frame": self.frame(frame_of_each(video, frames)), "clip": self.clip(video)}
        if audio is not None:
            judged["spectrogram"] = self.spectrogram(audio.movedim(2, 3).flatten(3))  # (B, 1, M, T*L)
        return judged
